"""TorchvisionVideo: torchvision's logits to the bit, stages, norms, freezing, non-local blocks, and what is refused."""

import math
import sys
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from nlvideo.config import CfgNode, get_cfg
from nlvideo.layers import SyncBatchNorm
from nlvideo.layers.norm import BatchNorm, FrozenBatchNorm
from nlvideo.modeling import NonLocalBlock, PoolLinearHead, VideoClassifier, build_model, model_costs, nonlocal_block
from nlvideo.modeling.backbone import TorchvisionVideo, build_backbone
from nlvideo.modeling.backbone.torchvision_layout import ARCHITECTURES, CLASS_TOKEN

MVIT = [arch for arch in ARCHITECTURES if arch.startswith("mvit")]
RESNETS = ["r3d_18", "mc3_18", "r2plus1d_18"]


def _config(arch: str, *opts: object) -> CfgNode:
    """A config of a network, with small clips where it takes them."""
    cfg = get_cfg()
    side = 224 if arch in MVIT else 32
    sizes = {"INPUT.NUM_FRAMES": 16 if arch in MVIT else 8, "INPUT.CROP_SIZE": side, "TEST.CROP_SIZE": side}
    settings = {"MODEL.BACKBONE.NAME": "TorchvisionVideo", "MODEL.BACKBONE.ARCH": arch, "MODEL.DEVICE": "cpu",
                "MODEL.HEAD.NUM_CLASSES": 5, "MODEL.HEAD.DROPOUT": 0.0, **sizes}  # fmt: skip
    cfg.merge_from_list([*(word for item in settings.items() for word in item), *opts])
    return cfg


def _on_meta(arch: str, **keywords: object) -> TorchvisionVideo:
    with torch.device("meta"):
        return TorchvisionVideo(arch=arch, **keywords)


def _fill(module: nn.Module) -> None:
    """Random statistics, norms and biases in place of zeros and ones."""
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and (tensor.dim() == 1 or name.endswith("token")):
            tensor.add_(torch.randn_like(tensor) * 0.1)


def _pair(
    arch: str, size: tuple[int, int, int], channels_last: bool
) -> tuple[nn.Module, VideoClassifier, torch.Tensor]:
    """torchvision's network, ours with its weights, and a clip for ours."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(arch, weights=None, num_classes=5)
    _fill(theirs)
    backbone = TorchvisionVideo(arch=arch)
    (shape,) = backbone.output_shape().values()
    head = PoolLinearHead(in_channels=shape.channels, num_classes=5, dropout=0.0)
    ours = VideoClassifier(
        backbone=backbone, head=head, pixel_mean=[110.0], pixel_std=[57.0], channels_last=channels_last
    )
    assert not backbone.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    last = [module for name, module in theirs.named_modules() if name.startswith(("fc", "head", "classifier"))][-1]
    head.classifier.load_state_dict({"weight": last.weight.flatten(1), "bias": last.bias})
    return theirs, ours, torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *((arch, (5, 40, 33)) for arch in [*RESNETS, "swin3d_t"]),
        # The smallest that its own pool takes.
        ("s3d", (13, 209, 209)),
        *((arch, (4, 64, 64)) for arch in MVIT),
    ],
)
def test_logits_are_torchvisions_to_the_bit(
    arch: str, size: tuple[int, int, int], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In eval mode, and where it is fast in training mode as well, with gradients and stochastic depth."""
    if arch in MVIT:  # its own size takes a minute
        module = sys.modules["torchvision.models.video.mvit"]
        original, small = module._mvit, {"spatial_size": size[1:], "temporal_size": size[0]}
        monkeypatch.setattr(module, "_mvit", lambda **keywords: original(**keywords | small))
        monkeypatch.setitem(ARCHITECTURES, arch, replace(ARCHITECTURES[arch], clip_size=size))
    if arch == "s3d" and channels_last:
        pytest.skip("slow, and its layers are those of the others")
    theirs, ours, clip = _pair(arch, size, channels_last)
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    for parameter in theirs.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.to(memory_format=memory_format)
    pixels = ((clip.float() - 110) / 57).contiguous(memory_format=memory_format)
    theirs.eval(), ours.eval()
    with torch.no_grad():
        expected = theirs(pixels)
        torch.testing.assert_close(ours.forward_clips(clip), expected.softmax(1), rtol=0, atol=1e-6)
        ours.head.train()  # logits, not probabilities
        logits = ours.forward_clips(clip)
        assert expected.std() > 0.01
        if arch == "s3d":  # its classifier is a convolution, which rounds in another way
            assert torch.equal(ours.backbone(pixels)["stage4"], theirs.features(pixels))
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
            return
        assert torch.equal(logits, expected)
    for dropout in (module for module in theirs.modules() if isinstance(module, nn.Dropout)):
        dropout.p = 0.0  # the head's
    theirs.train(), ours.train()
    for call, x in ((theirs, pixels), (ours.forward_clips, clip)):
        torch.manual_seed(3)
        call(x.repeat(2, 1, 1, 1, 1)).square().sum().backward()
    state = ours.backbone.state_dict()
    assert all(torch.equal(state[n], t) for n, t in theirs.state_dict().items() if n in state)
    gradients = {name: parameter.grad for name, parameter in ours.backbone.named_parameters()}
    assert all(torch.equal(gradients[n], p.grad) for n, p in theirs.named_parameters() if n in gradients)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_features_by_stage_have_the_shapes_that_are_announced(arch: str) -> None:
    layout = ARCHITECTURES[arch]
    names = [*layout.stages, *([CLASS_TOKEN] if arch in MVIT else [])]
    model = _on_meta(arch, out_features=names).eval()
    size = layout.clip_size or (16, 64, 96)
    features = model(torch.empty(2, 3, *size, device="meta"))
    assert list(features) == list(model.output_shape()) == names
    for name, shape in model.output_shape().items():
        steps = (shape.temporal_stride, shape.stride, shape.stride)
        assert features[name].shape == (2, shape.channels, *(n // step for n, step in zip(size, steps, strict=True)))
    assert list(_on_meta(arch).output_shape()) == names[-1:]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stages_hold_every_parameter_of_torchvisions_network_but_the_classifiers(arch: str) -> None:
    model = _on_meta(arch)
    stages = model.stages()
    assert len(stages) == 5 and next(iter(stages)) == "stem"
    held = [parameter for modules in stages.values() for module in modules for parameter in module.parameters()]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    with torch.device("meta"):
        theirs = torchvision.models.get_model(arch, weights=None).state_dict()
    left_out = theirs.keys() - model.state_dict().keys()
    assert model.state_dict().keys() <= theirs.keys()
    assert {name.split(".")[0] for name in left_out} <= {"fc", "head", "classifier"} and len(left_out) == 2


@pytest.mark.parametrize("arch", ["r3d_18", "s3d", "swin3d_t", "mvit_v2_s"])
@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_freeze_at_counts_stages_from_the_stem(arch: str, freeze_at: int) -> None:
    blocks = [] if arch in MVIT else {"r3d_18": ["layer1.1"], "s3d": ["features.3"], "swin3d_t": ["features.0.1"]}[arch]
    model = _on_meta(arch, freeze_at=freeze_at, blocks=blocks)
    for number, modules in enumerate(model.stages().values()):
        for module in modules:
            assert all(p.requires_grad == (number >= freeze_at) for p in module.parameters())
            assert number >= freeze_at or not any(isinstance(part, BatchNorm) for part in module.modules())


def test_freezing_that_ends_is_left_to_its_hook() -> None:
    opts = ["MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.BACKBONE.FREEZE_UNTIL"]
    with torch.device("meta"):
        for_good, until = (build_backbone(_config("r3d_18", *opts, iteration)) for iteration in (0, 5))
    assert not for_good.stem[0].weight.requires_grad and isinstance(for_good.stem[1], FrozenBatchNorm)
    assert all(parameter.requires_grad for parameter in until.parameters())


@pytest.mark.parametrize("arch", ["r2plus1d_18", "s3d"])
@pytest.mark.parametrize(("norm", "kind"), [("SyncBN", SyncBatchNorm), ("FrozenBN", FrozenBatchNorm)])
def test_norms_change_their_kind_and_keep_their_settings(arch: str, norm: str, kind: type) -> None:
    plain, other = _on_meta(arch), _on_meta(arch, norm=norm)
    pairs = [
        (module, other.get_submodule(name)) for name, module in plain.named_modules() if isinstance(module, BatchNorm)
    ]
    assert len(pairs) > 30 and all(type(b) is kind and a.eps == b.eps for a, b in pairs)
    if norm == "SyncBN":
        assert all(a.momentum == b.momentum for a, b in pairs)
    names = [name for name in plain.state_dict() if norm == "SyncBN" or not name.endswith("num_batches_tracked")]
    assert list(other.state_dict()) == names


@pytest.mark.parametrize(
    ("arch", "blocks"),
    [
        ("r3d_18", ["layer3.1", "layer2", "stem"]),
        ("mc3_18", ["layer3.0"]),
        ("s3d", ["features.12", "features.4"]),
        ("swin3d_t", ["features.4.5", "features.1", "norm"]),
    ],
)
@torch.no_grad()
def test_new_blocks_are_the_identity(arch: str, blocks: list[str]) -> None:
    """Whatever their norm; then they change the result."""
    cfg = _config(arch, "MODEL.NONLOCAL.ENABLED", True, "MODEL.NONLOCAL.BLOCKS", blocks)
    torch.manual_seed(0)
    plain = build_model(_config(arch)).eval()
    model = build_model(cfg).eval()
    # A name without the wrapper's part is that of torchvision.
    renamed = {name.replace(".module.", "."): name for name in model.state_dict()}
    missing = model.load_state_dict({renamed[n]: t for n, t in plain.state_dict().items()}, strict=False).missing_keys
    assert missing and all(".nonlocal_block." in name for name in missing)
    clip = torch.randint(0, 256, (2, 3, 8, 32, 40), dtype=torch.uint8)
    expected = plain.forward_clips(clip)
    assert torch.equal(model.forward_clips(clip), expected)
    found = [module for module in model.modules() if isinstance(module, NonLocalBlock)]
    assert len(found) == len(blocks)
    for block in found:
        nn.init.ones_(block.bn.weight)
    assert not torch.equal(model.forward_clips(clip), expected)


def test_blocks_stand_where_they_are_named_and_know_their_stage() -> None:
    seen = []
    model = _on_meta(
        "swin3d_t",
        blocks=["features.4.5", "features.3"],
        make_nonlocal=lambda channels, stage: seen.append((channels, stage)) or NonLocalBlock(channels),
    )
    assert seen == [(384, "stage3"), (384, "stage3")]
    rows = nonlocal_block.nonlocal_table(model, torch.empty(1, 3, 4, 64, 64))
    assert {row["name"]: row["T x H x W"] for row in rows} == {
        "features.3.nonlocal_block.block": "2 x 4 x 4",
        "features.4.5.nonlocal_block.block": "2 x 4 x 4",
    }


@pytest.mark.parametrize(("arch", "blocks"), [("r3d_18", ["layer2.1"]), ("swin3d_t", ["features.2.1"])])
def test_a_step_of_training_reaches_every_parameter(arch: str, blocks: list[str]) -> None:
    cfg = _config(arch, "MODEL.NONLOCAL.ENABLED", True, "MODEL.NONLOCAL.BLOCKS", blocks)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    _fill(model)
    batch = {"video": torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8), "label": torch.tensor([0, 1])}
    model(batch)["loss_cls"].backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A clip of one window uses a part of its table, and stochastic depth may leave blocks out.
    assert not [name for name in dead if arch == "r3d_18" or "nonlocal" in name]


@pytest.mark.parametrize("arch", ["r2plus1d_18", "swin3d_t"])
def test_networks_compile_into_one_graph_and_export(arch: str) -> None:
    torch._dynamo.reset()
    blocks = ["features.4.1"] if arch == "swin3d_t" else ["layer3.1"]
    model = TorchvisionVideo(arch=arch, blocks=blocks).eval()
    x = torch.randn(1, 3, 4, 32, 32)
    (expected,) = model(x).values()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(*compiled(x).values(), expected)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(*program.module()(x).values(), expected)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"arch": "r3d_34"}, r"arch: got 'r3d_34', allowed: 'r3d_18', 'mc3_18', .*'swin3d_b'"),
        ({"arch": "r3d_18", "in_channels": 2}, "in_channels: got 2, allowed: 3"),
        ({"arch": "r3d_18", "norm": "GN"}, "norm: got 'GN', allowed: 'BN', 'SyncBN', 'FrozenBN'"),
        ({"arch": "swin3d_t", "norm": "SyncBN"}, "norm: got 'SyncBN', allowed with swin3d_t, which has layer norms"),
        ({"arch": "r3d_18", "freeze_at": 6}, "freeze_at: got 6, allowed: 0, 1, 2, 3, 4, 5"),
        ({"arch": "r3d_18", "out_features": ["res5"]}, "stage: got 'res5', allowed: 'stem', 'layer1'"),
        ({"arch": "r3d_18", "blocks": ["res4.1"]}, "blocks: got 'res4.1', allowed: 'stem', 'layer1', 'layer1.0', "),
        ({"arch": "swin3d_t", "blocks": ["features.0.2"]}, "allowed: 'patch_embed', .* 'features.0.1', 'features.1', "),
        ({"arch": "r3d_18", "blocks": ["layer3.1"] * 2}, "blocks: 'layer3.1' is given twice"),
        ({"arch": "mvit_v1_b", "blocks": ["blocks.3"]}, r"blocks: got \['blocks.3'\], allowed with mvit_v1_b: \[\]; "),
    ],
)
def test_wrong_arguments(keywords: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _on_meta(**keywords)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "opts", "message"),
    [
        ("", [], "MODEL.BACKBONE.ARCH: got '', allowed: 'r3d_18'"),
        ("swin3d_s", ["MODEL.NORM", "FrozenBN"], "MODEL.NORM: got 'FrozenBN', allowed with swin3d_s, which has layer"),
        ("mvit_v2_s", ["INPUT.NUM_FRAMES", 8], "INPUT.NUM_FRAMES with mvit_v2_s: got 8, allowed: 16"),
        ("mvit_v1_b", ["TEST.CROP_SIZE", 256], "TEST.CROP_SIZE with mvit_v1_b: got 256, allowed: 224"),
        ("r3d_18", ["MODEL.NONLOCAL.ENABLED", True], "BLOCKS is .*: with r3d_18 it must name sub-modules"),
        ("r3d_18", ["MODEL.NONLOCAL.ENABLED", True, "MODEL.NONLOCAL.BLOCKS", ["layer5.0"]],
         "MODEL.NONLOCAL.BLOCKS: got 'layer5.0', allowed: 'stem', "),
    ],
)  # fmt: skip
def test_wrong_configs_name_the_key(arch: str, opts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error, torch.device("meta"):
        build_backbone(_config(arch, *opts))
    assert "\n" not in str(error.value)


def test_the_name_of_the_backbone_is_not_forgotten() -> None:
    cfg = _config("r3d_18", "MODEL.BACKBONE.NAME", "ResNet3d")
    with pytest.raises(ValueError, match="MODEL.BACKBONE.ARCH with NAME 'ResNet3d': got 'r3d_18', allowed: ''"):
        build_backbone(cfg)


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("mvit_v1_b", (8, 224, 224), "clip of 8x224x224 .* mvit_v1_b takes 16x224x224 alone"),
        ("s3d", (4, 64, 64), "clip of 4x64x64 .* s3d needs at least 5x17x17"),
        ("s3d", (8, 64, 16), "clip of 8x64x16 .* s3d needs at least 5x17x17"),
    ],
)
def test_clips_that_a_network_does_not_take(arch: str, size: tuple[int, int, int], message: str) -> None:
    model = _on_meta(arch)
    with pytest.raises(ValueError, match=message):
        model(torch.empty(1, 3, *size, device="meta"))
    with pytest.raises(ValueError, match=r"video: expected \(N, 3, T, H, W\), got \(1, 2, 8, 8, 8\)"):
        model(torch.empty(1, 2, 8, 8, 8, device="meta"))


def test_s3d_takes_the_least_clip_that_its_error_names() -> None:
    (last,) = _on_meta("s3d").eval()(torch.empty(1, 3, 5, 17, 17, device="meta")).values()
    assert last.shape == (1, 1024, 1, 1, 1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_parameters_and_multiply_adds_are_those_of_torchvision(arch: str) -> None:
    (*_, meta) = (weights.meta for weights in torchvision.models.get_model_weights(arch))
    side = 112 if arch in RESNETS else 224
    cfg = _config(arch, "MODEL.HEAD.NUM_CLASSES", 400, "INPUT.NUM_FRAMES", 16, "INPUT.CROP_SIZE", side)
    costs = model_costs(cfg)
    assert costs["params"] == meta["num_params"]
    assert math.isclose(costs["gmacs"], meta["_ops"], rel_tol=0.01)
