"""What the documents show is run: Python blocks as they stand, the commands of GETTING_STARTED one after the other."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*(ROOT / f"{name}.md" for name in ("README", "GETTING_STARTED", "CONTRIBUTING")), *ROOT.glob("docs/*.md")]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, dedented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def python_blocks() -> list:
    """One parameter per Python block of every document."""
    return [pytest.param(text, id=f"{d.name}-{i}") for d in DOCUMENTS for i, text in enumerate(blocks(d, "python"))]


@pytest.mark.parametrize("text", python_blocks())
def test_python_block_runs(text):
    code = f"import os; os.chdir({str(ROOT)!r})\n{text}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_getting_started_commands_run_in_order(tmp_path):
    """Everything in its ``bash`` blocks, in a copy of the tree's layout so that outputs land elsewhere."""
    for entry in ["tools", "configs", "projects", "nlvideo"]:
        (tmp_path / entry).symlink_to(ROOT / entry)
    environment = {**os.environ, "NLVIDEO_DATASETS": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "1"}
    lines = "\n".join(blocks(ROOT / "GETTING_STARTED.md", "bash")).replace("\\\n", " ").splitlines()
    commands = [line.strip() for line in lines if line.strip()]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python", command
        command_line = [sys.executable, *words[1:]]
        done = subprocess.run(command_line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (tmp_path / "output/instant/metrics.json").is_file()
    assert (tmp_path / "output/instant/config.yaml").is_file()


def shown_commands() -> list:
    """Every ``python tools/...`` line of every document, whichever block it stands in."""
    lines = {}
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        for command in re.findall(r"(?:python |^ *|`)((?:tools|benchmarks)/\w+\.py[^\n`]*)", text, re.MULTILINE):
            lines[command.strip()] = document.name
    return [pytest.param(command, id=command[:60]) for command in lines]


@pytest.mark.parametrize("command", shown_commands())
def test_shown_scripts_and_their_flags_exist(command):
    script, *words = shlex.split(command)
    assert (ROOT / script).is_file(), f"{script} is shown but does not exist"
    text = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True).stdout
    for word in words:
        if word.startswith("--"):
            assert word in text, f"{script} has no {word}"
        if word.endswith(".yaml"):
            assert (ROOT / word).is_file(), f"{word} is shown but does not exist"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
