"""Parameters and multiply-adds of every config, against a count by hand and the paper's figures.

The count knows nothing of the network's code: it goes through Table 1 (or the layers of the authors' code) and Fig. 2.
"""

import re

import pytest

from nlvideo.config import CfgNode
from nlvideo.model_zoo import get_config, list_networks
from nlvideo.tools.lib.cost_table import cost_rows, format_cost_rows
from nlvideo.tools.lib.ledger import read_ledger

# The paper's networks; those of quickstart have another stem, some for fine-tuning are torchvision's, and those of
# other zoos are in tests/model_zoo/test_zoo.py.
NAMES = [name for name in list_networks() if not name.startswith(("quickstart/", "finetune/", "kinetics/zoo/"))]
# In time: stride of conv1; kernel, stride, padding of pool1; kernel, padding of pool2. In space: padding of pool1.
STEMS = {
    "paper": (2, (3, 2, 1), (3, 1), 1),
    "authors_32x2": (2, (2, 2, 0), (2, 0), 0),
    "authors_8x8": (1, (1, 1, 0), (2, 0), 0),
}
NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Stage -> which residual blocks hold a temporal kernel in I3D.
INFLATED = {2: lambda i: True, 3: lambda i: i % 2 == 0, 4: lambda i: i % 2 == 0, 5: lambda i: i == 1}
# Suffix of a name -> (depth) -> residual blocks with a non-local block after them.
FIVE = {50: {3: (1, 3), 4: (1, 3, 5)}, 101: {3: (1, 3), 4: (6, 13, 20)}}
TEN = {50: {3: (0, 1, 2, 3), 4: range(6)}, 101: {3: (0, 1, 2, 3), 4: (2, 5, 8, 11, 14, 17)}}


def places(name: str, depth: int) -> dict:
    """Where the blocks are, from the name of a config."""
    if "_nl10" in name:
        return TEN[depth]
    if "_nl5" in name:
        return FIVE[depth]
    if "_nl1" in name:
        stage = re.search(r"_res(\d)", name)
        stage = int(stage[1]) if stage else 4
        # Right before the last residual block of the stage (Sec. 5.1).
        return {stage: (NUM_BLOCKS[depth][stage - 2] - 2,)}
    return {}


def nonlocal_block(cfg: CfgNode, stage: int, C: int, T: int, side: int) -> tuple[int, float]:
    """(parameters, multiply-adds) of a block (Fig. 2) on a map of T x side x side."""
    node, D = cfg.MODEL.NONLOCAL, C // 2
    groups = node.TEMPORAL_GROUPS if f"res{stage}" in (node.TEMPORAL_GROUP_STAGES or [f"res{stage}"]) else 1
    pooled = side if node.ATTEND == "time" else side // 2
    P, Q = T * side**2, T * pooled**2
    # Pairs of positions that attend to each other.
    pairs = {"spacetime": P * Q // groups, "space": P * Q // T, "time": P * T}[node.ATTEND]
    norm = 2 * C if cfg.MODEL.NORM == "BN" and node.NORM == "same" else 0
    params, macs = 2 * D * C + D + C + norm, Q * C * D + P * D * C + pairs * D
    if node.PAIRWISE == "gaussian":
        return params, macs + pairs * C
    params += 2 * (D * C + D)
    if node.PAIRWISE == "concatenation":
        # theta and phi only enter through one number per position.
        return params + 2 * D, macs + (P + Q) * C
    return params, macs + (P + Q) * C * D + pairs * D


def by_hand(name: str) -> tuple[int, float]:
    """(parameters, multiply-adds) of the network of a config."""
    cfg = get_config(name)
    depth, temporal = cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.TEMPORAL
    stride, (kernel, pool_stride, pad), (kernel2, pad2), space_pad = STEMS[cfg.MODEL.BACKBONE.STEM]
    trainable_norm = 2 if cfg.MODEL.NORM == "BN" else 0
    T, side = cfg.INPUT.NUM_FRAMES // stride, cfg.INPUT.CROP_SIZE // 2
    weights = (1 if temporal == "c2d" else 5) * 49 * 3 * 64
    params, macs = weights + trainable_norm * 64, weights * T * side**2
    T, side = (T + 2 * pad - kernel) // pool_stride + 1, (side + 2 * space_pad - 3) // 2 + 1
    channels = 64
    for stage, count in zip((2, 3, 4, 5), NUM_BLOCKS[depth]):
        w, C = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for index in range(count):
            before = T * side**2
            if stage > 2 and index == 0:
                side = (side + 1) // 2
            after = T * side**2
            inflated = temporal != "c2d" and INFLATED[stage](index)
            first = w * channels * (3 if inflated and temporal == "i3d_3x1x1" else 1)
            second = 9 * w * w * (3 if inflated and temporal == "i3d_3x3x3" else 1)
            shortcut = channels * C if index == 0 else 0
            params += first + second + w * C + shortcut + trainable_norm * (2 * w + C + (C if index == 0 else 0))
            macs += first * before + (second + w * C + shortcut) * after
            channels = C
            if index in places(name, depth).get(stage, ()):
                more = nonlocal_block(cfg, stage, C, T, side)
                params, macs = params + more[0], macs + more[1]
        if stage == 2:
            T = (T + 2 * pad2 - kernel2) // 2 + 1
    classes = cfg.MODEL.HEAD.NUM_CLASSES
    return params + channels * classes + classes, macs + channels * classes


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    """The row of every config."""
    return {row["config"]: row for row in cost_rows(list_networks(), read_ledger())}


@pytest.mark.parametrize("name", NAMES)
def test_the_count_is_that_by_hand(rows: dict, name: str) -> None:
    params, macs = by_hand(name)
    assert rows[name]["params"] == params
    assert rows[name]["gmacs"] == pytest.approx(macs / 1e9, rel=1e-4)
    depth = get_config(name).MODEL.BACKBONE.DEPTH
    assert rows[name]["nonlocal_blocks"] == sum(map(len, places(name, depth).values()))


# Millions of parameters and 1e9 multiply-adds, as others have counted or printed them.
GOLDEN = {
    "kinetics/c2d_r50_32x2": (24.33, 20.44),
    "kinetics/c2d_r50_32x2_nl5": (31.69, 28.57),
    "kinetics/i3d_r50_32x2": (28.04, 33.13),
    "kinetics/c2d_r101_32x2": (43.32, 35.29),
    "kinetics/c2d_r101_32x2_nl5": (50.68, 43.41),
    "kinetics/authors/c2d_r50_32x2": (24.33, 20.23),
    "kinetics/authors/i3d_r50_32x2": (28.04, 32.83),
    "kinetics/authors/c2d_r50_8x8": (24.33, 19.29),
    "kinetics/authors/i3d_r50_8x8_nl5": (35.40, 36.24),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_costs(rows: dict, name: str) -> None:
    params, gmacs = GOLDEN[name]
    assert rows[name]["params"] / 1e6 == pytest.approx(params, rel=1e-3)
    assert rows[name]["gmacs"] == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    "name, params, gmacs",
    [("i3d_r101_32x2_3x3x3", 1.46, 1.76), ("i3d_r101_32x2", 1.19, 1.46), ("c2d_r101_32x2_nl5", 1.17, 1.23)],
)
def test_the_ratios_of_table_2e(rows: dict, name: str, params: float, gmacs: float) -> None:
    row = rows[f"kinetics/{name}"]
    assert (round(row["params_ratio"], 2), round(row["gmacs_ratio"], 2)) == (params, gmacs)
    # To the digit that the paper prints.
    assert (round(row["params_ratio"], 1), round(row["gmacs_ratio"], 1)) == (
        row["paper"]["params_ratio"], row["paper"]["gmacs_ratio"],
    )  # fmt: skip


def test_what_the_notes_say_of_the_papers_absolute_figures(rows: dict) -> None:
    name = "kinetics/c2d_r101_32x2"
    note, paper = rows[name]["note"], rows[name]["paper"]
    stride = ["MODEL.BACKBONE.STRIDE_IN_1X1", "True"]
    table_1, authors = (
        next(cost_rows([name], {}, [*stride, "MODEL.BACKBONE.STEM", stem]))["gmacs"]
        for stem in ("paper", "authors_32x2")
    )
    assert f"{table_1:.2f} G" in note and f"{authors:.2f} G" in note and f"{authors:.1f}" == str(paper["gmacs"])
    without_norms = next(cost_rows([name], {}, ["MODEL.NORM", "FrozenBN"]))["params"] / 1e6
    assert f"{without_norms:.2f} M" in note and f"{without_norms:.1f}" == str(paper["params_m"])


def test_five_blocks_in_r50_cost_less_than_r101(rows: dict) -> None:
    """Sec. 5.1: about 70 % of its parameters and 80 % of its multiply-adds."""
    small, large = rows["kinetics/c2d_r50_32x2_nl5"], rows["kinetics/c2d_r101_32x2"]
    params, gmacs = small["params"] / large["params"], small["gmacs"] / large["gmacs"]
    assert params == pytest.approx(0.7, abs=0.05) and gmacs == pytest.approx(0.8, abs=0.05)
    assert f"here {100 * params:.0f} % and {100 * gmacs:.0f} %" in " ".join(small["note"].split())


def test_five_blocks_add_7_36_million_parameters(rows: dict) -> None:
    for name in ("c2d_r50_32x2", "i3d_r50_32x2", "c2d_r101_32x2", "i3d_r101_32x2"):
        more = rows[f"kinetics/{name}_nl5"]["params"] - rows[f"kinetics/{name}"]["params"]
        assert more / 1e6 == pytest.approx(7.36, rel=1e-3)


def test_the_table_has_a_line_for_each_config_and_its_notes(rows: dict) -> None:
    lines = format_cost_rows(list(rows.values())).splitlines()
    for name, row in rows.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert f" {row['params'] / 1e6:.2f} M " in line and f" {row['gmacs']:.2f} G " in line
        assert f" {row['params_ratio']:.2f}x, {row['gmacs_ratio']:.2f}x" in line
    (line,) = [line for line in lines if line.startswith("kinetics/c2d_r101_32x2 ")]
    assert "43.2 M, 34.2 G" in line
    number = re.search(r"\[\d\]$", line)[0]
    assert any(line.startswith(f"{number} ") and "34.17 G" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("kinetics/i3d_r101_32x2_3x3x3 ")]
    assert "1.46x, 1.76x" in line and "1.5x, 1.8x" in line
