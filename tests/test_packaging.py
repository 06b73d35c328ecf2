"""setup.py, the Makefile and the continuous-integration script."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import nlvideo

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_arguments():
    """What setup.py hands to setuptools."""
    captured = {}
    text = (ROOT / "setup.py").read_text(encoding="utf8").replace("find_packages, setup", "find_packages")
    exec(compile(text, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py"), "setup": captured.update})
    return captured


def test_the_version_is_that_of_the_package(setup_arguments):
    assert setup_arguments["version"] == nlvideo.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", nlvideo.__version__)


def test_dependencies_have_lower_bounds_only(setup_arguments):
    extras = setup_arguments["extras_require"]
    for requirement in [*setup_arguments["install_requires"], *(one for extra in extras.values() for one in extra)]:
        # A linter that finds more today than yesterday would break the checks: these two alone are pinned.
        bound = "~=" if re.match("ruff|mypy", requirement) else ">="
        assert re.fullmatch(rf"[A-Za-z0-9-]+(\[\w+\])?{bound}[\w.]+", requirement), requirement
    assert setup_arguments["python_requires"] == ">=3.10"
    assert set(extras) >= {"dev", "docs", "plot", "peers", "export", "parquet"}


def test_what_is_imported_is_required(setup_arguments):
    names = {requirement.split(">=")[0] for requirement in setup_arguments["install_requires"]}
    assert {"torch", "torchvision", "fvcore", "iopath", "yacs", "av", "tabulate", "tensorboard", "numpy"} <= names


def test_every_package_of_ours_is_found(setup_arguments, monkeypatch):
    from setuptools import find_packages

    packages = find_packages(str(ROOT), include=["nlvideo", "nlvideo.*"])
    assert {"nlvideo", "nlvideo.utils", "nlvideo.config"} <= set(packages)
    assert not any(name.startswith("tests") for name in packages)


def test_trained_models_are_in_the_wheel(setup_arguments):
    patterns = setup_arguments["package_data"]["nlvideo"]
    packed = {path for pattern in patterns for path in (ROOT / "nlvideo").glob(pattern) if "/" in pattern}
    folder = ROOT / "nlvideo" / "model_zoo" / "quickstart"
    assert {path for path in folder.iterdir() if path.is_file()} == packed & set(folder.iterdir())
    assert {"model.pth", "config.yaml", "classes.txt", "README.md", "report.html"} == {path.name for path in packed}
    assert sum(path.stat().st_size for path in packed) < 5e6


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text and "9. Accepting Warranty" in text


def test_the_citation_and_the_changelog_have_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation["version"] == nlvideo.__version__
    assert citation["preferred-citation"]["title"] == "Non-local Neural Networks"
    headings = re.findall("^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and headings[1].startswith(nlvideo.__version__)


def test_forms_and_hooks_are_valid_and_run_what_make_runs():
    for path in sorted((ROOT / ".github").rglob("*.yml")):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf8")), dict), path
    for form in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")):
        assert {"name", "description", "body"} <= yaml.safe_load(form.read_text(encoding="utf8")).keys()
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf8"))
    assert [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step] == [".ci/run"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf8"))["repos"][0]["hooks"]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == [
        "python -m ruff check", "python -m ruff format", "python -m mypy",
    ]  # fmt: skip


def make(folder, *words):
    """Run make in a folder that has a copy of the Makefile; return the finished process."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("setup.py", "pyproject.toml"):
        (folder / name).write_text("")
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_quickstart_prepares_trains_and_tests(tmp_path):
    text = make(tmp_path, "-n", "quickstart").stdout
    steps = ["-m venv .venv", "pip install -e .", "tools/prepare_beacon.py", "tools/train_net.py", "tools/test_net.py"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    for script in re.findall(r"configs/\S+\.yaml", text):
        assert (ROOT / script).is_file(), script
    for script in re.findall(r"tools/\w+\.py", text):
        assert (ROOT / script).is_file(), script


@needs_make
@pytest.mark.parametrize(("target", "which"), [("test", '-m "not slow"'), ("test-slow", "-m slow")])
def test_test_installs_the_test_tools_and_runs_them(tmp_path, target, which):
    text = make(tmp_path, "-n", target).stdout
    assert text.index('pip install -e ".[dev]"') < text.index("-m pytest") < text.index(which)


@needs_make
def test_test_services_installs_debian_packages_and_extras(tmp_path):
    """Debian's packages come only where a program of theirs is missing."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("which", 'for name; do test -e "$0/../$name" || exit 1; done'), ("id", "echo 1000")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n".replace("$0/..", str(programs)))
    (programs / "sudo").write_text('#!/bin/sh\necho sudo "$@"\n')
    names = ("slurmctld", "slurmd", "srun", "munged", "ps")
    for path in (*programs.iterdir(), *(programs / name for name in names)):
        path.touch()
        path.chmod(0o755)
    words = ["debian-packages", f"PATH={programs}:/usr/bin:/bin"]
    assert "sudo" not in make(tmp_path, *words).stdout
    (programs / "munged").unlink()
    text = make(tmp_path, *words).stdout
    assert "sudo apt-get update" in text and "slurm-wlm munge" in text
    text = make(tmp_path, "-n", "test-services").stdout
    places = [text.index(step) for step in ("apt-get", "-m venv .venv", "pip install -e", "-m pytest tests/services")]
    assert places == sorted(places)


@needs_make
@pytest.mark.parametrize(
    "target, extra, tools",
    [
        ("lint", "dev", ["-m ruff check\n", "-m ruff format --check\n", "-m mypy\n"]),
        ("docs", "docs", ["-m mkdocs build --strict\n"]),
    ],
)
def test_lint_and_docs_install_their_tools_and_run_them(tmp_path, setup_arguments, target, extra, tools):
    text = make(tmp_path, "-n", target).stdout
    places = [text.index(f'pip install -e ".[{extra}]"'), *(text.index(tool) for tool in tools)]
    assert places == sorted(places)
    names = {re.split("[>~]=", requirement)[0] for requirement in setup_arguments["extras_require"][extra]}
    assert {tool.split()[1] for tool in tools} <= names


@needs_make
def test_a_second_call_does_not_install_again(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho ran "$@"\n')
    python.chmod(0o755)
    first, second = (
        make(tmp_path, "test").stdout,
        subprocess.run(["make", "test"], cwd=tmp_path, capture_output=True, text=True).stdout,
    )
    assert "ran -m pip install" in first and "ran -m pytest" in first
    assert "install" not in second and "ran -m pytest" in second


@needs_make
def test_a_failed_install_is_tried_again(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    for _ in range(2):
        done = make(tmp_path, "test")
        assert done.returncode != 0 and "pip install" in done.stdout


@needs_make
@pytest.mark.parametrize(
    "python, text",
    [
        ("no-such-python", "error: nlvideo needs Python 3.10 or newer"),
        ("false", "error: nlvideo needs Python 3.10 or newer, and 'false' is not one"),
        ("./lacks_venv", "error: './lacks_venv' lacks the module venv"),
    ],
)
def test_a_python_that_will_not_do_is_said_in_one_line(tmp_path, python, text):
    script = tmp_path / "lacks_venv"
    script.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    script.chmod(0o755)
    done = make(tmp_path, "test", f"PYTHON={python}")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert len(errors) == 1 and errors[0].startswith(text)
    assert not (tmp_path / ".venv" / "bin").exists()


@pytest.mark.parametrize("has_data", [True, False])
def test_ci_checks_and_then_tests_with_real_videos_where_there_are_some(tmp_path, has_data):
    (tmp_path / "main" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "main" / ".ci")
    makefile = 'lint:\n\t@echo lint\n\ntest:\n\t@echo "data: [$$NLVIDEO_TEST_DATA] in $$PWD"\n\ntest-slow: test\n'
    (tmp_path / "main" / "Makefile").write_text(makefile)
    data = tmp_path / "shared" / "data"
    if has_data:
        data.mkdir(parents=True)
    done = subprocess.run(
        [str(tmp_path / "main" / ".ci" / "run")],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "lint"
    assert f"data: [{data.resolve() if has_data else ''}] in {tmp_path.resolve() / 'main'}" in done.stdout


@pytest.mark.parametrize("failing", ["lint", "test", "test-slow"])
def test_ci_fails_when_the_checks_or_the_tests_fail(tmp_path, failing):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text(f"lint test test-slow:\n\t@test $@ != {failing}\n")
    done = subprocess.run(["bash", str(tmp_path / ".ci" / "run")], capture_output=True, text=True)
    assert done.returncode != 0
