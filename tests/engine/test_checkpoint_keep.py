"""Which checkpoints stay with SOLVER.CHECKPOINT_KEEP, and that nothing of others is ever removed."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo.config import CfgNode
from nlvideo.engine.trainer import DefaultTrainer

OPTS = ("SOLVER.MAX_ITER", "7", "SOLVER.STEPS", "[6]", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.CHECKPOINT_KEEP", "2",
        "DATASETS.TEST", "[]")  # fmt: skip


class Killed(BaseException):
    """Ends a run as a kill would."""


def _start(cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


def _names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.pth")}


def test_the_last_ones_stay(tiny_cfg: Callable[..., CfgNode], video_lists: tuple[str, str], tmp_path: Path) -> None:
    opts = (*OPTS, "OUTPUT_DIR", str(tmp_path), "DATASETS.TEST", str([video_lists[1]]), "TEST.EVAL_PERIOD", "6")
    _start(tiny_cfg(*opts)).train()
    assert _names(tmp_path) == {"model_0000005", "model_0000006", "model_final", "model_best"}


def test_all_stay_by_default(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = (*OPTS, "SOLVER.CHECKPOINT_KEEP", "0", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "[2]")
    _start(tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path))).train()
    assert _names(tmp_path) == {"model_0000001", "model_0000002", "model_final"}
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert content["trainer"]["hooks"]["PeriodicCheckpointer"].keys() == {"saved"}


@pytest.mark.parametrize("function", ["replace", "remove"])
@pytest.mark.parametrize("moment", [0, 1, 4, 5, 6, 7])
def test_a_kill_at_any_moment_leaves_a_checkpoint_to_resume_from_and_no_more_of_them(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, moment: int
) -> None:
    cfg = tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path))
    usual, calls = getattr(os, function), []

    def killed(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == moment + 1:
            raise Killed
        usual(*arguments)

    with monkeypatch.context() as patches:
        where = "nlvideo.utils.files.file_io.os" if function == "replace" else "nlvideo.engine.checkpoint_hooks.os"
        patches.setattr(f"{where}.{function}", killed)
        with contextlib.suppress(Killed):
            _start(cfg).train()
    tag = tmp_path / "last_checkpoint"
    assert not tag.exists() or (tmp_path / tag.read_text().strip()).exists()
    assert len(_names(tmp_path)) <= 4
    if tag.exists() or not _names(tmp_path):
        _start(cfg, resume=True).train()
        assert _names(tmp_path) == {"model_0000005", "model_0000006", "model_final"}


def test_files_of_others_stay(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path / "run"), "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[3]")
    _start(cfg).train()
    other = tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path / "other"), "SOLVER.CHECKPOINT_KEEP", "0")
    _start(other).train()
    # The user keeps a copy, brings a file of another run under a name that this run has used, and one that it has not.
    (tmp_path / "run" / "model_0000002_good.pth").write_bytes((tmp_path / "run" / "model_0000002.pth").read_bytes())
    mine = tmp_path / "run" / "model_0000003.pth"
    mine.write_bytes((tmp_path / "other" / "model_0000003.pth").read_bytes())
    (tmp_path / "run" / "model_0000001.pth").write_bytes(b"notes")
    _start(tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path / "run")), resume=True).train()
    assert _names(tmp_path / "run") == {
        "model_0000001", "model_0000002_good", "model_0000003", "model_0000005", "model_0000006", "model_final"
    }  # fmt: skip
    assert f"{mine} stays: it is no longer what this run wrote there" in caplog.text


def test_a_checkpoint_of_another_run_does_not_bring_its_rights_along(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """It goes on in the folder of a run that has written files of the same names."""
    for name in "ab":
        opts = ("OUTPUT_DIR", str(tmp_path / name), "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "[3]")
        _start(tiny_cfg(*OPTS, *opts)).train()
    (tmp_path / "b" / "from_a.pth").write_bytes((tmp_path / "a" / "model_0000003.pth").read_bytes())
    (tmp_path / "b" / "last_checkpoint").write_text("from_a.pth\n")
    _start(tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path / "b")), resume=True).train()
    assert {"model_0000002", "model_0000003", "from_a"} <= _names(tmp_path / "b")


def test_what_last_checkpoint_names_stays(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path))
    trainer = _start(cfg)
    (checkpoints,) = [hook for hook in trainer.hooks if hook.name == "PeriodicCheckpointer"]
    save, seen = checkpoints._save, []

    def save_and_go_back(name: str, tag_last: bool) -> None:
        save(name, tag_last)
        if name == "model_0000005":
            (tmp_path / "last_checkpoint").write_text("model_0000003.pth\n")
        seen.append(_names(tmp_path))

    checkpoints._save = save_and_go_back
    trainer.train()
    assert "model_0000003" in seen[-1]
