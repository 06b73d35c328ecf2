"""An exported model: one graph from pixels to probabilities, and in the same file what its user needs to know."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.layers import fuse_for_inference
from nlvideo.modeling import VideoClassifier
from nlvideo.modeling.nonlocal_block import NonLocalBase, NonLocalBlock
from nlvideo.utils.messages import check_one_of

FORMATS = ("pt2", "onnx")
#: name of the JSON text in either file
ENTRY = "nlvideo.json"
# How a non-local block is computed in an exported graph: exact, and made of plain products, softmax and ReLU. "fused"
# becomes one attention operator; of the Gaussian form, whose keys and values differ in channels, it would be a loop
# over blocks of rows. "sorted" needs a binary search, which ONNX does not have.
ALGORITHMS = {"gaussian": "dense", "embedded_gaussian": "fused", "dot_product": "reordered", "concatenation": "dense"}


def view_recipe(cfg: CfgNode) -> dict[str, Any]:
    """Return how a test makes clips of a video, and one score of them, as plain values; see docs/export.md.

    Files of features and exported models carry it, for use without nlvideo.
    """
    return {
        "mapper": cfg.DATALOADER.MAPPER,
        "clip_sampler": cfg.TEST.CLIP_SAMPLER,
        "num_clips": cfg.TEST.NUM_CLIPS,
        "num_frames": cfg.INPUT.NUM_FRAMES,
        "frame_stride": cfg.INPUT.FRAME_STRIDE,
        "fps": cfg.INPUT.FPS,
        "short_video": cfg.INPUT.SHORT_VIDEO,
        "short_side": cfg.TEST.SHORT_SIDE,
        "crop_size": cfg.TEST.CROP_SIZE,
        "num_crops": cfg.TEST.NUM_CROPS,
        "flip": cfg.TEST.FLIP,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "average": cfg.TEST.AVERAGE,
        "activation": cfg.MODEL.HEAD.LOSS,
    }


class ClipScorer(nn.Module):
    """Makes probabilities of single clips. It normalises the pixels."""

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(self, model: nn.Module) -> None:
        """Copy the parts of a model to the CPU, in eval mode, with norms folded as `fuse_for_inference` does and with
        algorithms that can be exported; see `ALGORITHMS`.

        Raises:
            ValueError: not a `VideoClassifier`.
        """
        super().__init__()
        if not isinstance(model, VideoClassifier):
            name = type(model).__name__
            raise ValueError(f"MODEL.META_ARCHITECTURE: got {name!r}, allowed for an export: 'VideoClassifier'")
        model = cast(VideoClassifier, copy.deepcopy(fuse_for_inference(model)))
        model.cpu().eval().requires_grad_(False)
        # torch.export stores weights of another memory layout twice.
        model.to(memory_format=torch.contiguous_format)
        self.backbone, self.head, self.average = model.backbone, model.head, model.average
        self.register_buffer("pixel_mean", model.get_buffer("pixel_mean"))
        self.register_buffer("pixel_std", model.get_buffer("pixel_std"))
        for block in self.modules():
            if isinstance(block, NonLocalBlock) and block.relative is None:
                block.algorithm = ALGORITHMS[block.pairwise]
            elif isinstance(block, NonLocalBase) and hasattr(block, "algorithm"):
                block.algorithm = "dense"

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, T, H, W) -> probabilities (N, K)."""
        features = self.backbone((clips.float() - self.pixel_mean) / self.pixel_std)
        last = list(features.values())[-1]
        if self.average == "softmax":
            return self.head(last)
        # The contract of HEAD: it has these two methods if TEST.AVERAGE is "logits".
        head: Any = self.head
        return head.activate(head.logits(last).mean(dim=1))


def trace(model: nn.Module, clips: torch.Tensor) -> torch.export.ExportedProgram:
    """Return the graph of a `VideoClassifier` for clips of one size, in batches of any size.

    The clips, uint8 (N, 3, T, H, W) with N above 1, give the size of the graph. Their pixels do not matter.

    Raises:
        ValueError: another kind of model.
    """
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(ClipScorer(model), (clips.cpu(),), dynamic_shapes={"clips": {0: batch}})
    # Otherwise the file would hold many megabytes of the user's video.
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            # Lines of source with their paths on this machine, which are private.
            node.meta.pop("stack_trace", None)
    return program


def check_packages(format: str) -> None:
    """Make sure that a format can be written and read here.

    Raises:
        ImportError: a package is missing.
        ValueError: an unknown format.
    """
    check_one_of("format", format, FORMATS)
    if format == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ImportError(f"format 'onnx' needs {error.name}: pip install 'nlvideo[export]'") from None


def write_export(program: torch.export.ExportedProgram, path: str, format: str, recipe: dict[str, Any]) -> None:
    """Write a traced graph, with one input ``clips`` and one output ``scores``, and the recipe, plain values."""
    text = json.dumps(recipe, ensure_ascii=False)
    if format == "pt2":
        # Not directly into the file: if the disk is full, PyTorch does not say so and aborts the process.
        torch.export.save(program, buffer := io.BytesIO(), extra_files={ENTRY: text})
        Path(path).write_bytes(buffer.getbuffer())
        return
    onnx_program = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["clips"], output_names=["scores"],
        dynamic_shapes={"clips": {0: "batch"}},
    )  # fmt: skip
    assert onnx_program is not None  # it is None only for the exporter of TorchScript
    for node in onnx_program.model.graph:
        # Lines of source with their paths on this machine, which are private.
        node.metadata_props.clear()
    onnx_program.model.metadata_props[ENTRY] = text
    onnx_program.save(path, external_data=False)


def read_export(path: str, format: str) -> tuple[Callable[[torch.Tensor], torch.Tensor], dict[str, Any]]:
    """Read an exported model of one of `FORMATS`, with onnxruntime or torch alone.

    Returns:
        uint8 (N, 3, T, H, W) -> float32 (N, K), probabilities; and what travels in the file, see docs/export.md.
    """
    if format == "pt2":
        texts = {ENTRY: ""}
        # Opened here, because PyTorch expects that a path ends in .pt2.
        with open(path, "rb") as file:
            network = torch.export.load(file, extra_files=texts).module()
        return torch.no_grad()(network), json.loads(texts[ENTRY])
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def _run(clips: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(session.run(["scores"], {"clips": clips.numpy()})[0]))

    return _run, json.loads(session.get_modelmeta().custom_metadata_map[ENTRY])
