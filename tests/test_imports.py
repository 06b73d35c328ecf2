"""The direction of imports, over the syntax trees, and what a bare import may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nlvideo"
# Each package may import from packages on lower lines, and none on its own.
LAYERS = [
    {"errors"},
    {"utils"},
    {"config", "layers"},
    {"data", "modeling", "solver"},
    {"checkpoint"},
    {"evaluation"},
    {"engine", "model_zoo", "dataset_tools"},
    {"export", "visualization"},
    {"tools"},
]
# The root package names what users take from it; types are checked through it.
RANK = {name: rank for rank, names in enumerate([*LAYERS, {""}]) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path):
    """Yield the full names of our modules that a file imports, at its top or inside a function."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "nlvideo":
                yield name if name in MODULES else name.rpartition(".")[0]


def top(module):
    """Return the sub-package of a module, or an empty string for the root package."""
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_place():
    assert {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = top(module_name(path))
    for module in imports(path):
        there = top(module)
        if there and there != here:
            assert RANK[there] < RANK[here], f"{path.relative_to(ROOT)} imports {module}"
            assert here != "layers" or there in ("errors", "utils"), (
                f"layers imports nothing but errors and utils, got {module}"
            )


def test_there_is_no_cycle_between_modules():
    edges = {name: {module for module in imports(path) if module in MODULES} for name, path in MODULES.items()}
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            # A package that gathers its modules' names is imported by them only as a prefix.
            edges[name] = {module for module in edges[name] if not module.startswith(f"{name}.")}
    done = set()

    def visit(name, trail):
        assert name not in trail, f"import cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for module in sorted(edges[name]):
                visit(module, [*trail, name])
            done.add(name)

    for name in sorted(MODULES):
        visit(name, [])


@pytest.mark.parametrize("folder", ["utils", "layers"])
def test_lower_layers_never_see_a_cfg(folder):
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            names = {getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "attr", None)}
            assert not names & {"cfg", "CfgNode"}, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_project_test_or_tool(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
        assert not {str(name).split(".")[0] for name in names} & {"projects", "tests", "tools"}


def run(program, *flags):
    """Run a program in a fresh interpreter at the root and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


HEAVY = "print([name for name in ('torch', 'numpy', 'av', 'yaml', 'fvcore') if name in sys.modules])"


def test_importing_the_package_imports_nothing_heavy():
    assert run(f"import sys, nlvideo; print(nlvideo.__version__); {HEAVY}").split("\n")[1] == "[]"


def test_importing_the_config_imports_no_torch():
    assert run("import sys, nlvideo.config; print('torch' in sys.modules)").strip() == "False"


def test_setup_needs_setuptools_alone():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"setuptools"}


def test_every_folder_of_modules_is_a_package():
    # setup.py finds packages by their __init__.py: a folder without one would be missing from the wheel.
    for path in FILES:
        assert (path.parent / "__init__.py").is_file(), path.parent
