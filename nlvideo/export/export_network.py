"""The network of an exported model: one graph from pixels to probabilities, of operators that other programs know."""

import copy

import torch
from torch import nn

from nlvideo.modeling import VideoClassifier
from nlvideo.modeling.nonlocal_block import NonLocalBlock

# How a non-local block is computed in an exported graph: exact, and made of plain products, softmax and ReLU. "fused"
# becomes one attention operator; of the Gaussian form, whose keys and values differ in channels, it would be a loop
# over blocks of rows, and "sorted" needs a binary search, which ONNX has not.
ALGORITHMS = {
    "gaussian": "dense",
    "embedded_gaussian": "fused",
    "dot_product": "reordered",
    "concatenation": "dense",
}


class ClipScorer(nn.Module):
    """Probabilities of clips, with the pixels' normalisation and without anything about videos."""

    def __init__(self, model: nn.Module) -> None:
        """Copy the parts of a model to the CPU, in eval mode, with algorithms that can be exported; see `ALGORITHMS`.

        Args:
            model: left as it is.

        Raises:
            ValueError: not a `VideoClassifier`.
        """
        super().__init__()
        if not isinstance(model, VideoClassifier):
            name = type(model).__name__
            raise ValueError(f"MODEL.META_ARCHITECTURE: got {name!r}, allowed for an export: 'VideoClassifier'")
        model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        # torch.export stores weights of another memory layout twice.
        model.to(memory_format=torch.contiguous_format)
        self.backbone, self.head, self.average = model.backbone, model.head, model.average
        self.register_buffer("pixel_mean", model.pixel_mean)
        self.register_buffer("pixel_std", model.pixel_std)
        for block in self.modules():
            if isinstance(block, NonLocalBlock):
                block.algorithm = ALGORITHMS[block.pairwise]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, T, H, W) -> probabilities (N, K)."""
        features = self.backbone((clips.float() - self.pixel_mean) / self.pixel_std)
        last = list(features.values())[-1]
        if self.average == "softmax":
            return self.head(last)
        return self.head.activate(self.head.logits(last).mean(dim=1))


def trace(model: nn.Module, clips: torch.Tensor) -> torch.export.ExportedProgram:
    """Return the graph of a model for clips of one size, in batches of any size.

    Args:
        model: a `VideoClassifier`, left as it is.
        clips: uint8 (N, 3, T, H, W) with N above 1; T, H and W are those of the graph. The pixels do not matter.

    Raises:
        ValueError: another kind of model.
    """
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(ClipScorer(model), (clips.cpu(),), dynamic_shapes={"clips": {0: batch}})
    # They would be in the file, many megabytes of the user's video.
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            # Lines of source with their paths on this machine, which are private.
            node.meta.pop("stack_trace", None)
    return program
