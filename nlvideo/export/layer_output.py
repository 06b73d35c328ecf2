"""What any layer of a model gives for a clip."""

import torch
from torch import nn

from nlvideo.errors import LookupFailed
from nlvideo.utils.analysis import run_until
from nlvideo.utils.messages import did_you_mean, one_of

POOLS = ("avg", "none")


class LayerOutput:
    """Runs a model up to one of its layers.

    Example:
        >>> LayerOutput(model, "res4.1", pool="avg")(clips).shape
        torch.Size([3, 1024])
    """

    def __init__(self, model: nn.Module, layer: str, pool: str = "avg"):
        """Find the layer.

        Args:
            model: as the `META_ARCH` registry describes, in eval mode.
            layer: name of a sub-module as in ``model.named_modules()``; those of the backbone also without "backbone.".
            pool: "avg" averages a map over time and space, "none" keeps its positions.

        Raises:
            LookupFailed: no such layer; the message lists what is close.
            ValueError: an unknown pool.
        """
        if pool not in POOLS:
            raise one_of("--pool", pool, POOLS)
        modules = {name: module for name, module in model.named_modules() if name}
        self.model, self.pool = model, pool
        self.layer = layer if layer in modules else f"backbone.{layer}"
        if self.layer not in modules:
            short = [name.removeprefix("backbone.") for name in modules]
            hint = did_you_mean(layer, [*short, *modules]) or "no name is close."
            top = ", ".join(name for name in short if "." not in name)
            raise LookupFailed(f"--layer: no layer {layer!r}: {hint} The largest are {top}")
        self._module = modules[self.layer]

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, T, H, W) -> float32 (N, C), or (N, C, T', H', W') of a map without pooling, on the CPU.

        Raises:
            ValueError: the layer does not run at test, or gives anything but a tensor with a row for each clip.
        """
        reached, output = run_until(self._module, lambda: self.model([{"video": clips, "video_id": ""}]))
        if not reached:
            raise ValueError(f"--layer: {self.layer} does not run at test, allowed: one that does, e.g. 'res5'")
        return self._pooled(output, len(clips)).float().cpu()

    def _pooled(self, output: object, num_clips: int) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.dim() < 2 or len(output) != num_clips:
            given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise ValueError(f"--layer: {self.layer} gives {given}, allowed: a tensor with a row per clip, e.g. 'res5'")
        if self.pool == "none" or output.dim() == 2:
            return output.contiguous()
        if output.dim() != 5:
            shape = tuple(output.shape)
            raise ValueError(f"--pool: got 'avg', allowed for {self.layer}, which gives {shape} and no map: 'none'")
        return output.float().mean(dim=(2, 3, 4))
