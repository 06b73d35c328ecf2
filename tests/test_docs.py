"""What the documents show is true: Python blocks run, commands parse, and names, paths and links exist."""

import argparse
import functools
import importlib
import inspect
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from nlvideo import model_zoo
from nlvideo.config import load_cfg
from nlvideo.engine.script import default_argument_parser

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "docs/*.md", "benchmarks/*.md", "datasets/*.md", "projects/**/*.md", "nlvideo/**/*.md")
DOCUMENTS = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.relative_to(ROOT).as_posix())
# Of this repository or of the example project; no placeholders such as `configs/FILE` or `results/<trial>`.
PATH = re.compile(
    r"(?<![\w./-])(?:tools|configs|docs|benchmarks|projects|nlvideo|tests|model_zoo)/[\w./-]*\w/?(?![\w*<{])"
)


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, dedented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def inline_code(document: Path) -> list[str]:
    """The pieces of inline code, without those inside of fenced blocks."""
    text = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder that looks like the repository, so that what is written lands elsewhere."""
    for entry in ("tools", "configs", "projects", "nlvideo", "docs", "benchmarks"):
        (tmp_path / entry).symlink_to(ROOT / entry)
    return tmp_path


def python_blocks() -> list:
    """One parameter per Python block of every document."""
    return [
        pytest.param(text, id=f"{d.relative_to(ROOT)}-{i}")
        for d in DOCUMENTS
        for i, text in enumerate(blocks(d, "python"))
    ]


@pytest.mark.parametrize("text", python_blocks())
def test_python_block_runs(text, workplace, make_video):
    make_video(workplace / "clip.mp4")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", text], cwd=workplace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_getting_started_commands_run_in_order(workplace):
    """Everything in its ``bash`` blocks."""
    environment = {**os.environ, "NLVIDEO_DATASETS": str(workplace / "datasets"), "OMP_NUM_THREADS": "1"}
    lines = "\n".join(blocks(ROOT / "GETTING_STARTED.md", "bash")).replace("\\\n", " ").splitlines()
    commands = [line.strip() for line in lines if line.strip()]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "python", command
        command_line = [sys.executable, *words[1:]]
        done = subprocess.run(command_line, cwd=workplace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (workplace / "output/instant/metrics.json").is_file()
    assert (workplace / "output/instant/config.yaml").is_file()


# What makes the networks of own videos small, and their trainings a few iterations long.
SMALL = """
    MODEL.WEIGHTS '' INPUT.NUM_FRAMES 4 INPUT.SHORT_SIDE_RANGE [32,34] INPUT.CROP_SIZE 32 TEST.SHORT_SIDE 32
    TEST.CROP_SIZE 32 TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 SOLVER.CLIPS_PER_BATCH 2 SOLVER.MAX_EPOCHS 1.0 SOLVER.MIN_ITER 0
    MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 0
"""
SECTIONS = [("README.md", "Train on your own videos"), ("docs/finetune.md", "Three commands")]


@pytest.mark.slow
@pytest.mark.parametrize("document, title", SECTIONS)
def test_a_newcomers_commands_lead_from_a_folder_of_videos_to_a_label(document, title, workplace, make_video):
    """Every command of the section runs as it stands, on videos where the section puts them; training is made small."""
    for part, name, number in itertools.product(("train", "val"), ("juggling", "walking"), range(3)):
        length = 8 + number + 6 * (part == "val") + 3 * (name == "walking")
        make_video(workplace / f"videos/{part}/{name}/{number}.mp4", num_frames=length)
    make_video(workplace / "new.mp4", num_frames=30)
    section = re.search(rf"^## {title}\n(.*?)^## ", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)[1]
    found = re.findall(r"python (tools/\w+\.py [^`\n]+)", section.replace("\\\n", " "))
    scripts, environment = [], {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in found:
        script, *words = shlex.split(command)
        if script in scripts:
            continue  # the same for other data
        scripts.append(script)
        small = shlex.split(SMALL) if script.endswith("train_net.py") else []
        command_line = [sys.executable, script, *words, *small]
        done = subprocess.run(command_line, cwd=workplace, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if script.endswith("predict.py"):
            labels = re.findall(r"^(\w+) +[\d.]+ %$", done.stdout, re.MULTILINE)
            assert sorted(labels) == ["juggling", "walking"], done.stdout
    assert scripts[:2] == ["tools/train_net.py", "tools/predict.py"]
    assert (workplace / "output/mine/report.html").is_file()


EXAMPLES = re.findall(
    r"^### `(\w+)`\n.*?^```python\n(.*?)^```\n\n```\n(python .*?)^```",
    (ROOT / "docs/extend.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_every_registry_has_an_example():
    source = "\n".join(path.read_text() for path in (ROOT / "nlvideo").rglob("*.py"))
    registries = re.findall(r"^(\w+) = Registry\(", source, re.MULTILINE)
    assert sorted(name for name, _, _ in EXAMPLES) == sorted(registries) and len(registries) == 9


@pytest.mark.slow
@pytest.mark.parametrize("code, command", [pytest.param(*rest, id=name) for name, *rest in EXAMPLES])
def test_an_example_of_a_registry_trains_and_tests(code, command, workplace):
    """The code is saved where the page says, and the command below it runs as it stands."""
    (workplace / "mine").mkdir()
    (workplace / "mine/__init__.py").write_text(code)
    words = shlex.split(command.replace("\\\n", " "))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command_line = [sys.executable, *words[1:], "OUTPUT_DIR", "out"]
    done = subprocess.run(command_line, cwd=workplace, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    own = re.search(r"class (\w+)\(", code)[1]
    assert own in shlex.join(words) and own in (workplace / "out/config.yaml").read_text()
    assert (workplace / "out/model_final.pth").is_file()


def shown_commands() -> list:
    """Every command of every document that runs a script of ours, whether it stands in a block or in a sentence."""
    lines: dict[str, str] = {}
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        for line in [*re.findall(r"^(?: {4,}| *[A-Z_]+=\S+ )?(.*)$", text, re.MULTILINE), *inline_code(document)]:
            for command in re.findall(r"python ((?:tools|benchmarks)/\w+\.py[^`|&;]*)|nlvideo (\w+ --[^`|&;]*)", line):
                shown = command[0] or f"tools/{command[1].replace(' ', '.py ', 1)}"
                lines.setdefault(" ".join(shown.split()), document.relative_to(ROOT).as_posix())
    return [pytest.param(command, id=f"{document}: {command[:60]}") for command, document in lines.items()]


@functools.cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script builds."""
    names = runpy.run_path(str(ROOT / script))
    if "build_parser" in names:
        return names["build_parser"]()
    if inspect.signature(names["main"]).parameters:
        return default_argument_parser(names["__doc__"])
    patched = mock.patch("argparse.ArgumentParser.parse_args", autospec=True, side_effect=Built)
    with patched as parse, pytest.raises(Built):
        names["main"]()
    return parse.call_args.args[0]


class Built(Exception):
    """Ends a script that has built its parser."""


@pytest.mark.parametrize("command", shown_commands())
def test_shown_command_parses(command, monkeypatch, capsys):
    """The script takes the words, and the config takes the overrides."""
    monkeypatch.chdir(ROOT)
    script, *words = shlex.split(command, comments=True)
    assert (ROOT / script).is_file(), f"{script} is shown but does not exist"
    if not words or any("..." in word for word in words):
        return  # a script that is named, or a command whose rest is left to the reader
    try:
        args = parser_of(script).parse_args(words)
    except SystemExit as done:
        assert "--help" in words and not done.code, capsys.readouterr().err
        return
    if getattr(args, "plugin", []) == ["mine"]:
        return  # an example that another test saves and runs
    config_file, opts = getattr(args, "config_file", None), getattr(args, "opts", None) or []
    if config_file and "/" in config_file:
        assert (ROOT / config_file).is_file(), f"{config_file} is shown but does not exist"
        load_cfg(config_file, opts, getattr(args, "plugin", []))


@functools.cache
def all_flags() -> set[str]:
    """The flags of all scripts."""
    scripts = [
        path.relative_to(ROOT).as_posix() for name in ("tools", "benchmarks") for path in (ROOT / name).glob("*.py")
    ]
    flags: set[str] = set()
    for script in scripts:
        parsers = [parser_of(script)]
        for action in parsers[0]._actions:
            parsers += action.choices.values() if isinstance(action, argparse._SubParsersAction) else []
        flags.update(flag for parser in parsers for action in parser._actions for flag in action.option_strings)
    return flags


# Flags of other programs.
FOREIGN_FLAGS = {"--dist", "--nnodes", "--rdzv-id", "--shm-size"}
# Slurm's.
FOREIGN_FLAGS |= {
    "--account",
    "--array",
    "--batch",
    "--cpus-per-task",
    "--gpus-per-node",
    "--gpus-per-task",
    "--gres",
    "--nodes",
}
FOREIGN_FLAGS |= {"--ntasks-per-node", "--partition", "--requeue", "--signal", "--time"}
# Keys of other frameworks, and one that shows what an error looks like.
FOREIGN_KEYS = {"MODEL.ARCH", "MODEL.BACKBON.DEPTH"}


@each_document
def test_named_flags_exist(document):
    for code in inline_code(document):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert flag in all_flags() | FOREIGN_FLAGS, f"{flag} in `{code}`"


@each_document
def test_named_config_keys_exist(document):
    # A page of a project also names that project's keys.
    projects = [path.parent for path in document.parent.glob("*/__init__.py")] if "projects" in document.parts else []
    cfg = load_cfg(None, plugins=[str(ROOT / "projects/example_project"), *map(str, projects)])
    sections = "|".join(key for key, value in cfg.items() if isinstance(value, dict))
    for code in inline_code(document):
        for key in re.findall(rf"(?<![\w.])(?:{sections})(?:\.[A-Z0-9_]+)+(?![\w.])", code):
            node = cfg
            for part in key.split(".") if key not in FOREIGN_KEYS else ():
                assert part in node, f"{key} in `{code}`"
                node = node[part]


@each_document
def test_named_parts_of_nlvideo_exist(document):
    for code in inline_code(document):
        for name in re.findall(r"(?<![\w./-])nlvideo(?:\.\w+)+", code):
            # The changelog also names what was before.
            if not name.endswith((".plugins", ".json")) and document.name != "CHANGELOG.md":
                assert exists(name), f"{name} in `{code}`"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    place = importlib.import_module("nlvideo")
    for depth, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(place, part):
            try:
                importlib.import_module(".".join(name.split(".")[:depth]))
            except ImportError:
                return False
        place = getattr(place, part)
    return True


@each_document
def test_named_models_and_configs_exist(document):
    """``model_zoo.get("...")`` and ``Predictor("...")`` of a sentence."""
    for code in inline_code(document):
        for name in re.findall(r"\b(?:get|get_config|Predictor)\(\"([\w/]+)\"", code):
            if name not in (*model_zoo.list_trained(), "packed"):  # the folder of the example
                model_zoo.get_config_file(name)


@each_document
def test_shown_paths_exist(document):
    for path in PATH.findall(document.read_text()):
        assert any((base / path).exists() for base in (ROOT, document.parent, ROOT / "projects/example_project")), path


@each_document
def test_links_lead_somewhere(document):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]+))?\)", document.read_text()):
        if target.startswith("http"):
            continue
        file = document.parent / target if target else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document.name} links to {target}#{anchor}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
