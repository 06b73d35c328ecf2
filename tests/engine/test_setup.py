"""The start of a run."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo.config import CfgNode, load_cfg
from nlvideo.engine.setup import default_setup
from nlvideo.utils.system.env import read_invocations

TRAIN = argparse.Namespace(resume=False)
RESUME = argparse.Namespace(resume=True)


def test_folder_logs_and_config(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path / "a" / "b"))
    assert default_setup(cfg, TRAIN) == cfg
    folder = Path(cfg.OUTPUT_DIR)
    assert load_cfg(str(folder / "config.yaml")) == cfg
    log = (folder / "log.txt").read_text()
    assert "Command line:" in log and "torch" in log and "Ranks: 1" in log
    logging.getLogger("nlvideo.somewhere").info("a message")
    assert "a message" in (folder / "log.txt").read_text()


def test_an_output_dir_that_cannot_be_written_is_one_line(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^OUTPUT_DIR: got '.*/file/out', allowed: a folder that can be written"):
        default_setup(tiny_cfg("OUTPUT_DIR", str(tmp_path / "file" / "out")), TRAIN)
    with pytest.raises(ValueError, match="OUTPUT_DIR: got '/proc/nlvideo'"):
        default_setup(tiny_cfg("OUTPUT_DIR", "/proc/nlvideo"), TRAIN)


def test_two_trainings_do_not_write_into_one_folder(tiny_cfg: Callable[..., CfgNode], monkeypatch) -> None:
    holder = "process 7 on there, since noon: python train.py"
    monkeypatch.setattr("nlvideo.engine.setup.lock_folder", lambda folder: holder)
    cfg = tiny_cfg()
    for args in (TRAIN, RESUME):
        with pytest.raises(ValueError, match=r"^OUTPUT_DIR: got .*, in which another run is writing \(process 7 on"):
            default_setup(cfg, args)
    assert not (Path(cfg.OUTPUT_DIR) / "config.yaml").exists()
    # A test beside a training is welcome.
    default_setup(cfg, argparse.Namespace(resume=True, eval_only=True))


def test_the_config_of_an_earlier_run_stays_until_the_next_one_saves(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SEED", "-1")
    folder = Path(cfg.OUTPUT_DIR)
    first = default_setup(cfg, TRAIN)
    (folder / "model_0000002.pth").write_bytes(b"")
    second = default_setup(cfg, TRAIN)
    assert load_cfg(str(folder / "config.yaml")) == first
    assert load_cfg(str(folder / "config.next.yaml")) == second != first
    # A test leaves both alone, and a resumed run is the first one.
    default_setup(cfg, argparse.Namespace(resume=False, eval_only=True))
    assert load_cfg(str(folder / "config.next.yaml")) == second
    assert default_setup(cfg, RESUME) == first and not (folder / "config.next.yaml").exists()


def test_the_seed_decides_what_is_drawn(tiny_cfg: Callable[..., CfgNode]) -> None:
    draws = []
    for seed in ("3", "3", "4"):
        default_setup(tiny_cfg("SEED", seed), TRAIN)
        draws.append(torch.rand(()).item())
    assert draws[0] == draws[1] != draws[2]


def test_a_drawn_seed_is_written_down_and_kept_by_a_resume(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SEED", "-1")
    first = default_setup(cfg, TRAIN)
    assert first.SEED >= 0 and first.is_frozen() and cfg.SEED == -1
    assert load_cfg(f"{cfg.OUTPUT_DIR}/config.yaml").SEED == first.SEED
    assert default_setup(cfg, RESUME).SEED == first.SEED
    assert default_setup(cfg, TRAIN).SEED != first.SEED


def test_plugins_log_to_the_same_file(tiny_opts: list[str], tmp_path: Path) -> None:
    package = tmp_path / "project" / "logging_plugin_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    cfg = load_cfg(None, tiny_opts, [str(package)])
    default_setup(cfg, TRAIN)
    logger = logging.getLogger("logging_plugin_of_a_test.module")
    logger.info("from the plugin")
    assert "from the plugin" in (Path(cfg.OUTPUT_DIR) / "log.txt").read_text()
    for handler in logger.parent.handlers:
        handler.close()
    logger.parent.handlers.clear()


def test_a_test_leaves_the_config_of_the_training_alone(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    trained = default_setup(tiny_cfg("SEED", "-1", "OUTPUT_DIR", str(tmp_path)), TRAIN)
    test = argparse.Namespace(resume=False, eval_only=True)
    tested = default_setup(tiny_cfg("SEED", "-1", "MODEL.WEIGHTS", "w.pth", "OUTPUT_DIR", str(tmp_path)), test)
    assert load_cfg(str(tmp_path / "config.yaml")) == trained
    assert load_cfg(str(tmp_path / "inference" / "config.yaml")) == tested
    assert default_setup(tiny_cfg("SEED", "-1", "OUTPUT_DIR", str(tmp_path)), RESUME).SEED == trained.SEED


def test_command_and_environment_are_written_down(tiny_cfg: Callable[..., CfgNode], monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["tools/train_net.py", "SEED", "-1"])
    cfg = default_setup(tiny_cfg("SEED", "-1"), TRAIN)
    default_setup(tiny_cfg("SEED", "5"), argparse.Namespace(resume=True, eval_only=True))
    first, second = read_invocations(cfg.OUTPUT_DIR)
    assert first["command"] == "python tools/train_net.py SEED -1" and first["drawn_seed"] == cfg.SEED >= 0
    assert first["environment"]["torch"] == torch.__version__ and first["world_size"] == 1
    assert [(row["eval_only"], row["resume"]) for row in (first, second)] == [(False, False), (True, True)]
    assert second["drawn_seed"] is None
