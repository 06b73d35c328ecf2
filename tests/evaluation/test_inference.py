"""The evaluation loop: modes, failed videos, exact counts, progress, and two ranks."""

import json
import logging
import os
from contextvars import ContextVar
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from nlvideo.errors import TrainingInterrupted
from nlvideo.evaluation import ClassificationEvaluator, Evaluator, inference, inference_on_dataset

_NUM_CLASSES = 3


class _Model(nn.Module):
    """Scores the class that the video's pixels name, plus a buffer that ranks may disagree about."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout())
        self.register_buffer("shift", torch.zeros(()))
        self.seen = []

    def forward(self, videos):
        """List of videos -> list of scores."""
        assert not any(module.training for module in self.modules()) and not torch.is_grad_enabled()
        self.seen += [video["video_id"] for video in videos]
        classes = [int(video["video"].float().mean() + self.shift) % _NUM_CLASSES for video in videos]
        return [
            {"video_id": video["video_id"], "scores": torch.eye(_NUM_CLASSES)[k]} for video, k in zip(videos, classes)
        ]


def _video(index, label=None, failed=False):
    pixels = None if failed else torch.full((1, 3, 2, 4, 4), index % _NUM_CLASSES, dtype=torch.uint8)
    label = index % _NUM_CLASSES if label is None else label
    return {"video": pixels, "label": label, "video_id": f"v{index:02d}", "failed": failed}


class _Loader(list):
    """A test loader of this rank's videos."""

    def __init__(self, videos, dataset_size):
        super().__init__([video] for video in videos)
        self.dataset_size = dataset_size


def _evaluator(output_dir=None):
    return ClassificationEvaluator("toy", _NUM_CLASSES, output_dir)


def test_results_and_failed_videos_never_reach_the_model():
    model = _Model()
    loader = _Loader([_video(0), _video(1, failed=True), _video(2), _video(3, label=2)], 4)
    results = inference_on_dataset(model, loader, _evaluator())
    assert model.seen == ["v00", "v02", "v03"]
    assert results["classification"]["top1"] == 50.0
    assert results["classification"]["num_failed"] == 1


def test_batches_of_several_videos_and_loaders_without_a_size():
    batches = [[_video(0), _video(1, failed=True)], [_video(2, failed=True)], [_video(3)]]
    metrics = inference_on_dataset(_Model(), batches, _evaluator())["classification"]
    assert (metrics["num_videos"], metrics["num_failed"], metrics["top1"]) == (4, 2, 50.0)


def test_videos_share_a_forward_pass_while_their_views_fit():
    class Grouped(_Model):
        views_per_forward = 3

        def forward(self, videos):
            """List of videos -> list of scores; notes their views."""
            groups.append([len(video["video"]) for video in videos])
            return super().forward(videos)

    groups = []
    videos = [_video(index, failed=index == 2) for index in range(8)]
    for index, views in ((4, 2), (5, 2), (6, 4)):
        videos[index]["video"] = videos[index]["video"].repeat(views, 1, 1, 1, 1)
    model = Grouped()
    results = inference_on_dataset(model, _Loader(videos, 8), _evaluator())
    # One that has more views than a pass takes is alone: the model cuts it up. A failed one takes no place.
    assert groups == [[1, 1, 1], [2], [2], [4], [1]]
    assert model.seen == [f"v{index:02d}" for index in range(8) if index != 2]
    assert results["classification"]["num_failed"] == 1 and results["classification"]["top1"] == 87.5


def test_modes_are_restored_module_by_module():
    model = _Model()
    model.norm[0].eval()
    modes = [module.training for module in model.modules()]
    inference_on_dataset(model, [[_video(0)]], _evaluator())
    assert [module.training for module in model.modules()] == modes and not all(modes)


def test_modes_are_restored_after_an_error():
    class Crashing(_Evaluator):
        """Fails on the first video."""

        def process(self, inputs, outputs):
            raise RuntimeError("disk full")

    model = _Model()
    with pytest.raises(RuntimeError, match="disk full"):
        inference_on_dataset(model, [[_video(0)]], Crashing())
    assert all(module.training for module in model.modules())


class _Evaluator(Evaluator):
    """Notes the order of calls."""

    def __init__(self):
        super().__init__("toy", _NUM_CLASSES)
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def process(self, inputs, outputs):
        self.calls.append(len(inputs))

    def evaluate(self):
        self.calls.append("evaluate")
        return {"order": {}}


def test_order_of_calls():
    evaluator = _Evaluator()
    assert inference_on_dataset(_Model(), [[_video(0), _video(1)], [_video(2)]], evaluator) == {"order": {}}
    assert evaluator.calls == ["reset", 2, 1, "evaluate"]


def test_the_protocol_has_no_defaults():
    evaluator = Evaluator("toy", 3)
    for call in (evaluator.reset, evaluator.evaluate, lambda: evaluator.process([], [])):
        with pytest.raises(NotImplementedError):
            call()


@pytest.mark.parametrize("dataset_size", [1, 3])
def test_a_wrong_number_of_videos_is_an_error(dataset_size):
    with pytest.raises(ValueError, match=f"evaluated 2 videos of a dataset of {dataset_size}"):
        inference_on_dataset(_Model(), _Loader([_video(0), _video(1)], dataset_size), _evaluator())


def test_a_reason_to_stop_ends_it_after_the_current_video(monkeypatch):
    model, reasons = _Model(), iter(["", "SIGTERM", "SIGTERM"])
    monkeypatch.setattr(inference, "STOP_REASON", ContextVar("", default=lambda: next(reasons)))
    with pytest.raises(TrainingInterrupted, match="^SIGTERM: stopped in a test, after 2 videos. A resumed run"):
        inference_on_dataset(model, _Loader(_videos(), 7), _evaluator())
    assert model.seen == ["v00", "v01"]


def test_a_reason_to_stop_after_the_last_video_changes_nothing(monkeypatch):
    monkeypatch.setattr(inference, "STOP_REASON", ContextVar("", default=lambda: "SIGTERM"))
    assert inference_on_dataset(_Model(), _Loader(_videos()[:1], 1), _evaluator())["classification"]["top1"] == 100


def test_progress_is_logged_with_parts_and_eta(monkeypatch, caplog):
    # A clock that moves by one second at each look, and loaders, models and evaluators that take no other time.
    ticks = iter(range(1000))
    monkeypatch.setattr(inference.time, "perf_counter", lambda: float(next(ticks)))
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        inference_on_dataset(_Model(), _Loader([_video(i) for i in range(6)], 6), _evaluator())
    lines = [record.getMessage() for record in caplog.records if record.name == "nlvideo.evaluation.inference"]
    # 5 looks a video: after the first video 5 s have passed since the start of the loop, after the second 10 s.
    assert lines[0] == "Evaluated 1/6 videos: data 1.0000, compute 1.0000, eval 1.0000 s per video, ETA 0:00:25"
    assert lines[1].startswith("Evaluated 2/6 videos: ") and lines[1].endswith("ETA 0:00:20")
    assert lines[-1] == "Evaluated 6 videos on 1 ranks: data 1.0000, compute 1.0000, eval 1.0000 s per video"


def test_a_fast_run_logs_one_line(caplog):
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        inference_on_dataset(_Model(), [[_video(i)] for i in range(6)], _evaluator())
    assert len([record for record in caplog.records if record.name == "nlvideo.evaluation.inference"]) == 1


def _videos():
    return [_video(index, label=0 if index == 4 else None, failed=index == 2) for index in range(7)]


def _rank(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=180))
    try:
        videos = _videos()
        # 5 and 2 videos, without padding; a DDP model would hang here if its forward exchanged buffers.
        share = videos[:5] if rank == 0 else videos[5:]
        model = _Model()
        model.scale = nn.Parameter(torch.ones(()))
        model = nn.parallel.DistributedDataParallel(model)
        model.module.shift.fill_(rank)
        results = inference_on_dataset(model, _Loader(share, 7), _evaluator(str(folder)))
        with open(f"{folder}/rank{rank}.json", "w") as file:
            json.dump(results, file)
        if rank == 1:
            token = inference.STOP_REASON.set(lambda: "SIGTERM")
        with pytest.raises(TrainingInterrupted, match="^SIGTERM: stopped in a test, after 6 videos"):
            inference_on_dataset(model, _Loader(share, 7), _evaluator())
        if rank == 1:
            inference.STOP_REASON.reset(token)
        with pytest.raises(ValueError, match="the ranks evaluated 7 videos of a dataset of 8"):
            inference_on_dataset(model, _Loader(share, 8), _evaluator())
    finally:
        dist.destroy_process_group()


def _other_rank(index, folder):
    torch.set_num_threads(1)
    _rank(index + 1, folder)
    # Unloading PyTorch's libraries aborts now and then. It is no part of this test.
    os._exit(0)


def test_two_ranks_equal_one(tmp_path):
    # This process is rank 0: one process less that has to import everything.
    other = mp.spawn(_other_rank, args=(tmp_path,), nprocs=1, join=False)
    _rank(0, tmp_path)
    assert other.join()
    alone = inference_on_dataset(_Model(), _Loader(_videos(), 7), _evaluator(str(tmp_path / "alone")))
    assert json.loads((tmp_path / "rank0.json").read_text()) == alone
    assert json.loads((tmp_path / "rank1.json").read_text()) == {}
    assert alone["classification"]["num_videos"] == 7 and alone["classification"]["num_failed"] == 1
    written = (tmp_path / "inference" / "toy.json").read_text()
    assert written == (tmp_path / "alone" / "inference" / "toy.json").read_text()
