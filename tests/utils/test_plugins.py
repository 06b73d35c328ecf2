"""Plugins: folders, modules and entry points; imported once, under their own names, picklable."""

import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nlvideo.errors import LookupFailed
from nlvideo.utils import plugins
from nlvideo.utils.plugins import load_plugin, loaded_plugins, resolve_spec


@pytest.fixture(autouse=True)
def restore(monkeypatch):
    """Undo what loading leaves in the process."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", {})
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write_package(folder: Path, text: str = "class Block:\n    pass\n") -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(text)
    return folder


def test_a_package_folder(tmp_path):
    package = write_package(tmp_path / "plug_a")
    plugin = load_plugin(str(package))
    assert plugin.spec == str(package.resolve())
    assert plugin.module.__name__ == "plug_a"
    assert loaded_plugins() == [str(package.resolve())]


def test_a_project_folder_that_holds_one_package(tmp_path):
    write_package(tmp_path / "gated_project" / "plug_b")
    (tmp_path / "gated_project" / "configs").mkdir()
    plugin = load_plugin("./gated_project", base_dir=str(tmp_path))
    assert plugin.module.__name__ == "plug_b"
    assert plugin.spec == str((tmp_path / "gated_project").resolve())


def test_loading_twice_imports_once(tmp_path):
    counter = tmp_path / "count"
    write_package(tmp_path / "plug_c", f"open({str(counter)!r}, 'a').write('x')\n")
    assert load_plugin(str(tmp_path / "plug_c")) is load_plugin("../plug_c", base_dir=str(tmp_path / "else"))
    assert counter.read_text() == "x"


def test_classes_pickle_into_a_process_that_loads_the_plugin(tmp_path):
    package = write_package(tmp_path / "plug_d")
    block = load_plugin(str(package)).module.Block()
    assert type(pickle.loads(pickle.dumps(block))).__module__ == "plug_d"
    load = f"import pickle, sys; sys.path.append({str(tmp_path)!r})"
    program = f"{load}; print(type(pickle.loads({pickle.dumps(block)!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "plug_d.Block" in done.stdout


def test_an_importable_module():
    plugin = load_plugin("colorsys")
    assert plugin.spec == "colorsys"
    assert plugin.module.__name__ == "colorsys"


def test_an_entry_point(monkeypatch):
    point = metadata.EntryPoint("hat", "colorsys", plugins.ENTRY_POINT_GROUP)

    def entry_points(group, name=None):
        return [point] if group == plugins.ENTRY_POINT_GROUP and name in (None, "hat") else []

    monkeypatch.setattr(plugins.metadata, "entry_points", entry_points)
    plugin = load_plugin("hat")
    assert (plugin.spec, plugin.module.__name__) == ("hat", "colorsys")


def test_a_bare_name_is_a_folder_only_where_nothing_of_the_name_is_installed(tmp_path):
    write_package(tmp_path / "plug_e")
    (tmp_path / "json").mkdir()
    assert resolve_spec("plug_e", str(tmp_path)) == str((tmp_path / "plug_e").resolve())
    assert resolve_spec("json", str(tmp_path)) == "json"
    assert resolve_spec("./json", str(tmp_path)) == str((tmp_path / "json").resolve())


def test_a_home_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_spec("~/mine") == str(tmp_path.resolve() / "mine")


def test_a_missing_folder_names_a_near_one(tmp_path):
    write_package(tmp_path / "gated")
    with pytest.raises(LookupFailed, match="no such folder. did you mean 'gated'"):
        load_plugin("./gatd", base_dir=str(tmp_path))


def test_a_folder_without_a_package(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected one package .* got none"):
        load_plugin(str(tmp_path / "empty"))


def test_a_folder_with_two_packages(tmp_path):
    write_package(tmp_path / "two" / "plug_f")
    write_package(tmp_path / "two" / "plug_g")
    with pytest.raises(ValueError, match="got plug_f, plug_g"):
        load_plugin(str(tmp_path / "two"))


def test_a_package_name_that_is_taken(tmp_path):
    package = write_package(tmp_path / "json")
    with pytest.raises(ValueError, match="its package name 'json' is taken by .*rename the package"):
        load_plugin(str(package))
    assert loaded_plugins() == []


def test_an_unknown_name():
    with pytest.raises(LookupFailed, match="plugin 'no_such_thing': no such folder, module or entry point"):
        load_plugin("no_such_thing")


def test_a_namespace_folder_on_the_path_is_no_plugin(tmp_path, monkeypatch):
    (tmp_path / "plainfolder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LookupFailed):
        load_plugin("plainfolder", base_dir=str(tmp_path / "else"))


def test_a_plugin_whose_own_import_fails_is_named(tmp_path):
    package = write_package(tmp_path / "plug_h", "import no_such_dependency\n")
    with pytest.raises(ImportError, match="plug_h' could not be imported: No module named 'no_such_dependency'"):
        load_plugin(str(package))


@pytest.mark.parametrize("spec", ["", None, 3])
def test_a_spec_that_is_no_text(spec):
    with pytest.raises(ValueError, match="PLUGINS: expected a path"):
        load_plugin(spec)
