"""Where a network sees a class: Grad-CAM (Selvaraju et al., ICCV 2017) over space and time, for any backbone."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nlvideo.errors import LookupFailed
from nlvideo.utils.analysis import find_layer
from nlvideo.utils.messages import did_you_mean, some
from nlvideo.visualization.attention import as_frames
from nlvideo.visualization.blocks import Preprocess, map_in, measured_grid, network_input, run_to, run_with_graph
from nlvideo.visualization.grid import Grid, Size


@dataclass(frozen=True)
class ClassMaps:
    """What speaks for a class in the map of a layer: ``relu(sum_k a_k A_k)`` of the channels A_k of the map.

    Here a_k is the mean over the map of the gradient of the class's score.
    """

    layer: str  #: its name
    target: int  #: number of the class
    weights: torch.Tensor  #: float32 (V, T', H', W'), 0 or more, for each view
    frames: np.ndarray  #: uint8 (V, T, H, W, 3), as the network saw them
    grid: Grid  #: of the map


def grad_cam(
    model: nn.Module,
    video: torch.Tensor,
    target: str | int | None = None,
    layer: str | None = None,
    *,
    preprocess: Preprocess | None = None,
) -> ClassMaps:
    """Say which cells of a layer's map speak for a class. One pass forward, and one backward as far as the layer.

    The class's score is its logit. Where a head has no ``logits`` and returns probabilities that sum to 1, it is the
    logarithm of the class's probability, less the mean of all classes'.

    Args:
        model: a `VideoClassifier`, or any network that takes one tensor and returns scores (N, K). It runs in eval
            mode, on its own device, and is as before afterwards.
        video: (C, T, H, W), or several views of one video (V, C, T, H, W); pixels as in `attend`.
        target: a class by its name in ``model.classes`` or by number; None: the best one, averaged over the views.
        layer: name of a module (``res4`` or ``backbone.res4``). Its output is a map (N, C', T', H', W') or (N, T', H',
            W', C'), or cells in a row and their sizes: (N, L, C') and (T', H', W'). None: the map that the head reads,
            if it has several cells; otherwise the last such map of the network.
        preprocess: as in `attend`.

    Raises:
        ValueError: a layer without such a map, or one that the score does not depend on; a network without scores.
        LookupFailed: there is no such layer or class.
    """
    views = video[None] if video.dim() == 4 else video
    frames = np.stack([as_frames(view) for view in views])
    inputs = [network_input(model, view[None], preprocess) for view in views]
    clip = tuple(views.shape[2:])
    for name, module in _layers(model, layer, inputs[0], clip):
        found = _weights(model, name, module, inputs, target, clip, is_given=layer is not None)
        # A transformer whose class has a cell of its own reads nothing else of its last map.
        if found is not None and (layer is not None or found[1][0].numel() > 1):
            break
    else:
        raise ValueError(f"layer {name}: the score of the class does not depend on its map; choose an earlier layer")
    index, weights = found

    def _run(network: nn.Module, there: nn.Module, longer: torch.Tensor) -> Size | None:
        output = run_to(network, there, network_input(network, longer[None], preprocess), before=False)
        cells = as_map(map_in(output), output, tuple(longer.shape[1:]))
        return None if cells is None else tuple(cells.shape[2:])

    grid = measured_grid(model, module, views[0], tuple(weights.shape[1:]), _run)
    return ClassMaps(name.removeprefix("backbone."), index, weights, frames, grid)


def as_map(found: torch.Tensor | None, output: Any, clip: Size) -> torch.Tensor | None:
    """The tensor in a module's output, or its gradient, as a map of a clip (T, H, W); None where it is none.

    No map has more cells than the clip. A tuple tells the size of cells in a row; before them may be one more, that of
    the class. Channels are first or last. If both are possible, the cells are those that are closest to squares.

    Returns:
        (1, C', T', H', W').
    """
    if found is None or len(found) != 1:
        return None
    if found.dim() == 3 and isinstance(output, tuple) and len(output) > 1:
        size = tuple(map(int, output[1])) if isinstance(output[1], (tuple, list, torch.Size)) else ()
        if len(size) == 3 and found.shape[1] - math.prod(size) in (0, 1):
            return found[:, -math.prod(size) :].transpose(1, 2).unflatten(2, size)
    layouts = [found, found.permute(0, 4, 1, 2, 3)] if found.dim() == 5 else []
    fitting = [m for m in layouts if all(0 < a <= b for a, b in zip(m.shape[2:], clip, strict=True))]
    return min(fitting, default=None, key=lambda m: abs(math.log(m.shape[3] * clip[2] / (m.shape[4] * clip[1]))))


def _layers(model: nn.Module, layer: str | None, inputs: torch.Tensor, clip: Size) -> Iterator[tuple[str, nn.Module]]:
    """The layer that is named, or those that may be meant, the best first."""
    if layer is not None:
        yield find_layer(model, layer)
        return
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        stages: Any = getattr(backbone, "output_shape", dict)
        yield ["backbone", *stages()][-1], backbone
    found: dict[str, nn.Module] = {}

    def note(name: str, module: nn.Module, _: tuple, output: Any) -> None:
        """Note a module whose output is a map of several cells; the one that ran last is at the end."""
        cells = as_map(map_in(output), output, clip)
        if cells is not None and cells[0, 0].numel() > 1:
            found.pop(name, None)
            found[name] = module

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(functools.partial(note, name)).remove)
        run_to(model, model, inputs, before=False)
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer whose output is a map of the frames")
    yield from reversed(found.items())


def _scored(model: nn.Module, module: nn.Module, inputs: torch.Tensor) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    """The output of a layer, the tensor in it, the network's scores (1, K), and the logits (1, K) of these."""
    head: Any = getattr(model, "head", None)
    logits: list[torch.Tensor] = []
    with contextlib.ExitStack() as hooks:
        if hasattr(head, "logits"):
            handle = head.register_forward_hook(lambda head, args, _: logits.append(head.logits(args[0]).mean(dim=1)))
            hooks.callback(handle.remove)
        _, output, leaf, scores = run_with_graph(model, module, inputs)
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2 or len(scores) != 1:
        raise ValueError(f"{type(model).__name__} returns no scores (N, K) of N clips")
    given = scores.detach().float()
    if not logits and given.min() >= 0 and abs(float(given.sum()) - 1) < 1e-3:
        with torch.enable_grad():
            logs = scores.float().clamp(min=1e-30).log()
            logits = [logs - logs.mean(dim=1, keepdim=True)]
    return output, leaf, given, logits[0] if logits else scores


def _weights(
    model: nn.Module,
    name: str,
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    target: str | int | None,
    clip: Size,
    is_given: bool,
) -> tuple[int, torch.Tensor] | None:
    """The class and its weights (V, T', H', W'); None where the score does not depend on the layer.

    A layer that was given must have a map. Of another one without a map there are no weights.
    """
    outputs, leaves, scores, logits = zip(*(_scored(model, module, view) for view in inputs), strict=True)
    if any(as_map(leaf, output, clip) is None for leaf, output in zip(leaves, outputs, strict=True)):
        if not is_given:
            return None
        given = f"gives {tuple(leaves[0].shape)}" if leaves[0] is not None else "does not run, or gives no tensor"
        raise ValueError(f"layer: {name} {given}, allowed: a map of the frames, (N, C, T, H, W)")
    index = _class_number(target, torch.cat(scores).mean(dim=0), getattr(model, "classes", ()))
    with torch.enable_grad():
        total = torch.cat(logits)[:, index].sum()
    gradients = torch.autograd.grad(total, leaves, materialize_grads=True) if total.requires_grad else ()
    slopes = [as_map(*pair, clip) for pair in zip(gradients, outputs, strict=False)]
    if not any(slope is not None and bool(slope.any()) for slope in slopes):
        return None
    rows = []
    for output, leaf, slope in zip(outputs, leaves, slopes, strict=True):
        cells = as_map(leaf.detach(), output, clip)
        assert cells is not None and slope is not None
        rows.append((cells.float() * slope.float().mean(dim=(2, 3, 4), keepdim=True)).sum(dim=1)[0].relu())
    return index, torch.stack(rows).cpu()


def _class_number(target: str | int | None, scores: torch.Tensor, classes: Sequence[str]) -> int:
    if target is None:
        return int(scores.argmax())
    if isinstance(target, str) and target in classes:
        return list(classes).index(target)
    if isinstance(target, str) and not target.isdecimal():
        hint = did_you_mean(target, classes) or f"Allowed: {some(list(classes), 12) or 'a number'}"
        raise LookupFailed(f"no class {target!r}. {hint}")
    if not 0 <= int(target) < len(scores):
        raise LookupFailed(f"class: got {target}, allowed: 0 to {len(scores) - 1}, or a name")
    return int(target)
