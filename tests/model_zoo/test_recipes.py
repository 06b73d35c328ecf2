"""The configs of the paper and of the release: names, sources, recipes, and which weights lead to which."""

import re
from pathlib import Path

import pytest

from nlvideo.config import CfgNode, load_cfg
from nlvideo.model_zoo import get_config, get_config_file, list_configs, list_networks
from nlvideo.tools.lib.ledger import read_ledger

# The networks of other zoos are in test_zoo.py.
KINETICS = [name for name in list_networks() if re.match("kinetics/(?!zoo/)", name)]
RELEASE = [name for name in KINETICS if name.startswith("kinetics/authors/")]
PAPER = [name for name in KINETICS if name not in RELEASE]
CHARADES = [name for name in list_networks() if name.startswith("charades/")]
NAMES = [*KINETICS, *CHARADES]

SCHEME = re.compile(
    r"(?P<kind>c2d|i3d)_r(?P<depth>50|101)_(?P<frames>\d+)x(?P<stride>\d)(_nl(?P<blocks>1|5|10))?"
    r"(_(?P<pairwise>gaussian|dot_product|concatenation))?(_(?P<stage>res[2-5]))?(_(?P<attend>space|time))?"
    r"(_(?P<kernel>3x3x3))?(_(?P<schedule>\d+k))?(_(?P<gpus>\d)gpu)?$"
)


def first_line(name: str) -> str:
    """The first line of a config's file."""
    return Path(get_config_file(name)).read_text(encoding="utf8").splitlines()[0]


def schedule(cfg: CfgNode) -> tuple:
    """What makes a schedule."""
    solver = cfg.SOLVER
    return solver.CLIPS_PER_BATCH, solver.BASE_LR, list(solver.STEPS), solver.MAX_ITER


def test_every_row_is_there() -> None:
    assert (len(PAPER), len(RELEASE), len(CHARADES)) == (29, 15, 2)
    measured = {f"quickstart/{name}" for name in ("c2d", "c2d_nl", "i3d", "i3d_nl")}
    zoo = {name for name in list_networks() if name.startswith("kinetics/zoo/")}
    assert set(read_ledger()) == {*NAMES, *zoo, *measured}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_the_config_holds(name: str) -> None:
    parts, cfg = SCHEME.fullmatch(name.rpartition("/")[2]), get_config(name)
    assert parts, name
    backbone, node = cfg.MODEL.BACKBONE, cfg.MODEL.NONLOCAL
    temporal = "c2d" if parts["kind"] == "c2d" else f"i3d_{parts['kernel'] or '3x1x1'}"
    assert (backbone.TEMPORAL, backbone.DEPTH) == (temporal, int(parts["depth"]))
    assert (cfg.INPUT.NUM_FRAMES, cfg.INPUT.FRAME_STRIDE) == (int(parts["frames"]), int(parts["stride"]))
    assert node.ENABLED == bool(parts["blocks"])
    if node.ENABLED:
        form = parts["pairwise"] or "embedded_gaussian", parts["attend"] or "spacetime"
        assert (node.PAIRWISE, node.ATTEND) == form
        if parts["blocks"] == "1":
            last = {"res2": 3, "res3": 4, "res4": 6 if parts["depth"] == "50" else 23, "res5": 3}
            stage = parts["stage"] or "res4"
            assert list(node.BLOCKS) == [f"{stage}.{last[stage] - 2}"]
        else:
            assert (list(node.STAGES), node.EVERY) == (["res3", "res4"], 2 if parts["blocks"] == "5" else 1)
    # The authors' order of pooling and scale of the logits, everywhere.
    assert node.SUBSAMPLE and node.POOL_FIRST and node.SCALE and node.ZERO_INIT
    if parts["schedule"]:
        assert cfg.SOLVER.MAX_ITER == 1000 * int(parts["schedule"][:-1])
    assert cfg.SOLVER.REFERENCE_WORLD_SIZE == int(parts["gpus"] or 8)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_comment_names_the_source_and_its_figures(name: str) -> None:
    line, entry = first_line(name), read_ledger()[name]
    section = "release" if name in RELEASE else "paper"
    start = r"# Release: run_\w+\.sh" if section == "release" else r"# (Table \d|The R101 baseline of Tables)"
    assert re.match(start, line)
    for value in entry[section]["figures"].values():
        assert f"{value:.1f}" in line
    for table in re.findall(r"Table (\d\w?)", line):
        assert table in entry["paper"]["source"] or table == "1"


@pytest.mark.parametrize("name", NAMES)
def test_runs_do_not_share_a_folder_and_start_from_what_another_leaves(name: str) -> None:
    cfg = get_config(name)
    assert cfg.OUTPUT_DIR == f"output/{name}"
    if cfg.MODEL.WEIGHTS == f"torchvision://resnet{cfg.MODEL.BACKBONE.DEPTH}":
        return
    source = re.fullmatch(r"output/(.+)/model_final\.pth", cfg.MODEL.WEIGHTS)[1]
    start = get_config(source)
    assert start.MODEL.BACKBONE.DEPTH == cfg.MODEL.BACKBONE.DEPTH
    assert (start.MODEL.BACKBONE.TEMPORAL, start.MODEL.BACKBONE.STEM) == (
        cfg.MODEL.BACKBONE.TEMPORAL, cfg.MODEL.BACKBONE.STEM,
    )  # fmt: skip
    # The release adds new blocks to the weights of the baseline; the paper's start from the same network.
    assert start.MODEL.NONLOCAL.ENABLED == (cfg.MODEL.NONLOCAL.ENABLED and name not in RELEASE)
    assert start.INPUT.NUM_FRAMES == (128 if name in CHARADES else 8 if "32x4" in name else 32)


@pytest.mark.parametrize("name", KINETICS)
def test_kinetics_as_in_section_4_1(name: str) -> None:
    cfg = get_config(name)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (["kinetics400_train"], ["kinetics400_val"])
    assert (cfg.MODEL.HEAD.NUM_CLASSES, cfg.MODEL.HEAD.LOSS, cfg.INPUT.CROP_SIZE) == (400, "softmax", 224)
    solver, test = cfg.SOLVER, cfg.TEST
    assert (solver.OPTIMIZER, solver.MOMENTUM, solver.NESTEROV, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM) == (
        "SGD", 0.9, True, 1e-4, 0.0,
    )  # fmt: skip
    assert (test.NUM_CLIPS, test.NUM_CROPS, test.SHORT_SIDE, test.CROP_SIZE) == (10, 3, 256, 256)
    assert test.CLIP_SAMPLER == ("AuthorsClips" if name in RELEASE else "UniformClips")
    unusual = name.endswith("300k_4gpu")
    assert list(cfg.INPUT.SHORT_SIDE_RANGE) == [256, 256 if unusual else 320]
    assert cfg.MODEL.HEAD.DROPOUT == (0.0 if unusual else 0.5)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_schedules(name: str) -> None:
    cfg = get_config(name)
    long = cfg.INPUT.NUM_FRAMES == 128
    assert schedule(cfg) == (16 if long else 64, 0.0025 if long else 0.01, [150000, 300000], 400000)
    assert cfg.MODEL.NORM == ("FrozenBN" if long else "BN")
    assert cfg.TEST.PRECISE_BN.ENABLED == (not long)
    assert (cfg.MODEL.BACKBONE.STEM, cfg.MODEL.NONLOCAL.TEMPORAL_GROUPS) == ("paper", 1)


@pytest.mark.parametrize("name", RELEASE)
def test_the_schedules_of_the_release(name: str) -> None:
    cfg, leaf = get_config(name), name.rpartition("/")[2]
    frozen = leaf.split("_")[2] in ("32x4", "128x1")
    special = {
        "i3d_r50_8x8_300k": (64, 0.01, [150000, 250000], 300000),
        "i3d_r50_8x8_600k_4gpu": (32, 0.005, [300000, 500000], 600000),
        "i3d_r50_8x8_300k_4gpu": (32, 0.005, [150000, 250000], 300000),
    }
    usual = (16 if frozen else 64, 0.0025 if frozen else 0.01, [150000, 300000], 400000)
    assert schedule(cfg) == special.get(leaf, usual)
    assert cfg.MODEL.BACKBONE.STEM == ("authors_8x8" if "8x8" in leaf or "32x4" in leaf else "authors_32x2")
    assert cfg.MODEL.NORM == ("FrozenBN" if frozen else "BN") and cfg.TEST.PRECISE_BN.ENABLED == (not frozen)
    node = cfg.MODEL.NONLOCAL
    grouped = (node.NORM, node.TEMPORAL_GROUPS, list(node.TEMPORAL_GROUP_STAGES))
    assert grouped == (("none", 4, ["res3"]) if frozen else ("same", 1, []))


@pytest.mark.parametrize("name", CHARADES)
def test_charades_as_in_section_5_2(name: str) -> None:
    cfg = get_config(name)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (["charades_train"], ["charades_val"])
    assert (cfg.MODEL.HEAD.NUM_CLASSES, cfg.MODEL.HEAD.LOSS, cfg.MODEL.NORM) == (157, "sigmoid", "FrozenBN")
    assert schedule(cfg) == (8, 0.00125, [75000, 150000], 200000)
    # The windows of Kinetics, enlarged so that they have 288 pixels.
    assert [round(side * 288 / 224) for side in (256, 320)] == list(cfg.INPUT.SHORT_SIDE_RANGE)
    assert (cfg.INPUT.CROP_SIZE, cfg.TEST.SHORT_SIDE, cfg.TEST.CROP_SIZE) == (288, 320, 320)


def test_base_files_are_no_networks() -> None:
    bases = [name for name in list_configs() if Path(name).name.startswith("base")]
    assert len(bases) >= 6 and not set(bases) & set(list_networks())
    assert "quickstart/instant_test" not in list_networks() and "quickstart/i3d_nl" in list_networks()


def test_the_only_difference_of_nonlocal_networks_are_their_blocks() -> None:
    for name in NAMES:
        base = re.sub(r"_nl\d+.*", "", name)
        if base == name:
            continue
        cfg, plain = get_config(name).clone(), load_cfg(get_config_file(base)).clone()
        for other in (cfg, plain):
            other.defrost()
            other.OUTPUT_DIR = other.MODEL.WEIGHTS = ""
            other.MODEL.NONLOCAL = CfgNode()
        assert cfg == plain, name
