"""Every script answers --help at once."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "tools").glob("*.py"))

CODE = """
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as done:
    assert not done.code, done.code
heavy = {{"torch", "torchvision", "av", "matplotlib"}} & sys.modules.keys()
assert not heavy, f"--help imports {{heavy}}"
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_needs_no_torch(script: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(script=str(script))], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: {script.name}" in done.stdout


def test_there_are_scripts() -> None:
    assert {"train_net.py", "test_net.py", "plain_train_net.py"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("name", ["train_net.py", "test_net.py", "plain_train_net.py"])
def test_training_scripts_take_the_same_flags(name: str) -> None:
    helped = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    for flag in ("--config-file", "--resume", "--eval-only", "--num-gpus", "--num-machines", "--machine-rank",
                 "--dist-url", "--dist-timeout", "--max-restarts", "--plugin", "KEY VALUE"):  # fmt: skip
        assert flag in helped
