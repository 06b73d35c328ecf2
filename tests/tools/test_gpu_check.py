"""benchmarks/gpu_check.py: every check on tiny sizes on a CPU, what it writes, and that a failure ends only itself."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Run the script."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_check_runs_on_a_cpu(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--small", "--output", str(tmp_path))
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    checks = report["checks"]
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(checks) == ["tests", "losses", "algorithms", "half precision", "decoder", "memory", "throughput"]
    results = {name: check["result"] for name, check in checks.items()}
    # Those that need a GPU or another package.
    assert {name for name, result in results.items() if result != "passed"} <= {"tests", "decoder"}
    assert "failed" not in results.values()
    # On a CPU the steps are compared with themselves.
    assert all(row["CPU"] == row["here"] for row in checks["losses"]["rows"])
    assert len({(row["form"], row["keys"], row["algorithm"]) for row in checks["algorithms"]["rows"]}) == 22
    halves = checks["half precision"]["rows"]
    assert len(halves) == 8 and all(0 < row["exact error"] < 2 for row in halves)
    (memory,) = checks["memory"]["rows"]
    assert memory["measured / counted"] == pytest.approx(1, abs=0.1)
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.startswith("# A check on one GPU") and all(f"| {name} " in page for name in checks)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path))
    assert done.returncode == 1 and not done.stdout and not list(tmp_path.iterdir())
    assert done.stderr.splitlines() == [
        "gpu_check: PyTorch finds no CUDA device here; --device cpu --small runs the same checks on a CPU"
    ]


class _Context:
    """Processes that are forked: they know the checks that a test has put in place."""

    def __new__(cls, method: str) -> object:
        """The context, whatever the method."""
        context = sys.modules["multiprocessing.context"].ForkContext()
        context.set_forkserver_preload = lambda names: None
        return context


@pytest.mark.parametrize("name, note", [
    ("raises", "ZeroDivisionError: division by zero"),
    ("dies", "its process died with exit code 9"),
    ("hangs", "not done after 1 s"),
    ("differs", ""),
])  # fmt: skip
def test_a_check_that_fails_ends_only_itself(
    name: str, note: str, load_tool: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_tool("gpu_check", "benchmarks")
    faults = {
        "raises": lambda setting: {"passed": 1 / 0},
        "dies": lambda setting: os._exit(9),
        "hangs": lambda setting: script.time.sleep(60),
        "differs": lambda setting: {"passed": False, "rows": [{"difference": 1.0}]},
    }
    monkeypatch.setattr(script, "CHECKS", {**faults, "well": lambda setting: {"passed": True}})
    monkeypatch.setattr(script.multiprocessing, "get_context", _Context)
    setting = script.Setting("cpu", True)
    found = script.run_check(name, setting, 1 if name == "hangs" else 60)
    assert (found["result"], found["note"]) == ("failed", note)
    assert script.run_check("well", setting, 60)["result"] == "passed"


def test_the_page_shows_failures(load_tool: Callable[..., ModuleType]) -> None:
    script = load_tool("gpu_check", "benchmarks")
    checks = {
        "memory": {"result": "failed", "seconds": 1.25, "note": "why", "rows": [{"config": "a", "ratio": 1.5}]},
        "decoder": {"result": "skipped", "seconds": 0.1, "note": ""},
    }
    page = script.page({"device": "cuda", "small": False, "checks": checks, "environment": {"gpu": "X"}})
    assert "On cuda: 0 passed, 1 failed, 1 skipped." in page and "- gpu: X" in page
    assert "## Memory" in page and "1.5" in page and "## Decoder" not in page
