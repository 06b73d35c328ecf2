"""Running a network as far as one of its modules."""

from collections.abc import Callable

from torch import nn


class _Reached(Exception):
    """The module has been reached, and nothing after it needs to run."""


def run_until(module: nn.Module, run: Callable[[], object], before: bool = False) -> tuple[bool, object]:
    """Run a network until one of its modules has run, or is about to.

    Args:
        module: of the network.
        run: calls the network.
        before: stop before the module runs.

    Returns:
        Whether the module was reached, and what it gave, or with ``before`` its first argument; None where it was not.
    """
    seen: list[object] = []

    def stop(module: nn.Module, inputs: tuple, *output: object) -> None:
        """Keep what passes and leave the network; a forward hook and a forward pre-hook."""
        seen.append(inputs[0] if before else output[0])
        raise _Reached

    handle = module.register_forward_pre_hook(stop) if before else module.register_forward_hook(stop)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return bool(seen), seen[0] if seen else None
