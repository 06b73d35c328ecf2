"""Training videos that cannot be read: each recorded once, in log, file and checkpoint, and a budget for them."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nlvideo.engine.checkpoint_hooks import PeriodicCheckpointer
from nlvideo.engine.failures import FailedVideos
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.errors import TooManyFailedVideos


class Trainer(SimpleTrainer):
    """A trainer that fails to read the videos it is told."""

    def __init__(self, failures: dict[int, list[tuple[str, str]]]):
        model = torch.nn.Linear(1, 1)
        super().__init__(model, SimpleNamespace(dataset_size=10), torch.optim.SGD(model.parameters()))
        self.failures = failures

    def run_step(self) -> None:
        self.failed_files += self.failures.get(self.iter, [])


def _run(failed: FailedVideos, *hooks: HookBase, failures: dict | None = None, steps: int = 4) -> Trainer:
    trainer = Trainer(failures or {})
    trainer.register_hooks([failed, *hooks])
    trainer.train(0, steps)
    return trainer


FAILURES = {0: [("a.mp4", "broken"), ("b.mp4", "empty")], 2: [("a.mp4", "broken")]}


def test_each_failed_video_is_logged_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedVideos(None, 0.2)
    trainer = _run(failed, failures=FAILURES)
    assert caplog.text.count("Cannot read a.mp4 (broken)") == 1
    assert caplog.text.count("Cannot read b.mp4") == 1
    assert trainer.failed_files == [] and failed.reasons == {"a.mp4": "broken", "b.mp4": "empty"}
    assert caplog.messages[-1] == "2 of 10 training videos could not be read and were replaced"


def test_the_list_is_in_a_file_and_the_log_says_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "failed_videos.json"
    _run(FailedVideos(str(path)), failures=FAILURES)
    content = json.loads(path.read_text())
    assert content == {
        "num_videos": 10,
        "failed": [{"file_name": "a.mp4", "reason": "broken"}, {"file_name": "b.mp4", "reason": "empty"}],
    }
    assert caplog.messages[-1].endswith(f"; {path} lists them")
    # A run that starts over in this folder, and reads everything, leaves no list of another one's failures.
    caplog.clear()
    caplog.set_level(logging.WARNING, "nlvideo")
    _run(FailedVideos(str(path)))
    assert not path.exists() and caplog.messages == []


def test_the_list_of_an_earlier_run_stays_until_it_is_set_aside(tmp_path: Path) -> None:
    path, free = tmp_path / "failed_videos.json", []
    path.write_text("earlier")

    class SetAside(HookBase):
        """As a checkpoint does, after the last iteration."""

        def after_step(self) -> None:
            assert path.read_text() == "earlier"
            free.extend([True] if self.trainer.is_last_step else [])

    _run(FailedVideos(str(path), may_write=lambda: bool(free)), SetAside(), failures=FAILURES)
    assert len(json.loads(path.read_text())["failed"]) == 2
    with pytest.raises(TooManyFailedVideos):
        _run(FailedVideos(str(path), 0.1, may_write=lambda: False), failures=FAILURES)
    assert len(json.loads(path.read_text())["failed"]) == 2


def test_the_file_is_there_when_the_budget_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(TooManyFailedVideos):
        _run(FailedVideos(str(tmp_path / "failed.json"), 0.1), failures=FAILURES)
    assert len(json.loads((tmp_path / "failed.json").read_text())["failed"]) == 2


def test_the_state_is_saved_before_the_budget_stops_the_run() -> None:
    names = []
    checkpoints = PeriodicCheckpointer(lambda name, tag: names.append((name, tag)), period=2)
    failures = {0: [("a.mp4", "broken")], 2: [("b.mp4", "empty")]}
    with pytest.raises(
        TooManyFailedVideos, match="The state is saved as model_0000003; --resume with a larger fraction"
    ):
        _run(FailedVideos(None, 0.1, checkpoints), checkpoints, failures=failures)
    assert names == [("model_0000002", True), ("model_0000003", True)]
    # An iteration that is saved anyway is not saved twice.
    names.clear()
    with pytest.raises(TooManyFailedVideos, match="saved as model_0000002"):
        _run(FailedVideos(None, 0.1, checkpoints), checkpoints, failures={1: FAILURES[0]})
    assert names == [("model_0000002", True)]


def test_too_many_failed_videos_stop_the_run() -> None:
    failures = {0: [("a.mp4", "broken")], 2: [("b.mp4", "empty")]}
    with pytest.raises(TooManyFailedVideos) as caught:
        _run(FailedVideos(None, 0.1), failures=failures)
    message = str(caught.value)
    assert message.startswith("2 of 10 training videos could not be read")
    assert "more than DATALOADER.MAX_FAILED_FRACTION = 0.1" in message
    assert "a.mp4 (broken), b.mp4 (empty)" in message and "\n" not in message


def test_a_long_list_of_failures_is_cut() -> None:
    failures = {0: [(f"{i}.mp4", "x") for i in range(25)]}
    with pytest.raises(TooManyFailedVideos, match="19.mp4 .x. and 5 more$"):
        _run(FailedVideos(None, 0.0), failures=failures)


class Save(HookBase):
    """Keeps the state that a checkpoint of the third iteration would hold."""

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            self.saved = self.trainer.state_dict()["hooks"]


def test_a_checkpoint_holds_the_failures_of_its_own_iteration(tmp_path: Path) -> None:
    save, path = Save(), tmp_path / "failed.json"
    _run(FailedVideos(), save, failures={2: [("a.mp4", "broken")], 3: [("b.mp4", "broken")]})
    assert save.saved == {"FailedVideos": {"failed": {"a.mp4": "broken"}}}
    resumed = FailedVideos(str(path), 0.1)
    resumed.load_state_dict(save.saved["FailedVideos"])
    with pytest.raises(TooManyFailedVideos, match="2 of 10"):
        _run(resumed, failures={0: [("b.mp4", "broken")]})
    assert [entry["file_name"] for entry in json.loads(path.read_text())["failed"]] == ["a.mp4", "b.mp4"]
    assert FailedVideos().state_dict() == {}


def test_a_resumed_run_brings_its_list_along(tmp_path: Path) -> None:
    path = tmp_path / "failed.json"
    resumed = FailedVideos(str(path))
    resumed.load_state_dict({"failed": {"a.mp4": "broken"}})
    _run(resumed)
    assert json.loads(path.read_text())["failed"] == [{"file_name": "a.mp4", "reason": "broken"}]


def test_a_loader_that_does_not_say_how_many_videos_it_has_sets_no_budget(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "failed_videos.json"
    trainer = Trainer(FAILURES)
    trainer.data_loader = [{}]
    failed = FailedVideos(str(path), 0.0)
    trainer.register_hooks([failed])
    trainer.train(0, 4)
    assert json.loads(path.read_text())["num_videos"] == 0 and len(failed.reasons) == 2
    assert caplog.messages[-1].startswith("2 training videos could not be read")
