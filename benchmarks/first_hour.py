#!/usr/bin/env python3
"""Time the two commands of README as a newcomer meets them: ``python benchmarks/first_hour.py [quickstart] [test]``.

HEAD is cloned into an empty folder, HOME is empty too, and ``make`` runs there. Time is the whole of it, installation
included. Memory is that of the command and everything it started, pages they share counted once (``Pss`` of Linux's
/proc), as the largest of samples taken every second. Let nothing else run.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tree_of(root_pid: int) -> set[int]:
    """Return ``root_pid`` and what it started: its session, for orphans, and the children of all of those."""
    parents, sessions = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # After the name, which may hold spaces and brackets: state, parent, group, session.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], sessions[int(entry.name)] = int(fields[1]), int(fields[3])
    found, before = {pid for pid in sessions if sessions[pid] == root_pid}, -1
    while len(found) > before:
        before = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def proportional_bytes(pid: int) -> int:
    """Return the memory of one process, in bytes, each shared page divided among its users; 0 once it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure(command: list[str], folder: Path, home: Path) -> dict:
    """Run ``command`` in ``folder``, PATH all its environment but HOME; return its time, peak memory and last lines."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": os.environ.get("LANG", "C.UTF-8")}
    started, peak, ended = time.monotonic(), 0, threading.Event()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def watch() -> None:
        nonlocal peak
        while not ended.wait(1.0):
            peak = max(peak, sum(proportional_bytes(pid) for pid in tree_of(process.pid)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    code = process.wait()
    ended.set()
    watcher.join()
    return {
        "command": " ".join(command),
        "exit_code": code,
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": round(peak / 2**20),
        "last_lines": lines[-12:],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=["quickstart", "test"], help="targets of the Makefile")
    parser.add_argument("--output", default=ROOT / "benchmarks" / "results" / "first_hour", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clone, home = Path(scratch, "nlvideo"), Path(scratch, "home")
        home.mkdir()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(
            ["git", "-C", str(clone), "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        args.output.mkdir(parents=True, exist_ok=True)
        failed = False
        for target in args.targets:
            result = measure(["make", target], clone, home)
            failed |= result["exit_code"] != 0
            result |= {
                "commit": commit,
                "cores": len(os.sched_getaffinity(0)),
                "date": time.strftime("%Y-%m-%d"),
                "python": platform.python_version(),
                "machine": platform.machine(),
            }
            (args.output / f"{target}.json").write_text(json.dumps(result, indent=2) + "\n")
            took = f"{result['seconds']:.0f} s, peak {result['peak_mib']} MiB"
            print(f"== make {target}: {took}, exit {result['exit_code']}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
