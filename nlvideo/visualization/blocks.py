"""Non-local blocks of a network: finding one by name, what goes into it, and the stride of its map."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from nlvideo.errors import LookupFailed
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
from nlvideo.utils.analysis import run_until, without_norms
from nlvideo.visualization.grid import Grid, Size

Preprocess = Callable[[torch.Tensor], torch.Tensor]

# A length that every usual stride divides: where a clip grows by it, the map grows by _LONGER / stride.
_LONGER = 192
_DOES_NOT_RUN = "the non-local block does not run when the network sees this clip"


def short_name(name: str) -> str:
    """A block's name as a config gives its place: ``backbone.res3.nl1`` -> ``res3.1``.

    A block of ``insert_nonlocal`` has the name of the module that it follows: ``layer3.4.nonlocal_block`` ->
    ``layer3.4``.
    """
    name = name.removeprefix("backbone.").removesuffix(".nonlocal_block")
    stage, _, last = name.rpartition(".")
    return f"{stage}.{last[2:]}" if stage and last.startswith("nl") and last[2:].isdecimal() else name


def find_block(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """A non-local block of a network, and its short name.

    Args:
        model: any network.
        name: as in ``model.named_modules()``, or short (``res3.1``). None: the first block, whose map is the finest.

    Raises:
        LookupFailed: there is no such block.
        ValueError: the network has no block at all.
    """
    blocks = nonlocal_modules(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no non-local block: there is no attention to show")
    if name is None:
        name = next(iter(blocks))
    for full, block in blocks.items():
        if name in (full, short_name(full)):
            return short_name(full), block
    raise LookupFailed(f"no non-local block {name!r} in the network. Allowed: {', '.join(map(short_name, blocks))}")


def block_input(model: nn.Module, block: nn.Module, video: torch.Tensor, preprocess: Preprocess | None) -> torch.Tensor:
    """Return the input of a block for a clip: (1, C', T', H', W'), or (T, C', H', W') in a network of images.

    The model runs in eval mode as far as the block; its modules keep the mode that they have.

    Args:
        model: any network.
        block: a block of it.
        video: (C, T, H, W).
        preprocess: as in `attend`.

    Raises:
        ValueError: the block looks at sequences, or does not run in the network's forward pass.
    """
    seen = _run_to(model, block, _network_input(model, block, video, preprocess))
    if seen is None:
        raise ValueError(_DOES_NOT_RUN)
    return seen


def decision_gradient(
    model: nn.Module, block: nn.Module, video: torch.Tensor, preprocess: Preprocess | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a block's input, its output, and the gradient of the decision with respect to its output.

    All have one shape. The gradient is that of how far the best class is ahead of the second. It is 0 where the network
    returns no scores (N, K). For arguments and errors see `block_input`; the model runs to its end.
    """
    seen: list[torch.Tensor] = []

    def cut(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """Begin the graph after the block."""
        torch.set_grad_enabled(True)
        seen[:] = inputs[0], output.detach().requires_grad_()
        return seen[1]

    inputs = _on_device_of(model, _network_input(model, block, video, preprocess))
    handle = block.register_forward_hook(cut)
    try:
        with torch.no_grad(), evaluating(model):
            scores = _forward(model)(inputs)
    finally:
        handle.remove()
    if not seen:
        raise ValueError(_DOES_NOT_RUN)
    x, z = seen
    if not (isinstance(scores, torch.Tensor) and scores.dim() == 2 and scores.requires_grad):
        return x, z.detach(), torch.zeros_like(z)
    with torch.enable_grad():
        scores = scores.float().mean(dim=0)
        if 0 <= scores.min() and scores.max() <= 1:
            # The gradient of a probability near 1 is lost in rounding; that of its logarithm is not.
            scores = scores.clamp(min=1e-30).log()
        best = scores.topk(min(2, len(scores))).values
        return x, z.detach(), torch.autograd.grad(best[0] - best[1:].sum(), z)[0]


def query_grid(
    model: nn.Module, block: nn.Module, video: torch.Tensor, x: torch.Tensor, preprocess: Preprocess | None
) -> Grid:
    """Return the grid of a block's queries, for a video (C, T, H, W) and the block's input ``x`` for it.

    The stride is measured, which is exact for any convolutions, pools and paddings before the block: a copy of the
    network on the meta device (no memory, no arithmetic) tells how much the map grows where the clip grows. A network
    that only takes clips of one size gets clip / map as its stride.
    """
    size, clip = _size(x), tuple(video.shape[1:])
    longer = _longer_map(model, block, video, preprocess)
    strides = []
    for axis, (cells, length) in enumerate(zip(size, clip, strict=True)):
        growth = longer[axis] - cells if longer else 0
        is_batch = x.dim() == 4 and axis == 0  # a network of images gets the frames as a batch
        strides.append(1.0 if is_batch else _LONGER / growth if growth > 0 else length / cells)
    return Grid(size, tuple(strides), clip)


def _longer_map(model: nn.Module, block: nn.Module, video: torch.Tensor, preprocess: Preprocess | None) -> Size | None:
    name = next(name for name, module in model.named_modules() if module is block)
    try:
        on_meta = without_norms(copy.deepcopy(model).to("meta"))
        for residual in nonlocal_modules(on_meta).values():
            # They keep the shape, and are slow at many positions even where nothing is computed.
            residual.forward = nn.Identity().forward
        channels, *clip = video.shape
        longer = torch.empty(channels, *(length + _LONGER for length in clip), dtype=video.dtype, device="meta")
        there = on_meta.get_submodule(name)
        x = _run_to(on_meta, there, _network_input(on_meta, there, longer, preprocess))
    except Exception:  # Whatever a foreign network raises, it does not take a longer clip.
        return None
    return None if x is None else _size(x)


def _network_input(
    model: nn.Module, block: nn.Module, video: torch.Tensor, preprocess: Preprocess | None
) -> torch.Tensor:
    dim = getattr(block, "dim", 3)
    if dim == 1:
        raise ValueError("the non-local block looks at sequences: there are no frames to draw its attention on")
    clips = video[None] if dim == 3 else video.transpose(0, 1)
    if preprocess is not None:
        return preprocess(clips)
    return clips if hasattr(model, "forward_clips") or clips.is_floating_point() else clips.float() / 255


def _run_to(model: nn.Module, block: nn.Module, inputs: torch.Tensor) -> torch.Tensor | None:
    inputs = _on_device_of(model, inputs)
    with torch.no_grad(), evaluating(model):
        seen = run_until(block, lambda: _forward(model)(inputs), before=True)[1]
    assert seen is None or isinstance(seen, torch.Tensor)
    return seen


def _on_device_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    parameter = next(model.parameters(), None)
    return inputs if parameter is None else inputs.to(parameter.device)


def _forward(model: nn.Module) -> Callable[[torch.Tensor], object]:
    return getattr(model, "forward_clips", model)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while; then every module gets back the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _size(x: torch.Tensor) -> Size:
    return tuple(x.shape[2:]) if x.dim() == 5 else (x.shape[0], *x.shape[2:])
