"""A small run of benchmarks/records.py: what a record costs in memory, in the main process and in a worker."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks/records.py"
COUNT = 200_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_records_take_little_memory_and_workers_none(tmp_path, load_tool):
    path = load_tool("records", "benchmarks").write_list(tmp_path, COUNT, "csv")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--one", str(path), "--workers", "1"],
        stdout=subprocess.PIPE, check=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, timeout=240,
    )  # fmt: skip
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["records"] == COUNT
    # As dicts alone they would take 130 MiB; as text, bounds and labels 12, and what reading them needs for a moment.
    assert measured["peak_rss"] - measured["rss_before"] < 110
    assert 0 < measured["worker_uss"] < 100
