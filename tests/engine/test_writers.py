"""WRITERS: which writers a run has, and on which rank; and what all writers to a tracking service do."""

import json
import sys

import pytest

from nlvideo.engine import writers
from nlvideo.engine.trainer import DefaultTrainer
from nlvideo.engine.writers import Tracker, build_writers
from nlvideo.errors import LookupFailed, TrainingInterrupted
from nlvideo.utils.events import WRITER, ConsoleWriter, EventStorage, JSONWriter, TensorBoardWriter


def kinds(built):
    """The classes of writers, which are closed."""
    for writer in built:
        writer.close()
    return [type(writer) for writer in built]


def test_a_run_has_three_writers_unless_the_config_says_otherwise(tiny_cfg):
    assert kinds(build_writers(tiny_cfg())) == [ConsoleWriter, JSONWriter, TensorBoardWriter]
    assert kinds(build_writers(tiny_cfg("WRITERS", "[JSONWriter, ConsoleWriter]"))) == [JSONWriter, ConsoleWriter]
    assert build_writers(tiny_cfg("WRITERS", "[]")) == []


def test_a_run_writes_the_files_of_its_writers_alone(tiny_cfg, tmp_path):
    trainer = DefaultTrainer(tiny_cfg("WRITERS", "[JSONWriter]", "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "[]"))
    trainer.resume_or_load()
    trainer.train()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "metrics.json" in names and not any("tfevents" in name for name in names)


@pytest.mark.parametrize("is_main", [True, False])
def test_an_unknown_name_is_one_line_on_every_rank(tiny_cfg, monkeypatch, is_main):
    monkeypatch.setattr(writers.comm, "is_main_process", lambda: is_main)
    with pytest.raises(LookupFailed) as error:
        build_writers(tiny_cfg("WRITERS", "[JSONWriter, ConsolWriter]"))
    text = "WRITERS: unknown WRITER 'ConsolWriter': did you mean 'ConsoleWriter'"
    assert str(error.value).startswith(text) and "JSONWriter" in str(error.value) and "\n" not in str(error.value)


def test_other_ranks_have_none(tiny_cfg, monkeypatch):
    monkeypatch.setattr(writers.comm, "is_main_process", lambda: False)
    assert build_writers(tiny_cfg()) == []


class Service(Tracker):
    """Keeps what it is sent, and fails while it is told to."""

    package = "json"
    down = False

    def __init__(self, cfg):
        super().__init__(cfg)
        self.seen = []

    def _check(self):
        if self.down:
            raise OSError("no\nanswer")

    def begin(self):
        self._check()
        self.seen.append(("go on", self.run_id) if self.run_id else "begin")
        self.run_id = self.run_id or "r1"

    def log(self, iteration, scalars):
        self._check()
        self.seen.append((iteration, scalars))

    def end(self, failed):
        self._check()
        self.seen.append(f"end {failed}")


def test_values_wait_for_a_service_that_fails(tiny_cfg, caplog, monkeypatch):
    """Training goes on with one warning, and nothing is lost or sent twice."""
    clock = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: clock[0])
    service = Service(tiny_cfg())
    with EventStorage() as storage, caplog.at_level("WARNING", "nlvideo"):
        for iteration in range(5):
            service.down = iteration in (0, 1, 2)
            storage.put_scalar("loss", float(iteration), smoothing_hint=False)
            service.write()
            storage.step()
            if iteration == 3:
                assert service.seen == []  # It is not asked again at once.
                clock[0] += 1000
    assert service.seen == ["begin", *((i, {"loss": float(i)}) for i in range(5))]
    service.close()
    assert service.seen[-1] == "end False"
    (message,) = caplog.messages
    assert message.startswith("Service: no answer; its values wait") and message.endswith("Training goes on")


def test_the_end_tries_once_more_and_fails_quietly(tiny_cfg, caplog):
    service = Service(tiny_cfg())
    service.down = True
    with EventStorage() as storage, caplog.at_level("WARNING", "nlvideo"):
        storage.put_scalar("loss", 1.0)
        service.write()
        service.close()
        assert service.seen == []
        service.down = False
        with pytest.raises(KeyError):
            try:
                raise KeyError
            finally:
                service.close()
    assert service.seen == ["begin", (0, {"loss": 1.0}), "end True"] and len(caplog.messages) == 1


def test_a_run_that_was_stopped_has_not_failed(tiny_cfg):
    service = Service(tiny_cfg())
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        service.write()
        with pytest.raises(TrainingInterrupted):
            try:
                raise TrainingInterrupted("SIGTERM")
            finally:
                service.close()
    assert service.seen[-1] == "end False"


def test_a_resumed_run_goes_on_in_the_run_of_its_checkpoint(tiny_cfg, monkeypatch, tmp_path):
    """A new run in the same folder begins another."""
    monkeypatch.setitem(WRITER._objects, "Service", Service)

    def train(iterations, resume):
        cfg = tiny_cfg("WRITERS", "[JSONWriter, Service]", "SOLVER.MAX_ITER", str(iterations), "SOLVER.STEPS", "[1]")
        trainer = DefaultTrainer(cfg)
        (service,) = [writer for hook in trainer.hooks for writer in getattr(hook, "_writers", ())][1:]
        trainer.resume_or_load(resume)
        trainer.train()
        return service.seen

    first = train(2, resume=False)
    assert first[0] == "begin" and first[-1] == "end False"
    second = train(3, resume=True)
    assert second[0] == ("go on", "r1") and [row[0] for row in second[1:-1]] == [2]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    assert [{"iteration": row[0], **row[1]} for row in [*first[1:-1], *second[1:-1]]] == lines
    assert train(2, resume=False)[0] == "begin"


@pytest.mark.parametrize("name, package", [("WandbWriter", "wandb"), ("MLflowWriter", "mlflow")])
def test_a_missing_package_is_one_line(tiny_cfg, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^WRITERS: {name} needs {package} .*: pip install 'nlvideo\[{package}\]'$"):
        build_writers(tiny_cfg("WRITERS", f"[{name}]"))
