"""Communication between the ranks of a run, over torch.distributed. All of it also works without a process group."""

import datetime
import importlib
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from nlvideo.errors import FORESEEN, portable

_T = TypeVar("_T")


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


def finish() -> None:
    """Wait until every rank is done, and end the process group, if there is one. Call it after success only.

    After an error, waiting for other ranks would hang.
    """
    if _active():
        dist.barrier()
        dist.destroy_process_group()


def all_gather_object(obj: Any) -> list[Any]:
    """Return the objects of all ranks, in their order, on every rank. Objects must pickle."""
    if get_world_size() == 1:
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def on_main_process(work: Callable[[], _T]) -> _T:
    """Call ``work`` on rank 0, and return on every rank what it returns. It must pickle.

    Raises:
        ValueError, KeyError, OSError, ImportError: that of ``work``, on every rank, so that all ranks end together.
    """
    result: Any = None
    if is_main_process():
        try:
            result = work()
        except FORESEEN as error:
            result = portable(error)
    result = all_gather_object(result)[0]
    if isinstance(result, Exception):
        raise result
    return result


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


def start(backend: str, timeout: datetime.timedelta) -> None:
    """Make the process group that the environment says, as torchrun and others set it (RANK, WORLD_SIZE, MASTER_ADDR).

    Torch's agents keep one store over all starts of a job, and the addresses of earlier ranks stay in it. A rank that
    reads such an address waits for one that has died (pytorch issue 135712; still so in torch 2.14). So the ranks of
    this start first agree on a name that no earlier start has used.

    Args:
        backend: of torch.distributed.
        timeout: how long a rank waits for another, now and later.

    Raises:
        RuntimeError, torch.distributed.DistError: the ranks did not meet in time.
    """
    # Functions of this module have the group of its import as a default. Imported later, by the first optimizer, it
    # would keep the group and its threads to the end of Python, which they may abort (pytorch pull request 179291).
    importlib.import_module("torch.distributed.nn")
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    store = dist.PrefixStore(_name_of_start(store, rank, world_size, timeout), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)


def _name_of_start(store: dist.Store, rank: int, world_size: int, timeout: datetime.timedelta) -> str:
    # The number of restarts is no such name: each agent has its own. So each rank asks rank 0 under a name of its own.
    name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"ask/{rank}", name)
        agreed = store.get(f"answer/{name}").decode()
        store.set(f"heard/{agreed}/{rank}", "")
        return agreed
    until = time.monotonic() + timeout.total_seconds()
    for other in range(1, world_size):
        while not store.check([f"heard/{name}/{other}"]):
            if time.monotonic() > until:
                raise RuntimeError(f"rank {other} did not start within {timeout.total_seconds() / 60:g} minutes")
            # The question may be that of an earlier start.
            store.set(f"answer/{store.get(f'ask/{other}').decode()}", name)
            time.sleep(0.01)
    return name
