"""TSM: the logits of an independent restatement on torchvision's ResNets, its shift, and what is refused."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from nlvideo.checkpoint.weights import load_weights
from nlvideo.config import CfgNode, load_cfg
from nlvideo.layers import fuse_for_inference
from nlvideo.modeling import TSM, NonLocalBlock, build_backbone, build_model, inflate_2d_weights
from nlvideo.modeling.backbone.tsm import shift_channels

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def config(*opts: object) -> CfgNode:
    """A config of TSM with torchvision's pixel statistics."""
    settings = {"MODEL.DEVICE": "cpu", "MODEL.BACKBONE.NAME": "TSM", "MODEL.BACKBONE.STEM": "slow",
                "MODEL.PIXEL_MEAN": MEAN, "MODEL.PIXEL_STD": STD, "MODEL.HEAD.NUM_CLASSES": 7,
                "MODEL.HEAD.DROPOUT": 0.0}  # fmt: skip
    return load_cfg(None, [*(word for item in settings.items() for word in item), *opts])


def shifted(x: torch.Tensor, count: int) -> torch.Tensor:
    """(T, C, H, W): channel c of frame t, from frame t + 1 for the first C // count, from t - 1 for as many more."""
    out = torch.zeros_like(x)
    fold = x.shape[1] // count
    for t in range(len(x)):
        if t + 1 < len(x):
            out[t, :fold] = x[t + 1, :fold]
        if t > 0:
            out[t, fold : 2 * fold] = x[t - 1, fold : 2 * fold]
        out[t, 2 * fold :] = x[t, 2 * fold :]
    return out


def restated(network: torchvision.models.ResNet, frames: torch.Tensor, count: int, in_place: bool) -> torch.Tensor:
    """The logits (K,) of one clip, (T, 3, H, W), by the layers of torchvision's network: averaged over the frames."""
    every = 2 if len(network.layer3) >= 23 and not in_place else 1
    x = network.maxpool(network.relu(network.bn1(network.conv1(frames))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for index, block in enumerate(stage):
            x = shifted(x, count) if in_place else x
            branch = shifted(x, count) if index % every == 0 and not in_place else x
            branch = F.relu(block.bn1(block.conv1(branch)))
            branch = block.bn2(block.conv2(branch))
            if hasattr(block, "conv3"):
                branch = block.bn3(block.conv3(F.relu(branch)))
            x = F.relu(branch + (block.downsample(x) if block.downsample else x))
    return network.fc(x.mean((2, 3))).mean(0)


@pytest.mark.parametrize(
    ("depth", "count", "in_place"), [(50, 8, False), (50, 8, True), (18, 3, False), (101, 8, False), (101, 8, True)]
)
def test_logits_are_those_of_a_restatement(depth: int, count: int, in_place: bool) -> None:
    """Weights of images start it, as they start C2D."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dim() == 1:
            tensor.add_(torch.randn_like(tensor) * 0.1)
    arguments = [["shift_div", count], ["in_place", in_place]]
    cfg = config("MODEL.BACKBONE.DEPTH", depth, "MODEL.BACKBONE.ARGS", arguments)
    model = build_model(cfg).eval()
    report = load_weights(model, network.state_dict(), "resnet.pth", cfg=cfg, adapt_weights=inflate_2d_weights)
    assert report.is_complete
    clips = torch.randint(0, 256, (2, 3, 5, 40, 33), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    model.head.train()  # logits, not probabilities
    with torch.no_grad():
        ours = model.forward_clips(clips)
        frames = [(clip.transpose(0, 1) - mean) / std for clip in clips]
        expected = torch.stack([restated(network, clip, count, in_place) for clip in frames])
        unshifted = torch.stack([network(clip).mean(0) for clip in frames])
    torch.testing.assert_close(ours, expected, atol=1e-4 * expected.std().item(), rtol=1e-4)
    assert (expected - unshifted).abs().max() > 0.1 * expected.std()


@pytest.mark.parametrize("size", [(2, 16, 4, 3, 5), (1, 11, 2, 1, 1), (2, 8, 1, 2, 2), (1, 4, 3, 2, 2)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_channels_shift_and_so_do_gradients(size: tuple, memory_format: torch.memory_format) -> None:
    x = torch.randn(size).to(memory_format=memory_format).requires_grad_()
    y = shift_channels(x, 4)
    expected = torch.stack([shifted(clip.transpose(0, 1), 4).transpose(0, 1) for clip in x])
    assert torch.equal(y, expected)
    assert size[2] == 1 or y.is_contiguous(memory_format=memory_format)
    weights = torch.randn(size)
    (ours,) = torch.autograd.grad((y * weights).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), x)
    assert torch.equal(ours, theirs)


def test_non_local_blocks_stand_after_a_residual_block_and_see_unshifted_maps() -> None:
    """New ones are the identity."""
    torch.manual_seed(0)
    small = ["MODEL.BACKBONE.DEPTH", 18, "MODEL.BACKBONE.WIDTH", 0.25]
    plain = build_backbone(config(*small)).eval()
    places = ["MODEL.NONLOCAL.ENABLED", True, "MODEL.NONLOCAL.BLOCKS", ["res3.0", "res4.1"]]
    model = build_backbone(config(*small, *places)).eval()
    assert set(plain.state_dict()) < set(model.state_dict())
    model.load_state_dict(plain.state_dict(), strict=False)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(model(clip)["res5"], plain(clip)["res5"])
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, NonLocalBlock)}
    assert list(blocks) == ["res3.nl0", "res4.nl1"]
    seen = {}
    model.res3.nl0.register_forward_pre_hook(lambda module, inputs: seen.update(nl=inputs[0]))
    model.res3.get_submodule("0").register_forward_hook(lambda module, inputs, output: seen.update(block=output))
    model(clip)
    assert seen["nl"] is seen["block"]


def test_shapes_stages_and_freezing_are_those_of_c2d() -> None:
    model = TSM(depth=18, width=0.25, freeze_at=2, out_features=["res3", "res5"])
    features = model(torch.randn(1, 3, 5, 40, 33))
    assert [tuple(x.shape[1:]) for x in features.values()] == [(32, 5, 5, 5), (128, 5, 2, 2)]
    assert [shape.temporal_stride for shape in model.output_shape().values()] == [1, 1]
    trains = {name: any(p.requires_grad for p in modules[0].parameters()) for name, modules in model.stages().items()}
    assert trains == {"stem": False, "res2": False, "res3": True, "res4": True, "res5": True}
    assert "shift_div=8, in_place=False" in repr(model)


def test_a_step_of_training_reaches_every_parameter() -> None:
    model = build_model(config("MODEL.BACKBONE.DEPTH", 18, "MODEL.BACKBONE.WIDTH", 0.25)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    batch = {"video": torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8), "label": torch.tensor([0, 1])}
    model(batch)["loss_cls"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("in_place", [False, True])
def test_copies_compile_into_one_graph_and_export(in_place: bool) -> None:
    """A copy, one in another process, one without norms and a graph shift as well."""
    torch._dynamo.reset()
    model = TSM(depth=18, width=0.25, zero_init_residual=False, in_place=in_place).eval()
    x = torch.randn(1, 3, 4, 32, 32)
    (expected,) = model(x).values()
    assert not torch.allclose(expected, model(x.flip(2))["res5"].flip(2), atol=1e-3)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(*other(x).values(), expected)
    torch.testing.assert_close(*fuse_for_inference(model)(x).values(), expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(*compiled(x).values(), expected)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(*program.module()(x).values(), expected)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["MODEL.BACKBONE.ARGS", [["shift_div", 1]]],
            "MODEL.BACKBONE.ARGS: shift_div: got 1, allowed: 2 to 64, the ch",
        ),
        (["MODEL.BACKBONE.ARGS", [["shift_div", 65]]], "MODEL.BACKBONE.ARGS: shift_div: got 65, allowed: 2 to 64"),
        (["MODEL.BACKBONE.ARGS", [["shift_div", 8.5]]], "MODEL.BACKBONE.ARGS: shift_div: expected int, got float 8.5"),
        (["MODEL.BACKBONE.ARGS", [["in_place", "yes"]]], "MODEL.BACKBONE.ARGS: in_place: expected bool, got str 'yes'"),
        (
            ["MODEL.BACKBONE.ARGS", [["shift", 8]]],
            "MODEL.BACKBONE.ARGS: TSM has no argument 'shift' of its own. did you mean 'shift_div'? Allowed: "
            "'shift_div', 'in_place'",
        ),
        (["MODEL.BACKBONE.ARGS", [["out_features", ["res4"]]]], "TSM has no argument 'out_features' of its own."),
        (["MODEL.BACKBONE.STEM", "paper"], "MODEL.BACKBONE.STEM with TSM: got 'paper', allowed: 'slow'"),
        (["MODEL.BACKBONE.TEMPORAL", "slow"], "MODEL.BACKBONE.TEMPORAL with TSM: got 'slow', allowed: 'c2d'"),
        (["MODEL.BACKBONE.ARCH", "r3d_18"], "MODEL.BACKBONE.ARCH with NAME 'TSM': got 'r3d_18', allowed: ''"),
    ],
)
def test_what_is_not_allowed(opts: list, message: str) -> None:
    with pytest.raises(ValueError) as error, torch.device("meta"):
        build_backbone(config(*opts))
    assert message in str(error.value) and "\n" not in str(error.value)
