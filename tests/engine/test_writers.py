"""WRITERS: which writers a run has, and on which rank."""

import pytest

from nlvideo.engine import writers
from nlvideo.engine.trainer import DefaultTrainer
from nlvideo.engine.writers import build_writers
from nlvideo.errors import LookupFailed
from nlvideo.utils.events import ConsoleWriter, JSONWriter, TensorBoardWriter


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
