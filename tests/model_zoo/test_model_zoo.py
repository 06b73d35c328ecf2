"""Look-up of configurations by name."""

import pytest

from nlvideo import model_zoo
from nlvideo.config import load_cfg
from nlvideo.model_zoo import model_zoo as module


@pytest.fixture
def configs(tmp_path, monkeypatch):
    for name in ("quickstart/c2d", "quickstart/c2d_nl", "kinetics/i3d_r50_32x2_nl5"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("SOLVER:\n  BASE_LR: 0.5\n")
    (tmp_path / "README.md").write_text("not a config")
    monkeypatch.setattr(module, "CONFIG_DIR", tmp_path)
    return tmp_path


def test_names_are_paths_below_configs(configs):
    assert model_zoo.list_configs() == ["kinetics/i3d_r50_32x2_nl5", "quickstart/c2d", "quickstart/c2d_nl"]


@pytest.mark.parametrize("name", ["quickstart/c2d", "quickstart/c2d.yaml", "c2d", "c2d.yaml"])
def test_the_path_of_a_config(configs, name):
    assert model_zoo.get_config_file(name) == str(configs / "quickstart" / "c2d.yaml")


def test_a_config_with_overrides(configs):
    cfg = model_zoo.get_config("quickstart/c2d", ["SEED", "7"])
    assert (cfg.SOLVER.BASE_LR, cfg.SEED, cfg.is_frozen()) == (0.5, 7, True)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("quickstart/cd2", "did you mean 'quickstart/c2d'"),
        ("kinetics/c2d_nl", "did you mean 'quickstart/c2d_nl'?"),
        ("charades/i3d_r50_32x2_nl5.yaml", "did you mean 'kinetics/i3d_r50_32x2_nl5'?"),
        ("zzz", "no name is close. No folder here, no config in "),
        ("../configs/quickstart/c2d", "did you mean"),
    ],
)
def test_unknown_names_get_near_matches(configs, name, hint):
    with pytest.raises(KeyError) as error:
        model_zoo.get_config_file(name)
    assert str(error.value).startswith(f"unknown config {name!r}: ") and hint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_last_part_of_a_name_is_enough_where_it_is_unique(configs):
    twin = configs / "kinetics/authors/c2d.yaml"
    twin.parent.mkdir()
    twin.write_text("SEED: 3\n")
    assert model_zoo.get_config_file("c2d_nl") == str(configs / "quickstart/c2d_nl.yaml")
    assert model_zoo.get_config("authors/c2d").SEED == 3
    with pytest.raises(KeyError) as error:
        model_zoo.get_config("c2d")
    expected = "config 'c2d': several have this name, allowed: 'kinetics/authors/c2d', 'quickstart/c2d'"
    assert str(error.value) == expected
    assert model_zoo.get_config_file("quickstart/c2d") == str(configs / "quickstart/c2d.yaml")
    # A whole name comes first, though it is also the end of another.
    (configs / "c2d.yaml").write_text("SEED: 4\n")
    assert model_zoo.get_config("c2d").SEED == 4


def test_the_name_in_the_readme_builds_a_network():
    model = model_zoo.get("c2d_r50_8x8", opts=["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.WIDTH", "0.125"])
    assert model.cfg.INPUT.NUM_FRAMES == 8 and not model.training
    with pytest.raises(KeyError, match="'c2d_r50_32x2': several .* 'kinetics/authors/c2d_r50_32x2', 'kinetics/c2d_r"):
        model_zoo.get("c2d_r50_32x2")


def test_the_real_folder_is_that_of_the_repository():
    assert module.CONFIG_DIR.name == "configs"
    assert (module.CONFIG_DIR.parent / "nlvideo" / "model_zoo").is_dir()


def test_a_path_as_the_readme_writes_it_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_cfg("configs/quickstart/c2d.yaml") == model_zoo.get_config("quickstart/c2d")
    (tmp_path / "configs/quickstart").mkdir(parents=True)
    (tmp_path / "configs/quickstart/c2d.yaml").write_text("SEED: 7")
    assert load_cfg("configs/quickstart/c2d.yaml").SEED == 7, "the file of the current folder comes first"
    with pytest.raises(FileNotFoundError, match="no config file 'setup.py'"):
        load_cfg("setup.py")


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_every_config_of_the_repository_loads(name):
    assert model_zoo.get_config(name).is_frozen()
