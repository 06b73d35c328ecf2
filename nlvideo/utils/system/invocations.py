"""What was started in a folder, when, where and with which versions: one JSON line for each start."""

import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nlvideo.utils.files.file_io import naming

FILE_NAME = "invocations.json"


def command_line(argv: Sequence[str] | None = None, python: str = "python") -> str:
    """Return the command that started this process, ready to paste into a shell.

    Args:
        argv: script and arguments. None: those of this process.
        python: the interpreter to name; under ``torchrun`` it is replaced by that.
    """
    command = [python, *(sys.argv if argv is None else argv)]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        command[:1] = ["torchrun", "--nproc-per-node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    return shlex.join(command)


def append_invocation(folder: str, environment: Mapping[str, str], **facts: Any) -> None:
    """Append a line to ``<folder>/invocations.json``: what runs now.

    Args:
        folder: the output folder; it must exist.
        environment: versions and devices, see ``utils.env.environment``.
        facts: more to remember, of plain types.
    """
    row = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "folder": os.getcwd(),
        **facts,
        "environment": dict(environment),
    }
    path = os.path.join(folder, FILE_NAME)
    with naming(path), open(path, "a", encoding="utf8") as file:
        file.write(json.dumps(row) + "\n")


def read_invocations(folder: str) -> list[dict[str, Any]]:
    """Return the lines of ``<folder>/invocations.json``, oldest first; lines that are damaged are left out.

    An empty list where there is no such file.
    """
    path = os.path.join(folder, FILE_NAME)
    if not os.path.isfile(path):
        return []
    rows = []
    with open(path, encoding="utf8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                rows.append(row)
    return rows
