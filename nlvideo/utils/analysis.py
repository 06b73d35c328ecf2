"""Parameters and multiply-adds of any module, as video papers report them; and running a part of a network.

Most papers print a multiply-add (MAC) as a FLOP. Only convolutions and matrix products count, also those inside
attention. Norms, activations and pools do not, as in the tables of papers.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from nlvideo.errors import LookupFailed
from nlvideo.utils.console import create_table
from nlvideo.utils.messages import did_you_mean

# The algorithms of a non-local block besides the dense one.
_ALGORITHMS = ("auto", "fused", "reordered", "folded", "sorted")


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters, each counted once if modules share it."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_gmacs(module: nn.Module, inputs: Any) -> float:
    """Return the multiply-adds of one evaluation forward, in units of 1e9.

    A copy of the module runs on the meta device, which takes no time. A module that reads values, which meta tensors
    do not have, runs on the CPU instead. Non-local blocks count as dense: how much their other algorithms save
    depends on shape and device.

    Args:
        module: left as it is.
        inputs: the argument of forward, or a tuple of arguments; tensors may be on any device.
    """
    return _count_macs(module, inputs)[""] / 1e9


def cost_table(module: nn.Module, inputs: Any, depth: int = 1) -> str:
    """Return a table of the parameters and multiply-adds of a module and its sub-modules.

    Args:
        module: left as it is.
        inputs: as in ``count_gmacs``.
        depth: 0 lists the module alone, 1 its children as well, and so on.

    Raises:
        ValueError: a negative depth.
    """
    if depth < 0:
        raise ValueError(f"depth: got {depth}, allowed: 0 or more")
    macs = _count_macs(module, inputs)
    rows = [
        {
            "module": name or type(module).__name__,
            "parameters": f"{parameter_count(child):,}",
            "GMACs": f"{macs.get(name, 0) / 1e9:.4g}",
        }
        for name, child in module.named_modules()
        if not name or name.count(".") < depth
    ]
    return create_table(rows)


def _count_macs(module: nn.Module, inputs: Any) -> dict[str, int]:
    """Return multiply-adds by the name of the module; "" is the whole."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    try:
        return _run(module, arguments, torch.device("meta"))
    except (NotImplementedError, RuntimeError):
        return _run(module, arguments, torch.device("cpu"))


def _run(module: nn.Module, arguments: tuple, device: torch.device) -> dict[str, int]:
    clone = without_norms(copy.deepcopy(module).to(device).eval())
    for child in clone.modules():
        if getattr(child, "algorithm", None) in _ALGORITHMS:
            vars(child)["algorithm"] = "dense"
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        clone(*tree_map_only(Tensor, lambda tensor: tensor.to(device), arguments))
    # The counter counts 2 for a multiply-add, calls the whole "Global", and puts its class before all other names.
    counts = {name: sum(operators.values()) // 2 for name, operators in counter.get_flop_counts().items()}
    total, root = counts.pop("Global", 0), type(module).__name__
    return {name.removeprefix(root).removeprefix("."): count for name, count in counts.items()} | {"": total}


def without_norms(module: nn.Module) -> nn.Module:
    """Make the batch norms of a module, which take most of the time on the meta device, return their input."""
    for child in module.modules():
        if hasattr(child, "running_mean") and hasattr(child, "running_var"):
            child.forward = nn.Identity().forward
    return module


def find_layer(model: nn.Module, layer: str) -> tuple[str, nn.Module]:
    """A module of a network and its full name, by a name in ``model.named_modules()``, also without "backbone.".

    Raises:
        LookupFailed: there is none; the message lists what is close.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    name = layer if layer in modules else f"backbone.{layer}"
    if name not in modules:
        short = [name.removeprefix("backbone.") for name in modules]
        hint = did_you_mean(layer, [*short, *modules]) or "no name is close."
        top = ", ".join(name for name in short if "." not in name)
        raise LookupFailed(f"layer: no layer {layer!r}: {hint} The largest are {top}")
    return name, modules[name]


class _Reached(Exception):
    """The module has run; nothing after it needs to run."""


def run_until(module: nn.Module, run: Callable[[], object], before: bool = False) -> tuple[bool, Any]:
    """Call a network with ``run`` until one of its modules has run, or is about to with ``before``.

    Returns:
        Whether the module was reached; and what it gave, or with ``before`` its first argument, or None if it was not.
    """
    seen: list[object] = []

    def _stop(module: nn.Module, inputs: tuple, *output: object) -> None:
        seen.append(inputs[0] if before else output[0])
        raise _Reached

    handle = module.register_forward_pre_hook(_stop) if before else module.register_forward_hook(_stop)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return bool(seen), seen[0] if seen else None
