"""Batches on their way to the device."""

import pytest
import torch

from nlvideo.engine.device_copy import DeviceCopy

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_on_the_cpu_nothing_is_copied() -> None:
    batch = {"video": torch.zeros(2), "video_id": ["a", "b"]}
    assert DeviceCopy(torch.device("cpu"))(batch) is batch


@pytest.mark.gpu
@gpu
def test_on_a_gpu_the_tensors_of_a_batch_are_copied() -> None:
    copy = DeviceCopy(torch.device("cuda", 0))
    there = torch.ones(2, device="cuda")
    batch = {"video": torch.arange(1000).pin_memory(), "label": there, "video_id": ["a", "b"]}
    found = copy(batch)
    assert found["video"].is_cuda and found["label"] is there and found["video_id"] == ["a", "b"]
    assert torch.equal(found["video"].cpu(), batch["video"]) and not batch["video"].is_cuda
    assert copy([1]) == [1]


@pytest.mark.gpu
@gpu
def test_on_a_gpu_many_copies_do_not_overtake_the_work() -> None:
    copy = DeviceCopy(torch.device("cuda", 0))
    batches = [torch.full((1 << 20,), number, dtype=torch.float32).pin_memory() for number in range(30)]
    weight = torch.ones(2048, 2048, device="cuda")
    sums = []
    for batch in batches:
        found = copy({"video": batch})["video"]
        weight = (weight @ weight).clamp(max=1)  # something to be behind
        sums.append(found.sum())
        del found
    assert torch.stack(sums).tolist() == [number * float(1 << 20) for number in range(30)]
