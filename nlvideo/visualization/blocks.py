"""Non-local blocks of a network: finding one by name, what goes into it, and the stride of its map."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nlvideo.errors import LookupFailed
from nlvideo.evaluation.inference import eval_mode
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
from nlvideo.utils.analysis import run_until, without_norms
from nlvideo.visualization.grid import Grid, Size

Preprocess = Callable[[torch.Tensor], torch.Tensor]

# A length that every usual stride divides: where a clip grows by it, the map grows by _LONGER / stride.
_LONGER = 192
_DOES_NOT_RUN = "the non-local block does not run when the network sees this clip"


def short_name(name: str) -> str:
    """A block's name as a config gives its place: ``backbone.res3.nl1`` -> ``res3.1``.

    For a block of ``insert_nonlocal`` it is the module before it: ``layer3.4.nonlocal_block`` -> ``layer3.4``.
    """
    name = name.removeprefix("backbone.").removesuffix(".nonlocal_block")
    stage, _, last = name.rpartition(".")
    return f"{stage}.{last[2:]}" if stage and last.startswith("nl") and last[2:].isdecimal() else name


def find_block(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """The short name of a non-local block of any network, and the block.

    Its name is as in ``model.named_modules()``, or short (``res3.1``). None: the first block, whose map is the finest.

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

    The model runs in eval mode as far as the block; its modules keep the mode that they have. For arguments see
    `attend`.

    Raises:
        ValueError: the block looks at sequences, or does not run in the network's forward pass.
    """
    seen = run_to(model, block, network_input(model, _clips(block, video), preprocess), before=True)
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
    x, _, z, scores = run_with_graph(model, block, network_input(model, _clips(block, video), preprocess))
    if z is None:
        raise ValueError(_DOES_NOT_RUN)
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
    """Return the grid of a block's queries, for a video (C, T, H, W) and the block's input ``x`` for it."""

    def _run(network: nn.Module, there: nn.Module, longer: torch.Tensor) -> Size | None:
        seen = run_to(network, there, network_input(network, _clips(there, longer), preprocess), before=True)
        return None if seen is None else _size(seen)

    return measured_grid(model, block, video, _size(x), _run, frames_are_batch=x.dim() == 4)


def measured_grid(
    model: nn.Module,
    module: nn.Module,
    video: torch.Tensor,
    size: Size,
    run: Callable[[nn.Module, nn.Module, torch.Tensor], Size | None],
    frames_are_batch: bool = False,
) -> Grid:
    """Return the grid of a map of ``size`` cells, which a module has for a video (C, T, H, W).

    The stride is measured, which is exact for any convolutions, pools and paddings before the module: a copy of the
    network on the meta device (no memory, no arithmetic) tells how much the map grows where the clip grows. A network
    that only takes clips of one size gets clip / map as its stride.

    Args:
        model, module, video, size: as above.
        run: ``(network, module, clip) -> size`` of the map for another clip; None where it has none.
        frames_are_batch: as in a network of images.
    """
    clip = tuple(video.shape[1:])
    name = next(name for name, child in model.named_modules() if child is module)
    try:
        on_meta = without_norms(copy.deepcopy(model).to("meta"))
        for residual in nonlocal_modules(on_meta).values():
            # They keep the shape, and are slow at many positions even where nothing is computed.
            residual.forward = nn.Identity().forward
        shape = (len(video), *(length + _LONGER for length in clip))
        longer = run(on_meta, on_meta.get_submodule(name), torch.empty(shape, dtype=video.dtype, device="meta")) or size
    except Exception:  # Whatever a foreign network raises, it does not take a longer clip.
        longer = size
    growths = [after - before for before, after in zip(size, longer, strict=True)]
    strides = [_LONGER / g if g > 0 else n / cells for g, n, cells in zip(growths, clip, size, strict=True)]
    return Grid(size, (1.0, *strides[1:]) if frames_are_batch else tuple(strides), clip)


def _clips(block: nn.Module, video: torch.Tensor) -> torch.Tensor:
    """What a network with this block takes: (1, C, T, H, W), or its frames as a batch."""
    dim = getattr(block, "dim", 3)
    if dim == 1:
        raise ValueError("the non-local block looks at sequences: there are no frames to draw its attention on")
    return video[None] if dim == 3 else video.transpose(0, 1)


def network_input(model: nn.Module, clips: torch.Tensor, preprocess: Preprocess | None) -> torch.Tensor:
    """What a network gets of clips (N, C, T, H, W): they are divided by 255 where nothing else does it."""
    if preprocess is not None:
        return preprocess(clips)
    return clips if hasattr(model, "forward_clips") or clips.is_floating_point() else clips.float() / 255


def run_with_graph(model: nn.Module, module: nn.Module, inputs: torch.Tensor) -> tuple[Any, Any, Any, Any]:
    """Run a network in eval mode to its end, with a graph that begins at the output of one of its modules.

    Only what comes after the module takes memory for gradients. No parameter gets one: use ``torch.autograd.grad``.

    Returns:
        The module's first argument; its output; the tensor in that (`map_in`), as the leaf of the graph; and what the
        network returns. The first three are None where the module does not run, or gives no tensor.
    """
    seen: list[Any] = [None, None, None]

    def _cut(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        found = map_in(output)
        if found is None:
            return output
        torch.set_grad_enabled(True)
        seen[:] = inputs[0] if inputs else None, output, found.detach().requires_grad_()
        # Later modules may write into the copy, and into no leaf.
        return _exchanged(output, found, seen[2].clone())

    handle = module.register_forward_hook(_cut)
    try:
        with torch.no_grad(), eval_mode(model):
            scores = _call(model, inputs)
    finally:
        handle.remove()
    return seen[0], seen[1], seen[2], scores


def map_in(output: Any) -> torch.Tensor | None:
    """The tensor in what a module gave: of several stages, which are a dict, the last; of a tuple, the first."""
    if isinstance(output, dict) and output:
        output = list(output.values())[-1]
    if isinstance(output, tuple) and output:
        output = output[0]
    return output if isinstance(output, torch.Tensor) and output.is_floating_point() else None


def _exchanged(output: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """The output with another map in the place of `old`."""
    if isinstance(output, dict):
        return {name: _exchanged(value, old, new) for name, value in output.items()}
    if isinstance(output, tuple):
        return tuple(_exchanged(value, old, new) for value in output)
    return new if output is old else output


def run_to(model: nn.Module, block: nn.Module, inputs: torch.Tensor, before: bool) -> Any:
    """Run a network in eval mode to a module: its first argument, or its output; None where it does not run."""
    with torch.no_grad(), eval_mode(model):
        return run_until(block, lambda: _call(model, inputs), before=before)[1]


def _call(model: nn.Module, inputs: torch.Tensor) -> Any:
    """What a network returns; it runs on its own device."""
    parameter = next(model.parameters(), None)
    return getattr(model, "forward_clips", model)(inputs if parameter is None else inputs.to(parameter.device))


def _size(x: torch.Tensor) -> Size:
    return tuple(x.shape[2:]) if x.dim() == 5 else (x.shape[0], *x.shape[2:])
