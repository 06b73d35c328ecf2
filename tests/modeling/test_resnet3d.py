"""ResNet3d: layout, names, sizes, initialisation, freezing and non-local blocks."""

import re

import pytest
import torch
from torch import nn

from nlvideo.config import get_cfg
from nlvideo.layers import ShapeSpec
from nlvideo.layers.norm import FrozenBatchNorm
from nlvideo.modeling import NonLocalBlock
from nlvideo.modeling.backbone import BACKBONE, ResNet3d, build_backbone
from nlvideo.modeling.backbone.layout import NUM_BLOCKS, STAGES, STEMS, inflated_blocks, scale_channels

TINY = {"depth": 50, "width": 0.125, "stem": "small"}


def _on_meta(**keywords: object) -> ResNet3d:
    with torch.device("meta"):
        return ResNet3d(**keywords)


def _sizes(model: ResNet3d, size: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    features = model.eval()(torch.empty(1, 3, *size, device="meta"))
    return {name: tuple(feature.shape[1:]) for name, feature in features.items()}


def test_table_1_at_32x224x224() -> None:
    model = _on_meta(stem="paper", out_features=STAGES)
    assert _sizes(model, (32, 224, 224)) == {
        "res2": (256, 8, 56, 56),
        "res3": (512, 4, 28, 28),
        "res4": (1024, 4, 14, 14),
        "res5": (2048, 4, 7, 7),
    }


@pytest.mark.parametrize(
    ("stem", "frames", "side", "res2", "res5"),
    [
        ("authors_32x2", 32, 224, (256, 8, 55, 55), (2048, 4, 7, 7)),
        ("authors_32x2", 32, 256, (256, 8, 63, 63), (2048, 4, 8, 8)),
        ("authors_32x2", 128, 224, (256, 32, 55, 55), (2048, 16, 7, 7)),
        ("authors_8x8", 8, 224, (256, 8, 55, 55), (2048, 4, 7, 7)),
        ("authors_8x8", 32, 224, (256, 32, 55, 55), (2048, 16, 7, 7)),
        ("small", 16, 64, (256, 8, 16, 16), (2048, 8, 2, 2)),
        ("slowfast_8x8", 8, 224, (256, 8, 56, 56), (2048, 4, 7, 7)),
        ("slow", 8, 256, (256, 8, 64, 64), (2048, 8, 8, 8)),
        ("mmaction2_32x2", 32, 224, (256, 8, 56, 56), (2048, 4, 7, 7)),
    ],
)
def test_stems_give_the_maps_of_their_recipes(stem: str, frames: int, side: int, res2: tuple, res5: tuple) -> None:
    model = _on_meta(stem=stem, out_features=["res5", "res2"])
    assert _sizes(model, (frames, side, side)) == {"res2": res2, "res5": res5}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("depth", [18, 50])
def test_output_shape_is_what_forward_gives(stem: str, depth: int) -> None:
    model = _on_meta(depth=depth, stem=stem, out_features=STAGES)
    sizes = _sizes(model, (64, 128, 192))
    for name, shape in model.output_shape().items():
        expected = (shape.channels, 64 // shape.temporal_stride, 128 // shape.stride, 192 // shape.stride)
        # The authors' unpadded pool1 loses one position in res2; it is back from res3 on.
        slack = 1 if name == "res2" and stem.startswith("authors") else 0
        assert sizes[name] == (*expected[:2], expected[2] - slack, expected[3] - slack)


def test_output_shape_of_the_default_is_res5() -> None:
    assert _on_meta(stem="paper").output_shape() == {"res5": ShapeSpec(2048, stride=32, temporal_stride=8)}
    assert _on_meta(stem="small").output_shape() == {"res5": ShapeSpec(2048, stride=32, temporal_stride=2)}


@pytest.mark.parametrize("depth", NUM_BLOCKS)
def test_blocks_per_stage(depth: int) -> None:
    model = _on_meta(depth=depth)
    assert tuple(len(list(getattr(model, stage).children())) for stage in STAGES) == NUM_BLOCKS[depth]


def _temporal_kernels(model: ResNet3d) -> dict[str, tuple[int, ...]]:
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1}
    return {name: conv.kernel_size for name, conv in convs.items()}


def test_c2d_has_no_temporal_kernel() -> None:
    assert _temporal_kernels(_on_meta(temporal="c2d")) == {}


@pytest.mark.parametrize(
    ("temporal", "conv", "kernel"), [("i3d_3x1x1", "conv1", (3, 1, 1)), ("i3d_3x3x3", "conv2", (3, 3, 3))]
)
def test_i3d_inflates_one_kernel_in_two_blocks(temporal: str, conv: str, kernel: tuple) -> None:
    places = ["res2.0", "res2.1", "res2.2", "res3.0", "res3.2", "res4.0", "res4.2", "res4.4", "res5.1"]
    expected = {"stem.conv": (5, 7, 7)} | {f"{place}.{conv}": kernel for place in places}
    assert _temporal_kernels(_on_meta(depth=50, temporal=temporal)) == expected


def test_slow_inflates_every_block_of_res4_and_res5_and_not_the_stem() -> None:
    places = [f"res4.{index}" for index in range(6)] + [f"res5.{index}" for index in range(3)]
    assert _temporal_kernels(_on_meta(depth=50, temporal="slow", stem="slow")) == {
        f"{place}.conv1": (3, 1, 1) for place in places
    }


def test_i3d_3x1x1_all_inflates_the_stem_and_every_block() -> None:
    kernels = _temporal_kernels(_on_meta(depth=50, temporal="i3d_3x1x1_all", stem="slowfast_8x8"))
    assert kernels.pop("stem.conv") == (5, 7, 7)
    assert list(kernels.values()) == [(3, 1, 1)] * sum(NUM_BLOCKS[50])


@pytest.mark.parametrize("temporal", ["i3d_3x1x1", "i3d_3x3x3"])
@pytest.mark.parametrize(
    ("depth", "places"),
    [(10, ["res2.0", "res3.0", "res4.0"]), (18, ["res2.0", "res2.1", "res3.0", "res4.0", "res5.1"])],
)
def test_basic_blocks_inflate_their_first_convolution_in_both_styles(
    temporal: str, depth: int, places: list[str]
) -> None:
    expected = {"stem.conv": (3, 3, 3)} | {f"{place}.conv1": (3, 3, 3) for place in places}
    assert _temporal_kernels(_on_meta(depth=depth, temporal=temporal, stem="small")) == expected


def test_r101_inflates_twelve_of_the_blocks_of_res4() -> None:
    assert sum(inflated_blocks("res4", 23)) == 12
    assert inflated_blocks("res4", 23)[::2] == [True] * 12


def test_width_scales_every_channel_count_to_a_multiple_of_8() -> None:
    assert [scale_channels(64, width) for width in (1.0, 0.5, 0.3, 0.01)] == [64, 32, 16, 8]
    model = _on_meta(width=0.3)
    channels = {m.out_channels for m in model.modules() if isinstance(m, nn.Conv3d)}
    assert channels == {16, 40, 80, 152, 304, 616}
    assert model.output_shape()["res5"].channels == 616


@pytest.mark.parametrize(("in_1x1", "strides"), [(False, [(1, 1, 1), (1, 2, 2)]), (True, [(1, 2, 2), (1, 1, 1)])])
def test_stride_in_1x1(in_1x1: bool, strides: list) -> None:
    model = _on_meta(stride_in_1x1=in_1x1)
    for stage in ("res3", "res4", "res5"):
        first = getattr(model, stage).get_submodule("0")
        assert [first.conv1.stride, first.conv2.stride] == strides


# ----------------------------------------------------------------------------------------------------------------------
# Names: converters and every checkpoint rely on them.
# ----------------------------------------------------------------------------------------------------------------------

_BN = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_NAMES = [
    r"stem\.conv\.weight",
    rf"stem\.bn\.{_BN}",
    r"res[2-5]\.\d+\.conv[123]\.weight",
    rf"res[2-5]\.\d+\.bn[123]\.{_BN}",
    r"res[2-5]\.0\.shortcut\.conv\.weight",
    rf"res[2-5]\.0\.shortcut\.bn\.{_BN}",
    r"res[34]\.nl\d+\.(theta|phi|g|out)\.(weight|bias)",
    rf"res[34]\.nl\d+\.bn\.{_BN}",
]


def test_names_of_the_state_dict_are_frozen() -> None:
    cfg = get_cfg()
    cfg.MODEL.NONLOCAL.ENABLED = True
    with torch.device("meta"):
        names = list(build_backbone(cfg).state_dict())
    strange = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in _NAMES)]
    assert strange == []
    # 53 norms and convolutions in the backbone, and in each of the 5 non-local blocks 4 biased convolutions and a norm.
    assert len(names) == 53 * 6 + 5 * (8 + 5)
    for name in ("stem.conv.weight", "res2.0.shortcut.bn.running_var", "res4.5.conv3.weight", "res4.nl5.theta.bias"):
        assert name in names


def test_names_of_r18_are_frozen() -> None:
    names = list(_on_meta(depth=18).state_dict())
    patterns = [p.replace("[123]", "[12]") for p in _NAMES[:6]]
    assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in names)
    assert not any(name.startswith("res2.0.shortcut") for name in names)
    assert "res3.0.shortcut.conv.weight" in names


def test_sub_modules_come_in_the_order_of_the_network() -> None:
    assert [name for name, _ in _on_meta().named_children()] == ["stem", "res2", "pool2", "res3", "res4", "res5"]


# ----------------------------------------------------------------------------------------------------------------------
# Sizes
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "minimum"),
    [
        ("paper", (1, 1, 1)),
        ("authors_32x2", (7, 5, 5)),
        ("authors_8x8", (2, 5, 5)),
        ("small", (2, 1, 1)),
        ("slowfast_8x8", (2, 1, 1)),
        ("slow", (1, 1, 1)),
        ("mmaction2_32x2", (5, 1, 1)),
    ],
)
def test_the_minimum_size_works_and_one_less_does_not(stem: str, minimum: tuple[int, int, int]) -> None:
    model = ResNet3d(depth=18, width=0.125, stem=stem).eval()
    assert model(torch.rand(1, 3, *minimum))["res5"].shape[2:] == (1, 1, 1)
    for axis in range(3):
        if minimum[axis] == 1:
            continue
        size = list(minimum)
        size[axis] -= 1
        with pytest.raises(ValueError, match=f"at least {'x'.join(map(str, minimum))}") as error:
            model(torch.rand(1, 3, *size))
        assert "x".join(map(str, size)) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("size", [(7, 33, 50), (9, 40, 31)])
def test_any_size_above_the_minimum_works(stem: str, size: tuple[int, int, int]) -> None:
    model = ResNet3d(depth=18, width=0.125, stem=stem, temporal="i3d_3x3x3").eval()
    assert torch.isfinite(model(torch.rand(1, 3, *size))["res5"]).all()


@pytest.mark.parametrize("shape", [(3, 8, 32, 32), (1, 1, 8, 32, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3, T, H, W\), got"):
        ResNet3d(**TINY)(torch.rand(shape))


# ----------------------------------------------------------------------------------------------------------------------
# Initialisation, norms, freezing
# ----------------------------------------------------------------------------------------------------------------------


def test_zero_init_reaches_the_last_norm_of_each_branch_and_no_other() -> None:
    model = ResNet3d(**TINY)
    for name, parameter in model.named_parameters():
        if re.search(r"bn\d?\.weight$", name):
            assert parameter.abs().sum() == (0 if name.endswith("bn3.weight") else len(parameter)), name
    kept = ResNet3d(**TINY, zero_init_residual=False)
    assert all(p.min() == 1 for name, p in kept.named_parameters() if name.endswith("bn3.weight"))


@pytest.mark.parametrize(
    ("norm", "expected"), [("BN", nn.BatchNorm3d), ("SyncBN", nn.SyncBatchNorm), ("FrozenBN", FrozenBatchNorm)]
)
def test_every_norm_is_the_one_asked_for(norm: str, expected: type) -> None:
    model = ResNet3d(**TINY, norm=norm)
    norms = [m for name, m in model.named_modules() if re.search(r"bn\d?$", name)]
    assert len(norms) == 53
    assert all(isinstance(m, expected) for m in norms)


def test_stages_hold_every_parameter_once_in_order() -> None:
    model = ResNet3d(**TINY, nonlocal_places={"res3": [0]})
    stages = model.stages()
    assert list(stages) == ["stem", "res2", "res3", "res4", "res5"]
    held = [parameter for modules in stages.values() for module in modules for parameter in module.parameters()]
    assert list(map(id, held)) == list(map(id, model.parameters()))


@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_counts_stages_from_the_stem(freeze_at: int) -> None:
    model = ResNet3d(**TINY, freeze_at=freeze_at)
    for number, name in enumerate(("stem", *STAGES)):
        module = getattr(model, name)
        frozen = number < freeze_at
        assert all(parameter.requires_grad != frozen for parameter in module.parameters())
        assert any(isinstance(m, FrozenBatchNorm) for m in module.modules()) == frozen
        assert any(isinstance(m, nn.BatchNorm3d) for m in module.modules()) != frozen


def test_a_frozen_stage_stays_as_it_is_in_training() -> None:
    torch.manual_seed(0)
    model = ResNet3d(**TINY, freeze_at=2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(torch.rand(2, 3, 4, 32, 32))["res5"].sum().backward()
    after = model.state_dict()
    changed = {name.split(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {"res3", "res4", "res5"}
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == changed


# ----------------------------------------------------------------------------------------------------------------------
# Non-local blocks
# ----------------------------------------------------------------------------------------------------------------------


class _Recorder(nn.Module):
    """A stand-in for a non-local block that counts its calls."""

    def __init__(self, channels: int, stage: str) -> None:
        super().__init__()
        self.channels, self.stage, self.shapes = channels, stage, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add one, so that its effect shows."""
        self.shapes.append(tuple(x.shape))
        return x + 1


def test_non_local_blocks_sit_behind_their_residual_blocks() -> None:
    model = ResNet3d(**TINY, nonlocal_places={"res3": [1], "res5": [0, 2]}, make_nonlocal=_Recorder).eval()
    assert [name for name, _ in model.res5.named_children()] == ["0", "nl0", "1", "2", "nl2"]
    out = model(torch.rand(1, 3, 4, 32, 32))["res5"]
    block = model.res3.nl1
    assert (block.channels, block.stage, block.shapes) == (64, "res3", [(1, 64, 2, 4, 4)])
    assert out.min() >= 1  # after the last ReLU comes the block that adds one


def test_places_without_a_factory_get_the_usual_block() -> None:
    model = _on_meta(nonlocal_places={"res4": [4]})
    assert isinstance(model.res4.nl4, NonLocalBlock)
    assert model.res4.nl4.theta.weight.shape == (512, 1024, 1, 1, 1)


def test_a_block_shared_by_two_places_runs_at_both() -> None:
    shared = _Recorder(64, "res3")
    places = {"res3": [0, 2]}
    model = ResNet3d(**TINY, nonlocal_places=places, make_nonlocal=lambda channels, stage: shared).eval()
    model(torch.rand(1, 3, 4, 32, 32))
    assert len(shared.shapes) == 2


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (50, ["res3.nl1", "res3.nl3", "res4.nl1", "res4.nl3", "res4.nl5"]),
        (101, ["res3.nl1", "res3.nl3", "res4.nl6", "res4.nl13", "res4.nl20"]),
    ],
)
def test_the_five_blocks_of_the_config(depth: int, expected: list[str]) -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.DEPTH = depth
    cfg.MODEL.NONLOCAL.ENABLED = True
    with torch.device("meta"):
        model = build_backbone(cfg)
    assert [name for name, _ in model.named_modules() if re.fullmatch(r"res\d\.nl\d+", name)] == expected


def test_non_local_blocks_start_as_the_identity() -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.WIDTH, cfg.MODEL.BACKBONE.STEM = 0.125, "small"
    plain = build_backbone(cfg).eval()
    cfg.MODEL.NONLOCAL.ENABLED = True
    with_blocks = build_backbone(cfg).eval()
    missing, unexpected = with_blocks.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == [] and all(".nl" in name for name in missing)
    video = torch.rand(1, 3, 4, 32, 32)
    assert torch.equal(with_blocks(video)["res5"], plain(video)["res5"])


# ----------------------------------------------------------------------------------------------------------------------
# Arguments and config
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"depth": 34}, "depth: got 34, allowed: 10, 18, 50, 101, 152"),
        ({"temporal": "3d"}, "temporal: got '3d', allowed: 'c2d'"),
        ({"stem": "big"}, "stem: got 'big', allowed: 'paper'"),
        ({"freeze_at": 6}, "freeze_at: got 6, allowed: 0, 1, 2, 3, 4, 5"),
        ({"out_features": ["res6"]}, "stage: got 'res6', allowed: 'res2'"),
        ({"nonlocal_places": {"conv4": [0]}, "make_nonlocal": _Recorder}, "stage: got 'conv4'"),
        ({"nonlocal_places": {"res2": [3]}, "make_nonlocal": _Recorder}, "got 3, allowed: 0, 1, 2"),
        ({"depth": 18, "stride_in_1x1": True}, "depth 18 have no 1x1"),
        ({"norm": "LN"}, "LN"),
    ],
)
def test_wrong_arguments_are_named(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _on_meta(**keywords)


def test_from_config_hands_every_key_on() -> None:
    cfg = get_cfg()
    node = cfg.MODEL.BACKBONE
    node.DEPTH, node.WIDTH, node.TEMPORAL, node.STEM = 101, 0.5, "i3d_3x3x3", "authors_8x8"
    node.FREEZE_AT, node.STRIDE_IN_1X1, node.ZERO_INIT_RESIDUAL, cfg.MODEL.NORM = 2, True, False, "SyncBN"
    arguments = ResNet3d.from_config(cfg, ShapeSpec(channels=1))
    assert arguments.pop("make_nonlocal").args == (cfg,)
    assert arguments == {
        "depth": 101,
        "width": 0.5,
        "temporal": "i3d_3x3x3",
        "stem": "authors_8x8",
        "freeze_at": 2,
        "in_channels": 1,
        "stride_in_1x1": True,
        "zero_init_residual": False,
        "norm": "SyncBN",
        "nonlocal_places": {},
    }


def test_freezing_that_ends_is_left_to_the_training() -> None:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.BACKBONE.FREEZE_UNTIL = 5, 10
    assert ResNet3d.from_config(cfg, ShapeSpec(channels=3))["freeze_at"] == 0


def test_the_registry_builds_it_by_name() -> None:
    cfg = get_cfg()
    assert BACKBONE.get("ResNet3d") is ResNet3d
    with torch.device("meta"):
        assert isinstance(build_backbone(cfg), ResNet3d)
    cfg.MODEL.BACKBONE.NAME = "ResNet3"
    with pytest.raises(KeyError, match="ResNet3d"):
        build_backbone(cfg)
