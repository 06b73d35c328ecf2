"""Communication between the ranks of a run, over torch.distributed. All of it also works without a process group."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if _active() else 1


def get_rank() -> int:
    """Return the number of this rank; 0 without a process group."""
    return dist.get_rank() if _active() else 0


def is_main_process() -> bool:
    """Return whether this is rank 0, the one that writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every rank is here."""
    if get_world_size() > 1:
        dist.barrier()


def all_gather_object(obj: Any) -> list[Any]:
    """Return the objects of all ranks, in their order, on every rank. Objects must pickle."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def gather_object(obj: Any) -> list[Any]:
    """Return the objects of all ranks on rank 0, and an empty list elsewhere. Objects must pickle."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] | None = [None] * get_world_size() if is_main_process() else None
    dist.gather_object(obj, gathered, dst=0)
    return gathered or []


def reduce_dict(values: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Average, or sum, scalar tensors of the same names on every rank, over the ranks, in one call."""
    if get_world_size() == 1 or not values:
        return dict(values)
    # Ranks may have filled their dicts in different orders.
    names = sorted(values)
    with torch.no_grad():
        stacked = torch.stack([values[name].detach().float() for name in names])
        dist.all_reduce(stacked)
        if average:
            stacked /= get_world_size()
    return dict(zip(names, stacked, strict=True))


def share_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors, the same ones on every rank, with those of rank 0."""
    if get_world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def shared_random_seed() -> int:
    """Return a seed drawn from the operating system by rank 0, the same on every rank."""
    seed = int(np.random.SeedSequence().generate_state(1)[0]) & 0x7FFFFFFF
    return all_gather_object(seed)[0]
