"""Fixtures of the scripts' tests: tiny videos, and a way to run a script as a user does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def data_opts(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> list[str]:
    """Overrides that put a handful of tiny videos of two classes in place of a config's datasets."""
    folder = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 6), ("val", 4)):
        paths = [make_video(folder / f"{split}{i}.mp4", num_frames=6 + i, height=40) for i in range(count)]
        lines = [f"{path} {i % 2}\n" for i, path in enumerate(paths)]
        (folder / f"{split}.txt").write_text("".join(lines))
    names = {split: str([f"list:{folder / f'{split}.txt'}"]) for split in ("train", "val")}
    return ["DATASETS.TRAIN", names["train"], "DATASETS.TEST", names["val"]]


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess]:
    """``run_tool("train_net.py", "--flag", ..., cwd=None, code=0)`` runs a script and checks its exit code."""

    def run(name: str, *arguments: str, cwd: Path = ROOT, code: int = 0) -> subprocess.CompletedProcess:
        """Run it."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / name), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NLVIDEO_DEBUG": "0"},
            cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    return run
