"""A table of the non-local blocks of a network: where they are, on which maps, at what cost, by which algorithm."""

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.modeling.nonlocal_block.build import NONLOCAL
from nlvideo.utils.analysis import count_gmacs, parameter_count, without_norms
from nlvideo.utils.console import create_table


def nonlocal_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The non-local blocks of any network, by name; they are found by their registered classes.

    A block that is a part of another one is not listed.
    """
    classes: Any = tuple(found for found in map(NONLOCAL.get, NONLOCAL) if isinstance(found, type))
    blocks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, classes) and not any(name.startswith(f"{outer}.") or not outer for outer in blocks):
            blocks[name] = module
    return blocks


def can_show_weights(block: nn.Module) -> bool:
    """Whether ``attention`` of a block has weights to show."""
    base, own = NonLocalBase, type(block)
    return hasattr(block, "attention") and not (
        issubclass(own, base) and own.weights is base.weights and own.attention is base.attention
    )


def describe_input(clip: torch.Tensor) -> str:
    """What an input of a network is called: "clip of 32x224x224" or "image of 800x1088"."""
    return f"{'clip' if clip.dim() == 5 else 'image'} of {'x'.join(map(str, clip.shape[2:]))}"


def nonlocal_table(model: nn.Module, inputs: torch.Tensor | tuple) -> list[dict[str, Any]]:
    """One row for each non-local block, in the order in which they run.

    Where there are blocks the network runs once, as a copy on the meta device, which computes nothing. A network that
    reads values, which meta tensors do not have, runs on the CPU instead.

    Args:
        model: any network; blocks are found by their registered classes.
        inputs: the argument of its ``forward_clips``, or of its forward where it has none; or a tuple of arguments.

    Returns:
        Rows with "name", "T x H x W" (the axes of the map, of one clip), "P x Q" (queries and keys that attend to each
        other, with the number of such sets per clip where there are several), "params", "gmacs" (multiply-adds of one
        clip by the dense algorithm, as papers count them) and "algorithm" (the one that runs in float32). "-" is what a
        block does not have.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    blocks = nonlocal_modules(model)
    if not blocks:
        return []
    try:
        seen = _inputs_of(blocks, model, inputs, "meta")
    except (NotImplementedError, RuntimeError):
        seen = _inputs_of(blocks, model, inputs, "cpu")
    return [{"name": name, **_describe(blocks[name], x[:1])} for name, x in seen.items()]


def format_nonlocal_table(rows: list[dict[str, Any]]) -> str:
    """The rows of ``nonlocal_table`` as text, with their sums, or "Non-local blocks: none"."""
    if not rows:
        return "Non-local blocks: none"
    total = {
        "name": f"{len(rows)} in all",
        "params": sum(row["params"] for row in rows),
        "gmacs": sum(row["gmacs"] for row in rows),
    }
    shown = [{key: _format(row.get(key, "")) for key in rows[0]} for row in ([*rows, total] if len(rows) > 1 else rows)]
    return "Non-local blocks:\n" + create_table(shown)


def _inputs_of(names: Iterable[str], model: nn.Module, inputs: tuple, device: str) -> dict[str, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}
    network = without_norms(copy.deepcopy(model).to(device).eval())
    for name in names:
        network.get_submodule(name).register_forward_hook(partial(_remember, seen, name))
    with torch.no_grad():
        run: Any = getattr(network, "forward_clips", network)
        run(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs))
    return seen


def _remember(seen: dict[str, torch.Tensor], name: str, block: nn.Module, args: tuple, output: torch.Tensor) -> None:
    seen[name] = args[0]


def _describe(block: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    pairs, algorithm = "-", getattr(block, "algorithm", "-")
    described: Any = block
    if hasattr(block, "attention_size"):
        num_sets, P, Q = described.attention_size(x.shape[2:])
        pairs = f"{P} x {Q}" if num_sets == 1 else f"{num_sets} x ({P} x {Q})"
    if hasattr(block, "algorithm_for"):
        algorithm = described.algorithm_for(x.shape[2:])
    return {
        "T x H x W": " x ".join(str(n) for n in x.shape[2:]),
        "P x Q": pairs,
        "params": parameter_count(block),
        "gmacs": count_gmacs(block, x),
        "algorithm": algorithm,
    }


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
