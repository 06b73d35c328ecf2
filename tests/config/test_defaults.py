"""The core keys: few, documented, and valid as they stand."""

import re
from pathlib import Path

import pytest

from nlvideo.config import get_cfg, load_cfg

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "nlvideo/config/defaults.py").read_text()
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def test_the_number_of_core_keys_is_a_decision():
    """A key that only some papers need belongs into a project; one that all need changes this number."""
    assert len(list(get_cfg().keys_with_path())) < 150


def test_the_defaults_are_a_valid_config():
    assert load_cfg(None) == get_cfg()


def test_every_key_or_the_group_it_stands_in_is_explained():
    lines = SOURCE.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"_C(\.\w+)+ = ", line) and "CN()" not in line:
            above = lines[number - 1]
            assert above.startswith(("#", "_C")), f"line {number + 1}: {line}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configs_load_and_are_short(path):
    cfg = load_cfg(str(path))
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= (30 if path.stem.startswith("base") else 15)


def test_configs_with_nonlocal_blocks_differ_from_those_without_in_nothing_else():
    for name in ("c2d", "i3d"):
        plain = load_cfg(str(ROOT / f"configs/quickstart/{name}.yaml")).clone()
        with_blocks = load_cfg(str(ROOT / f"configs/quickstart/{name}_nl.yaml"))
        assert with_blocks.MODEL.NONLOCAL.ENABLED and not plain.MODEL.NONLOCAL.ENABLED
        plain.defrost()
        plain.MODEL.NONLOCAL.ENABLED = True
        assert plain == with_blocks
