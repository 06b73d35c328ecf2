"""What a run needs to be repeated: the machine, the versions, the seeds and the commands that started it."""

import contextlib
import datetime
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

import nlvideo
from nlvideo.utils import comm
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import naming
from nlvideo.utils.system.processes import command_line, usable_cpus

#: The file of a run's folder that says what was started there.
INVOCATIONS = "invocations.json"


def environment() -> dict[str, str]:
    """Return what a run depends on, by name: versions, devices, the number of CPUs."""
    rows = {
        "nlvideo": nlvideo.__version__,
        "commit": _commit(),
        "repository": str(_clone() or "none"),
        "python": sys.version.replace("\n", " "),
        "platform": platform.platform(),
        "CPUs usable": usable_cpus(),
        "torch": torch.__version__,
        "CUDA of torch": torch.version.cuda or "none",
        "GPUs": ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none",
        "cuDNN": torch.backends.cudnn.version() or "none",
    }
    for package in ("torchvision", "numpy", "fvcore", "iopath", "yacs", "tensorboard", "av"):
        rows[package] = _version(package)
    libraries = sorted(av.library_versions.items())
    rows["FFmpeg libraries of av"] = ", ".join(f"{name} {'.'.join(map(str, version))}" for name, version in libraries)
    return {name: str(value) for name, value in rows.items()}


def collect_env() -> str:
    """Return ``environment`` as a table."""
    return create_table([{"item": name, "value": value} for name, value in environment().items()])


def append_invocation(folder: str, environment: Mapping[str, str], **facts: Any) -> None:
    """Append a JSON line to ``<folder>/invocations.json``: what runs now, when, where and with what ``environment``.

    ``facts`` are more to remember, of plain types. The folder must exist.
    """
    row = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "folder": os.getcwd(),
        **facts,
        "environment": dict(environment),
    }
    path = os.path.join(folder, INVOCATIONS)
    with naming(path), open(path, "a", encoding="utf8") as file:
        file.write(json.dumps(row) + "\n")


def read_invocations(folder: str) -> list[dict[str, Any]]:
    """Return the lines of ``<folder>/invocations.json``, oldest first, without damaged ones; [] without the file."""
    path, rows = Path(folder, INVOCATIONS), []
    for line in path.read_text(encoding="utf8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def uses_cuda(device: str) -> bool:
    """Return whether ``MODEL.DEVICE`` means a GPU on this machine."""
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def seed_everything(seed: int) -> int:
    """Seed Python, numpy and torch with ``seed`` + rank.

    Args:
        seed: negative draws one at random.

    Returns:
        The seed that all ranks share: ``seed``, or the one drawn. With it, a run can be repeated.
    """
    if seed < 0:
        seed = comm.shared_random_seed()
    own = seed + comm.get_rank()
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
    return seed


def _clone() -> Path | None:
    # A ".git" in a folder above would belong to a project that has nlvideo among its installed packages.
    root = Path(nlvideo.__file__).resolve().parents[1]
    return root if (root / ".git").exists() else None


def _commit() -> str:
    """The commit of the clone that nlvideo runs from, with "-dirty" if files differ; "none" outside of a clone."""
    if (root := _clone()) is None:
        return "none"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"
