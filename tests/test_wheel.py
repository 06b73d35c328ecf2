"""An installed wheel does without the repository: configs, trained models and every tool."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py"))

HELP_OF_EACH = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    said, sys.argv = io.StringIO(), [name, "--help"]
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_module(f"nlvideo.tools.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as done:
        assert not done.code, (name, done.code)
    assert f"usage: {name}.py" in said.getvalue(), name
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that nothing is left in the repository, offline."""
    source, folder = tmp_path_factory.mktemp("source") / "nlvideo", tmp_path_factory.mktemp("wheel")
    for name in ("nlvideo", "tools", "configs", "model_zoo"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("nlvideo-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel alone."""
    site = tmp_path_factory.mktemp("site")
    pip("install", "--target", str(site), str(wheel))
    return site


def pip(*words: str) -> None:
    """Run pip without the network."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", words[0], "--quiet", "--no-deps", "--no-index", *words[1:]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run Python in an empty folder, with the installed nlvideo before any other."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def printed(installed: Path, folder: Path, *words: str) -> str:
    """Run Python, which must succeed, and return what it prints."""
    done = run(installed, folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_files_and_no_others(wheel, installed):
    held = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.suffix != ".pyc"}
    for folder, ending in (("nlvideo", "*.py"), ("tools", "*.py"), ("configs", "*.yaml"), ("model_zoo", "*.yaml")):
        where = "" if folder == "nlvideo" else "nlvideo/"
        for path in (ROOT / folder).rglob(ending):
            assert where + path.relative_to(ROOT).as_posix() in held
    assert "nlvideo/py.typed" in held and "nlvideo/model_zoo/quickstart/model.pth" in held
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"nlvideo", "bin"}
    assert wheel.stat().st_size < 6e6


def test_configs_and_trained_models_are_found_by_name(installed, tmp_path):
    code = """
import nlvideo, sys
from nlvideo import model_zoo
print(nlvideo.__file__)
network = model_zoo.get("quickstart/c2d_nl")
print(type(network).__name__, len(model_zoo.list_configs()), model_zoo.list_trained())
"""
    place, found = printed(installed, tmp_path, "-c", code).splitlines()
    assert Path(place).is_relative_to(installed)
    assert found == f"VideoClassifier {len(list((ROOT / 'configs').rglob('*.yaml')))} ['quickstart']"


def test_every_tool_runs_as_a_module(installed, tmp_path):
    assert len(TOOLS) > 20
    printed(installed, tmp_path, "-c", HELP_OF_EACH, *TOOLS)
    assert "usage: " in printed(installed, tmp_path, "-m", "nlvideo.tools.train_net", "--help")


def test_the_command_lists_the_tools(installed, tmp_path):
    command = str(installed / "bin" / "nlvideo")
    text = printed(installed, tmp_path, command)
    assert text == printed(installed, tmp_path, command, "--help")
    assert [line.split()[0] for line in text.splitlines()[3:]] == TOOLS
    assert "  train_net            Train the network of a config, or test it with --eval-only." in text


def test_an_unknown_tool_is_one_line(installed, tmp_path):
    done = run(installed, tmp_path, str(installed / "bin" / "nlvideo"), "trian_net")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nlvideo: there is no tool 'trian_net'; did you mean 'train_net' or 'plain_train_net'?\n"


def test_the_command_trains_with_a_config_of_the_wheel(installed, tmp_path):
    words = ["train_net", "--config-file", "configs/quickstart/instant_test.yaml", "OUTPUT_DIR", "run"]
    # Two ranks, which must find the functions of the tool again.
    words[1:1] = ["--num-gpus", "2"]
    printed(installed, tmp_path, str(installed / "bin" / "nlvideo"), *words)
    assert (tmp_path / "run" / "model_final.pth").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"datasets", "run"}


def test_the_tools_that_need_lib_run_in_the_wheel(installed, tmp_path):
    words = ["-m", "nlvideo.tools.make_model_zoo", "--output", "zoo.md"]
    assert printed(installed, tmp_path, *words) == "Wrote zoo.md\n"
    assert (tmp_path / "zoo.md").read_text() == (ROOT / "MODEL_ZOO.md").read_text()


def test_the_repository_has_the_tools_as_modules_too():
    """Where nlvideo is imported from a clone, the modules are those of ``tools/``."""
    imports = "from nlvideo.tools import report; from nlvideo.tools.lib import ledger"
    files = printed(ROOT, ROOT.parent, "-c", f"{imports}; print(ledger.__file__, report.__file__)").split()
    assert files == [str(ROOT / "tools" / "lib" / "ledger.py"), str(ROOT / "tools" / "report.py")]
