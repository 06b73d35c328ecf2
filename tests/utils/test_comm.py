"""Communication between ranks: without a process group, and between two Gloo ranks."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from nlvideo.utils import comm


def test_without_a_process_group():
    assert comm.get_world_size() == 1
    assert comm.get_rank() == 0
    assert comm.is_main_process()
    assert comm.all_gather_object({"a": 1}) == [{"a": 1}]
    assert comm.gather_object("x") == ["x"]
    comm.synchronize()
    values = {"loss": torch.tensor(2.0)}
    assert comm.reduce_dict(values) == values


def test_reduce_dict_returns_another_dict():
    values = {"loss": torch.tensor(2.0)}
    comm.reduce_dict(values).clear()
    assert values


def test_seeds_differ_from_call_to_call():
    assert len({comm.shared_random_seed() for _ in range(4)}) > 1
    assert 0 <= comm.shared_random_seed() < 2**31


def _fail() -> None:
    raise OSError("no space left")


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except OSError as error:
        return str(error)
    return ""


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    values = {"b": torch.tensor(10.0 * rank), "a": torch.tensor(1.0 + rank)}
    if rank:  # the order of a dict differs between ranks
        values = dict(sorted(values.items()))
    result = {
        "size": (comm.get_world_size(), comm.get_rank(), comm.is_main_process()),
        "all": comm.all_gather_object({"rank": rank}),
        "gathered": comm.gather_object("x" * (rank + 1)),
        "mean": {name: float(value) for name, value in comm.reduce_dict(values).items()},
        "sum": {name: float(value) for name, value in comm.reduce_dict(values, average=False).items()},
        "none": comm.reduce_dict({}),
        "seed": comm.shared_random_seed(),
        "main": comm.on_main_process(lambda: comm.get_rank() + 7),
        "error": _error(lambda: comm.on_main_process(_fail)),
    }
    comm.synchronize()
    torch.save(result, os.path.join(folder, f"rank{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    mp.start_processes(_rank, args=(folder,), nprocs=2, start_method="fork")
    return [torch.load(os.path.join(folder, f"rank{rank}.pt")) for rank in range(2)]


def test_two_ranks_know_themselves(two_ranks):
    assert [result["size"] for result in two_ranks] == [(2, 0, True), (2, 1, False)]


def test_two_ranks_gather_in_order(two_ranks):
    assert [result["all"] for result in two_ranks] == [[{"rank": 0}, {"rank": 1}]] * 2
    assert [result["gathered"] for result in two_ranks] == [["x", "xx"], []]


def test_two_ranks_reduce_by_name(two_ranks):
    for result in two_ranks:
        assert result["mean"] == {"a": 1.5, "b": 5.0}
        assert result["sum"] == {"a": 3.0, "b": 10.0}
        assert result["none"] == {}


def test_the_result_or_error_of_rank_0_is_on_both(two_ranks):
    assert [(result["main"], result["error"]) for result in two_ranks] == [(7, "no space left")] * 2


def test_two_ranks_share_the_seed(two_ranks):
    assert two_ranks[0]["seed"] == two_ranks[1]["seed"]
