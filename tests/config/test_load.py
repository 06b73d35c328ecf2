"""load_cfg: files, plugins, overrides, validation, freezing, and the way back from a dump."""

import os
import sys

import pytest
import yaml

from nlvideo.config import get_cfg, load, load_cfg
from nlvideo.errors import LookupFailed
from nlvideo.utils import plugins

PLUGIN = """
from nlvideo.config import CfgNode

def add_config(cfg):
    cfg.MODEL.{section} = CfgNode()
    cfg.MODEL.{section}.RATE = 0.5
"""


@pytest.fixture(autouse=True)
def restore(monkeypatch):
    """Undo what loading plugins leaves in the process."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_loaded", {})
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write_project(folder, package, section):
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(PLUGIN.format(section=section))
    (folder / "configs").mkdir()
    return folder


def write_yaml(path, text):
    path.write_text(text)
    return str(path)


def test_the_defaults():
    cfg = load_cfg(None)
    assert cfg == get_cfg()
    assert cfg.is_frozen() and cfg.MODEL.HEAD.is_frozen()


def test_get_cfg_is_a_copy_and_free_to_change():
    get_cfg().MODEL.HEAD.NUM_CLASSES = 3
    assert get_cfg().MODEL.HEAD.NUM_CLASSES == 400


def test_overrides_have_the_last_word(tmp_path):
    path = write_yaml(tmp_path / "a.yaml", "MODEL: {HEAD: {NUM_CLASSES: 5, DROPOUT: 0}}\n")
    cfg = load_cfg(path, ["MODEL.HEAD.NUM_CLASSES", "6", "MODEL.NONLOCAL.ENABLED", "true"])
    assert (cfg.MODEL.HEAD.NUM_CLASSES, cfg.MODEL.HEAD.DROPOUT, cfg.MODEL.NONLOCAL.ENABLED) == (6, 0.0, True)


def test_the_result_is_validated():
    with pytest.raises(ValueError, match="SOLVER.WARMUP_ITERS"):
        load_cfg(None, ["SOLVER.WARMUP_ITERS", "10", "SOLVER.MAX_ITER", "5", "SOLVER.STEPS", "[]"])


def test_a_plugin_adds_its_keys_before_they_are_read(tmp_path):
    project = write_project(tmp_path / "gated", "load_gated", "GATED")
    path = write_yaml(project / "configs" / "a.yaml", 'PLUGINS: [".."]\nMODEL: {GATED: {RATE: 1}}\n')
    cfg = load_cfg(path, ["MODEL.GATED.RATE", "2"])
    assert cfg.MODEL.GATED.RATE == 2.0
    assert cfg.PLUGINS == [str(project.resolve())]
    assert "GATED" not in get_cfg().MODEL


def test_each_config_gets_the_keys_although_the_import_happens_once(tmp_path):
    project = write_project(tmp_path / "gated", "load_gated2", "GATED")
    for _ in range(2):
        assert load_cfg(None, plugins=[str(project)]).MODEL.GATED.RATE == 0.5


def test_plugins_of_base_leaf_and_argument_add_up(tmp_path, monkeypatch):
    one = write_project(tmp_path / "one", "load_one", "ONE")
    two = write_project(tmp_path / "two", "load_two", "TWO")
    write_project(tmp_path / "three", "load_three", "THREE")
    write_yaml(one / "configs" / "base.yaml", 'PLUGINS: [".."]\nMODEL: {ONE: {RATE: 3}}\n')
    leaf = write_yaml(two / "configs" / "leaf.yaml", '_BASE_: ../../one/configs/base.yaml\nPLUGINS: [".."]\n')
    monkeypatch.chdir(tmp_path)
    cfg = load_cfg(leaf, plugins=["./three", "./one"])
    assert [os.path.basename(spec) for spec in cfg.PLUGINS] == ["one", "two", "three"]
    assert (cfg.MODEL.ONE.RATE, cfg.MODEL.TWO.RATE, cfg.MODEL.THREE.RATE) == (3.0, 0.5, 0.5)


def test_a_plugin_without_keys():
    assert load_cfg(None, plugins=["colorsys"]).PLUGINS == ["colorsys"]


def test_a_key_of_a_plugin_that_is_not_listed():
    with pytest.raises(LookupFailed) as info:
        load_cfg(None, ["MODEL.GATED.RATE", "1"])
    assert "unknown key 'MODEL.GATED.RATE'" in str(info.value)
    assert "Plugins loaded: none (a project's keys exist only once it is listed in PLUGINS)" in str(info.value)


def test_plugins_are_no_override():
    with pytest.raises(ValueError, match="PLUGINS: cannot be an override.*use --plugin"):
        load_cfg(None, ["PLUGINS", "[colorsys]"])


def test_plugins_must_be_a_list(tmp_path):
    with pytest.raises(ValueError, match="PLUGINS: expected list, got str 'colorsys'"):
        load_cfg(write_yaml(tmp_path / "a.yaml", "PLUGINS: colorsys\n"))


def test_a_dump_reads_back_from_any_folder(tmp_path, monkeypatch):
    project = write_project(tmp_path / "gated", "load_gated3", "GATED")
    path = write_yaml(
        project / "configs" / "a.yaml",
        'PLUGINS: [".."]\nMODEL: {GATED: {RATE: 1e-5}, WEIGHTS: "123"}\nSOLVER: {BASE_LR: 1e-7}\n'
        "DATASETS: {TRAIN: ['list:a b.txt']}\nTEST: {EXPECTED_RESULTS: [[classification, top1, 50, 1.5]]}\n",
    )
    cfg = load_cfg(path)
    (tmp_path / "elsewhere").mkdir()
    dumped = write_yaml(tmp_path / "elsewhere" / "config.yaml", cfg.dump())
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_cfg(dumped)
    assert again == cfg
    assert (again.SOLVER.BASE_LR, again.MODEL.WEIGHTS, again.MODEL.GATED.RATE) == (1e-7, "123", 1e-5)


def test_the_dump_of_the_defaults_is_safe_yaml():
    assert yaml.safe_load(load_cfg(None).dump())["MODEL"]["HEAD"]["NUM_CLASSES"] == 400


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with configs like a clone's, as the only place to look."""
    for name in (
        "configs/quickstart/i3d_nl.yaml",
        "configs/kinetics/i3d_r50_32x2_nl5.yaml",
        "projects/gated/configs/gated_instant_test.yaml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "_ROOTS", (load.Path("."),))


@pytest.mark.parametrize(
    "asked, near",
    [
        ("configs/quickstart/i3d_nll.yaml", "configs/quickstart/i3d_nl.yaml"),
        ("configs/i3d_nl.yaml", "configs/quickstart/i3d_nl.yaml"),
        ("i3d_nl", "configs/quickstart/i3d_nl.yaml"),
        ("configs/kinetics/i3d_r50_32x2_nl10.yaml", "configs/kinetics/i3d_r50_32x2_nl5.yaml"),
        ("gated_instant_tes.yaml", "projects/gated/configs/gated_instant_test.yaml"),
    ],
)
def test_a_missing_file_lists_near_matches(tree, asked, near):
    with pytest.raises(FileNotFoundError) as info:
        load_cfg(asked)
    assert str(info.value).startswith(f"no config file '{asked}'; did you mean {near}")


def test_a_missing_file_with_nothing_near(tree):
    with pytest.raises(FileNotFoundError) as info:
        load_cfg("qqqqqqqqqqqqqqqqqqqq.txt")
    assert str(info.value) == "no config file 'qqqqqqqqqqqqqqqqqqqq.txt'"


def write_run(folder, specs, name="config.yaml"):
    """A folder with a plugin in it that leaves a file where it is imported, and a config that asks for plugins."""
    (folder / "load_inside").mkdir(parents=True)
    (folder / "load_inside" / "__init__.py").write_text(f"open({str(folder.parent / 'was_run')!r}, 'w').close()\n")
    (folder / name).parent.mkdir(exist_ok=True)
    return write_yaml(folder / name, f"PLUGINS: {specs}\n")


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("config.yaml", "./load_inside"),
        ("config.yaml", "{root}/link/load_inside"),
        ("config.yaml", "../run"),
        ("inference/config.yaml", "{root}/run/load_inside"),
        ("inference/config.yaml", "../load_inside"),
    ],
)
def test_a_plugin_in_the_folder_of_a_run_is_imported_only_by_name(tmp_path, name, spec):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    path = write_run(tmp_path / "run", [spec.format(root=tmp_path)], name)
    asked = plugins.resolve_spec(spec.format(root=tmp_path), os.path.dirname(path))
    with pytest.raises(
        ValueError, match=f"asks for the plugin '{asked}', which comes with its folder.*--plugin {asked}$"
    ):
        load_cfg(path)
    with pytest.raises(ValueError, match="comes with its folder"):
        load_cfg(path, plugins=["colorsys"])
    assert not (tmp_path / "was_run").exists()
    assert load_cfg(path, plugins=[asked]).PLUGINS == [asked] and (tmp_path / "was_run").exists()


def test_relative_plugins_and_bases_come_with_the_folder_too(tmp_path):
    (tmp_path / "beside" / "load_beside").mkdir(parents=True)
    path = write_run(tmp_path / "run", ["../beside"])
    with pytest.raises(ValueError, match="asks for the plugin '.*/beside'"):
        load_cfg(path)
    write_yaml(tmp_path / "run" / "base.yaml", "PLUGINS: [./load_inside]\n")
    with pytest.raises(ValueError, match="asks for the plugin '.*/load_inside'"):
        load_cfg(write_yaml(tmp_path / "run" / "config.yaml", "_BASE_: base.yaml\n"))


def test_a_module_in_the_folder_is_found_without_an_import(tmp_path, monkeypatch):
    for spec in ("load_inside", "load_inside.part"):
        path = write_run(tmp_path / spec / "run", [spec])
        (tmp_path / spec / "run" / spec).mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "path", [str(tmp_path / spec / "run"), *sys.path])
        with pytest.raises(ValueError, match="comes with its folder"):
            load_cfg(path)
        assert not (tmp_path / spec / "was_run").exists()


def test_other_configs_and_other_plugins_load_as_they_are(tmp_path):
    write_project(tmp_path / "own", "load_own", "OWN")
    path = write_run(tmp_path / "run", ["colorsys", str(tmp_path / "own")])
    assert load_cfg(path).MODEL.OWN.RATE == 0.5
    # A config that is no dump of a run is the user's own.
    assert load_cfg(write_run(tmp_path / "project", ["./load_inside"], "train.yaml"))


def test_a_config_that_is_only_read_imports_nothing(tmp_path):
    write_project(tmp_path / "own", "load_own2", "OWN")
    path = write_run(tmp_path / "run", [str(tmp_path / "own")])
    with pytest.raises(ValueError, match="needs the plugin '.*/own'; a config that is only read imports none"):
        load_cfg(path, import_plugins=False)
    assert "load_own2" not in sys.modules
    load_cfg(path)
    assert load_cfg(path, import_plugins=False).MODEL.OWN.RATE == 0.5


@pytest.mark.parametrize("spec", ["3", "''", "[a]"])
def test_a_plugin_that_is_no_text(tmp_path, spec):
    with pytest.raises(ValueError, match="PLUGINS: expected a path, a module or an entry point"):
        load_cfg(write_yaml(tmp_path / "a.yaml", f"PLUGINS: [{spec}]\n"))


def test_a_plugin_gets_the_keys_of_those_before_it_and_is_called_for_each_config(tmp_path):
    one = write_project(tmp_path / "one", "load_first", "FIRST")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "load_second").mkdir()
    (tmp_path / "two" / "load_second" / "__init__.py").write_text(
        "def add_config(cfg):\n    assert not cfg.is_frozen() and cfg.MODEL.FIRST.RATE == 0.5\n    cfg.SECOND = 1\n"
    )
    for _ in range(2):
        cfg = load_cfg(None, ["MODEL.FIRST.RATE", "2"], [str(one), str(tmp_path / "two")])
        assert (cfg.MODEL.FIRST.RATE, cfg.SECOND) == (2.0, 1)
