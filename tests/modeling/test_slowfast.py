"""SlowFast: its two pathways, what they give each other, its one map, its stages, and what it refuses."""

import pytest
import torch
from torch import nn

from nlvideo.config import load_cfg
from nlvideo.layers import ShapeSpec
from nlvideo.layers.norm import FrozenBatchNorm
from nlvideo.modeling import NonLocalBlock, SlowFast, build_backbone, build_model
from nlvideo.modeling.backbone.layout import STAGES
from nlvideo.solver import build_optimizer

TINY = {"depth": 18, "width": 0.125, "alpha": 4}
NAME = ["MODEL.BACKBONE.NAME", "SlowFast", "MODEL.DEVICE", "cpu"]


def _on_meta(**keywords: object) -> SlowFast:
    with torch.device("meta"):
        return SlowFast(**keywords).eval()


def _random(**keywords: object) -> SlowFast:
    """A small network in which every residual branch counts."""
    torch.manual_seed(0)
    return SlowFast(**(TINY | {"zero_init_residual": False} | keywords)).eval()


# Table 1 and Sec. 4.1 of SlowFast, at 224 pixels: frames of the clip, arguments -> frames of the slow pathway.
INSTANTIATIONS = [
    (32, {"alpha": 8}, 4),
    (32, {"alpha": 4, "lateral_kernel": 7}, 8),
    (64, {"depth": 101, "alpha": 4, "temporal_blocks": 6}, 16),
]


@pytest.mark.parametrize(("frames", "keywords", "slow"), INSTANTIATIONS)
def test_sizes_of_table_1(frames: int, keywords: dict, slow: int) -> None:
    model = _on_meta(out_features=STAGES, **keywords)
    features = model(torch.empty(1, 3, frames, 224, 224, device="meta"))
    sides = {"res2": 56, "res3": 28, "res4": 14, "res5": 7}
    expected = {
        stage: (256 * 2**n + 32 * 2**n, slow, sides[stage], sides[stage])
        for n, stage in enumerate(("res2", *STAGES[1:]))
    }
    assert {stage: tuple(feature.shape[1:]) for stage, feature in features.items()} == expected
    for stage, shape in model.output_shape().items():
        assert shape == ShapeSpec(expected[stage][0], 224 // sides[stage], frames // slow)


def test_temporal_kernels_and_lateral_connections() -> None:
    """The slow pathway has temporal kernels in res4 and res5 alone, the fast one everywhere (Table 1)."""
    convs = {name: m for name, m in _on_meta(lateral_kernel=7).named_modules() if isinstance(m, nn.Conv3d)}
    frames = {name: conv.kernel_size[0] for name, conv in convs.items() if conv.kernel_size[0] > 1}
    blocks = [f"{stage}.{index}" for stage, count in zip(STAGES, (3, 4, 6, 3)) for index in range(count)]
    expected = {f"fast.{block}.conv1": 3 for block in blocks} | {"fast.stem.conv": 5}
    expected |= {f"{block}.conv1": 3 for block in blocks if block[:4] in ("res4", "res5")}
    assert frames == expected | {f"lateral.{stage}.conv": 7 for stage in ("stem", "res2", "res3", "res4")}
    assert all(conv.stride[0] == (8 if name.startswith("lateral") else 1) for name, conv in convs.items())
    laterals = [convs[f"lateral.{stage}.conv"] for stage in ("stem", "res2", "res3", "res4")]
    assert [(conv.in_channels, conv.out_channels) for conv in laterals] == [(8, 16), (32, 64), (64, 128), (128, 256)]
    assert [convs[f"{stage}.0.conv1"].in_channels for stage in STAGES] == [80, 320, 640, 1280]


def test_only_the_first_blocks_of_a_stage_hold_a_temporal_kernel() -> None:
    model = _on_meta(depth=101, temporal_blocks=6)
    for pathway in (model, model.fast):
        kernels = [block.conv1.kernel_size[0] for block in pathway.res4.children()]
        assert kernels == [3] * 6 + [1] * 17


def test_the_map_is_that_of_both_pathways() -> None:
    """Its mean is the two means of their last maps, one after the other."""
    model, video, last = _random(), torch.randn(2, 3, 8, 32, 32), {}
    for name in ("res5", "fast.res5"):
        model.get_submodule(name).register_forward_hook(lambda _, args, output, name=name: last.update({name: output}))
    feature = model(video)["res5"]
    assert [tuple(m.shape[1:3]) for m in (last["res5"], last["fast.res5"], feature)] == [(64, 2), (8, 8), (72, 2)]
    assert torch.equal(feature[:, :64], last["res5"])
    expected = last["fast.res5"].unflatten(2, (2, 4)).mean(3)
    torch.testing.assert_close(feature[:, 64:], expected)
    means = torch.cat([last["res5"].mean((2, 3, 4)), last["fast.res5"].mean((2, 3, 4))], 1)
    torch.testing.assert_close(feature.mean((2, 3, 4)), means)


@pytest.mark.parametrize(
    ("sampling", "alpha", "frames", "expected"),
    [
        ("linspace", 8, 32, [0, 10, 20, 31]),
        ("linspace", 4, 32, [0, 4, 8, 13, 17, 22, 26, 31]),
        ("linspace", 4, 4, [0]),
        ("stride", 8, 32, [0, 8, 16, 24]),
        ("stride", 4, 8, [0, 4]),
    ],
)
def test_frames_of_the_slow_pathway(sampling: str, alpha: int, frames: int, expected: list[int]) -> None:
    model, seen = _random(alpha=alpha, sampling=sampling), []
    model.stem.conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    video = torch.arange(frames).float().view(1, 1, frames, 1, 1).expand(1, 3, -1, 16, 16).contiguous()
    model(video)
    assert seen[0][0, 0, :, 0, 0].tolist() == expected


def test_what_the_fast_pathway_sees_reaches_the_slow_one() -> None:
    """A frame that the slow pathway skips changes its map, through the lateral connections alone."""
    model, video = _random(), torch.randn(1, 3, 8, 32, 32)
    other = video.clone()
    other[:, :, 1] += 1
    assert not torch.equal(model(video)["res5"][:, :64], model(other)["res5"][:, :64])
    for lateral in model.lateral.values():
        nn.init.zeros_(lateral.conv.weight)
    assert torch.equal(model(video)["res5"][:, :64], model(other)["res5"][:, :64])


def test_blocks_are_in_the_slow_pathway_and_start_as_the_identity() -> None:
    small = ["MODEL.BACKBONE.WIDTH", "0.125", "MODEL.BACKBONE.DEPTH", "50", "INPUT.NUM_FRAMES", "8"]
    plain = build_backbone(load_cfg(None, [*NAME, *small])).eval()
    model = build_backbone(load_cfg(None, [*NAME, *small, "MODEL.NONLOCAL.ENABLED", "True"])).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, NonLocalBlock)]
    assert names == ["res3.nl1", "res3.nl3", "res4.nl1", "res4.nl3", "res4.nl5"]
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == [] and all(".nl" in name for name in missing)
    video = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(model(video)["res5"], plain(video)["res5"])


@pytest.mark.parametrize(("norm", "kind"), [("SyncBN", nn.SyncBatchNorm), ("FrozenBN", FrozenBatchNorm)])
def test_norms_of_both_pathways_and_between_them(norm: str, kind: type) -> None:
    norms = [m for name, m in _on_meta(**TINY, norm=norm).named_modules() if ".bn" in name]
    assert len(norms) > 40 and all(isinstance(module, kind) for module in norms)


def test_stages_hold_every_parameter_once() -> None:
    stages = SlowFast(**TINY).stages()
    names = ["stem", *STAGES]
    assert list(stages) == names and [len(modules) for modules in stages.values()] == [3, 3, 3, 3, 2]
    model = SlowFast(**TINY, freeze_at=2)
    held = [p for modules in model.stages().values() for module in modules for p in module.parameters()]
    assert len(held) == len(set(held)) == len(list(model.parameters()))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    roots = ("stem.", "res2.", "fast.stem.", "fast.res2.", "lateral.stem.", "lateral.res2.")
    # Frozen norms have no parameters.
    assert frozen == {n for n, _ in SlowFast(**TINY).named_parameters() if n.startswith(roots) and "bn" not in n}


def test_rates_fall_from_stage_to_stage_in_both_pathways() -> None:
    cfg = load_cfg(None, [*NAME, "MODEL.BACKBONE.WIDTH", "0.125", "SOLVER.LAYER_DECAY", "0.5", "SOLVER.BASE_LR", "1.0"])
    model = build_model(cfg)
    rates = {id(p): group["lr"] for group in build_optimizer(cfg, model).param_groups for p in group["params"]}
    for name, rate in {"res5": 0.5, "fast.res5": 0.5, "lateral.res4": 0.25, "fast.stem": 0.03125}.items():
        assert {rates[id(p)] for p in model.backbone.get_submodule(name).parameters()} == {rate}, name


def test_bf16_and_channels_last_give_the_same_to_rounding() -> None:
    model, video = _random(), torch.randn(1, 3, 8, 32, 32)
    plain = model(video)["res5"]
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(video)["res5"].float() - plain).abs().mean() < 0.05 * plain.std()
    model.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(model(video.contiguous(memory_format=torch.channels_last_3d))["res5"], plain)


def test_a_compiled_network_is_one_graph() -> None:
    model, video = _random(), torch.randn(1, 3, 8, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(video)["res5"], model(video)["res5"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["INPUT.NUM_FRAMES", "30"], "INPUT.NUM_FRAMES: got 30, allowed: multiples of alpha = 8"),
        (["MODEL.BACKBONE.ARGS", "[[alpha, 0]]"], "MODEL.BACKBONE.ARGS: alpha: got 0, allowed: 1 or more"),
        (["MODEL.BACKBONE.ARGS", "[[lateral_kernel, 4]]"], "lateral_kernel: got 4, allowed: odd numbers"),
        (["MODEL.BACKBONE.ARGS", "[[beta, 2]]"], "beta: got 2.0, allowed: above 0, up to 1"),
        (["MODEL.BACKBONE.ARGS", "[[sampling, every]]"], "got 'every', allowed: 'linspace', 'stride'"),
        (["MODEL.BACKBONE.ARGS", "[[temporal_blocks, -1]]"], "temporal_blocks: got -1, allowed: 0 or more"),
        (["MODEL.BACKBONE.ARGS", "[[lateral_channels, 8]]"], "SlowFast has no argument 'lateral_channels' of its own"),
        (["MODEL.BACKBONE.ARGS", "[[temporal, c2d]]"], "SlowFast has no argument 'temporal' of its own"),
        (["MODEL.BACKBONE.ARCH", "r3d_18"], "MODEL.BACKBONE.ARCH with NAME 'SlowFast': got 'r3d_18', allowed: ''"),
        (
            ["MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.BLOCKS", "[fast.res3.1]"],
            "MODEL.NONLOCAL.BLOCKS: got 'fast.res3.1', allowed: blocks of the slow pathway, such as 'res3.1'",
        ),
    ],
)
def test_wrong_values_are_one_line(opts: list[str], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError) as error:
        build_backbone(load_cfg(None, [*NAME, *opts]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_wrong_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="clip of 6 frames, allowed: multiples of alpha = 4"):
        _random()(torch.randn(1, 3, 6, 16, 16))
    with pytest.raises(ValueError, match=r"expected \(N, 3, T, H, W\), got \(1, 1, 8, 16, 16\)"):
        _random()(torch.randn(1, 1, 8, 16, 16))


def test_pytorchvideo_computes_the_same() -> None:
    """Its own `slowfast_r50`, with the same random weights."""
    hub = pytest.importorskip("pytorchvideo.models.hub")
    from nlvideo.checkpoint.convert import convert

    torch.manual_seed(0)
    # Its head pools maps of clips of 32 x 256 x 256 by fixed windows.
    theirs = hub.slowfast_r50(model_num_class=7, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2))).eval()
    state = theirs.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.copy_(torch.rand_like(tensor) * 0.5 + (0.5 if name.endswith(("var", "weight")) else -0.25))
    args = ["MODEL.BACKBONE.ARGS", "[[alpha, 4], [lateral_kernel, 7]]", "MODEL.HEAD.NUM_CLASSES", "7"]
    model = build_model(load_cfg(None, [*NAME, *args])).eval()
    model.load_state_dict(convert(state).weights)
    video = torch.randn(2, 3, 8, 64, 64)
    with torch.no_grad():
        expected = theirs([video[:, :, [0, 7]], video])
        logits = model.head.logits(model.backbone(video)["res5"]).mean(1)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
