"""load_cfg: files, plugins, overrides, validation, freezing, and the way back from a dump."""

import os
import sys

import pytest
import yaml

from nlvideo.config import get_cfg, load, load_cfg
from nlvideo.utils import plugins
from nlvideo.utils.errors import LookupFailed

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
    for name in ("configs/quickstart/i3d_nl.yaml", "configs/kinetics/i3d_r50_32x2_nl5.yaml",
                 "projects/gated/configs/gated_instant_test.yaml"):
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
