"""The TSM authors' networks: their modules stated again, so that names are those of a real state dict, and back."""

import pytest
import torch
import torchvision
from torch import nn

from nlvideo.checkpoint.conversion import convert_checkpoint, write_conversion, write_export
from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.export import export_weights
from nlvideo.checkpoint.trained import load_trained_model
from nlvideo.checkpoint.weights import flatten
from nlvideo.config import get_cfg, load_cfg
from nlvideo.modeling import build_model

FRAMES = 5
PLACES = ["res3.0", "res3.2", "res4.0", "res4.2", "res4.4"]


class Shift(nn.Module):
    """Shifts frames (N x T, C, H, W), then calls a module."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        """(N x T, C, H, W) -> the output of the module."""
        x = x.unflatten(0, (-1, FRAMES))
        out, fold = torch.zeros_like(x), x.shape[2] // 8
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return self.net(out.flatten(0, 1))


class Block(nn.Module):
    """A non-local block of theirs: an unscaled softmax, maxima after phi and g."""

    def __init__(self, channels):
        super().__init__()
        half, pool = channels // 2, nn.MaxPool3d((1, 2, 2))
        self.theta = nn.Conv3d(channels, half, 1)
        self.phi = nn.Sequential(nn.Conv3d(channels, half, 1), pool)
        self.g = nn.Sequential(nn.Conv3d(channels, half, 1), pool)
        self.W = nn.Sequential(nn.Conv3d(half, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, x):
        """(N, C, T, H, W) -> the same."""
        weights = (self.theta(x).flatten(2).mT @ self.phi(x).flatten(2)).softmax(-1)
        return x + self.W((weights @ self.g(x).flatten(2).mT).mT.unflatten(2, x.shape[2:]))


class WithBlock(nn.Module):
    """A residual block, then a non-local block."""

    def __init__(self, block):
        super().__init__()
        self.block, self.nl = block, Block(block.bn3.num_features)

    def forward(self, x):
        """(N x T, C, H, W) -> the same."""
        x = self.block(x).unflatten(0, (-1, FRAMES)).transpose(1, 2)
        return self.nl(x).transpose(1, 2).flatten(0, 1)


class Network(nn.Module):
    """Their TSN class around a ResNet of torchvision."""

    def __init__(self, depth=50, place="blockres", blocks=False, dropout=True):
        super().__init__()
        net = getattr(torchvision.models, f"resnet{depth}")(num_classes=6)
        every = 2 if depth > 50 else 1
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for index, block in enumerate(stage):
                if place == "block":
                    stage[index] = Shift(block)
                elif place == "blockres" and index % every == 0:
                    block.conv1 = Shift(block.conv1)
        if blocks:
            for stage, index in ((net.layer2, 0), (net.layer2, 2), (net.layer3, 0), (net.layer3, 2), (net.layer3, 4)):
                stage[index] = WithBlock(stage[index])
        if dropout:
            self.new_fc, net.fc = net.fc, nn.Identity()
        self.base_model = net

    def forward(self, pixels):
        """(N, 3, T, H, W) -> (N, K): the mean of the scores of the frames."""
        scores = self.base_model(pixels.transpose(1, 2).flatten(0, 1))
        scores = self.new_fc(scores) if hasattr(self, "new_fc") else scores
        return scores.unflatten(0, (-1, FRAMES)).mean(1)


@pytest.fixture
def network(peers):
    """``network(...)``: a network of theirs with random norms."""

    def build(**arguments):
        torch.manual_seed(0)
        built = Network(**arguments).eval()
        built.load_state_dict(peers.fill({name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}))
        return built

    return build


def theirs(network, clip):
    """The logits of their network for uint8 (N, 3, T, H, W)."""
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.no_grad():
        return network((clip - mean) / std)


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ({}, {"NAME": "TSM", "ARGS": []}),
        ({"depth": 18, "dropout": False}, {"NAME": "TSM", "DEPTH": 18}),
        ({"depth": 101}, {"NAME": "TSM", "DEPTH": 101}),
        ({"depth": 18, "place": "block"}, {"NAME": "TSM", "ARGS": [["in_place", True]]}),
        ({"blocks": True}, {"NAME": "TSM"}),
        ({"depth": 18, "place": "none"}, {}),
    ],
    ids=["r50", "r18", "r101", "in_place", "nonlocal", "tsn"],
)
def test_logits_are_theirs(peers, network, clip, arguments, settings):
    built, clip = network(**arguments), clip[:, :, :FRAMES]
    flat = flatten({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in built.state_dict().items()}}, "x.pth.tar")
    assert recognise(flat) == "temporal-shift-module"
    converted = convert(flat)
    assert {f"MODEL.BACKBONE.{key}": value for key, value in settings.items()}.items() <= converted.overrides.items()
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.CLIP_SAMPLER"]) == (8, "SegmentClip")
    assert converted.undecided == {} and converted.overrides["MODEL.NONLOCAL.ENABLED"] == ("blocks" in arguments)
    peers.same(peers.logits(converted, clip), theirs(built, clip))


def test_a_file_converts_and_goes_back_to_both_frameworks(network, clip, tmp_path):
    """Through the files that the tool reads and writes."""
    built, paths = network(blocks=True), {name: str(tmp_path / f"{name}.pth") for name in ("in", "ours", "tsm", "mma")}
    weights = {f"module.{name}": tensor for name, tensor in built.state_dict().items()}
    torch.save({"state_dict": weights, "arch": "resnet50"}, paths["in"])
    config = write_conversion(convert_checkpoint(paths["in"], opts=["MODEL.DEVICE", "cpu"]), paths["ours"])
    assert load_cfg(config).MODEL.NONLOCAL.BLOCKS == PLACES
    model, _ = load_trained_model(load_cfg(config), paths["ours"])
    model.head.train()
    with torch.no_grad():
        expected = theirs(built, clip[:, :, :FRAMES])
        logits = model.head.classifier(model._last_feature(clip[:, :, :FRAMES]).mean((2, 3, 4)))
    torch.testing.assert_close(logits, expected, atol=1e-4 * expected.std().item(), rtol=1e-4)
    ours = convert_checkpoint(paths["ours"], config_file=config)
    write_export(ours, paths["tsm"], "temporal-shift-module")
    back = torch.load(paths["tsm"])["state_dict"]
    assert set(back) == set(weights) and all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    # And to mmaction2, whose file leads back to ours.
    write_export(ours, paths["mma"], "mmaction2")
    told = ["MODEL.NONLOCAL.PAIRWISE", "embedded_gaussian", "MODEL.NONLOCAL.SCALE", "False"]
    again = convert_checkpoint(paths["mma"], opts=told)
    assert again.converted.source == "mmaction2" and again.cfg.MODEL.BACKBONE.NAME == "TSM"
    for name, tensor in ours.converted.weights.items():
        if ".nl" not in name:
            assert torch.equal(again.converted.weights[name], tensor)


@pytest.mark.parametrize(
    ("arguments", "depth"), [([], 50), ([["in_place", True]], 50), ([], 101), ([["shift_div", 4]], 50)]
)
@pytest.mark.parametrize("to", ["mmaction2", "temporal-shift-module"])
def test_ours_without_blocks_and_back(arguments, depth, to):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.update({"NAME": "TSM", "STEM": "slow", "ARGS": arguments, "DEPTH": depth, "WIDTH": 0.125})
    weights = build_model(cfg).state_dict()
    converted = convert(flatten({"state_dict": export_weights(weights, cfg, to)}, "x"))
    assert converted.overrides["MODEL.BACKBONE.ARGS"] == ([] if arguments == [["shift_div", 4]] else arguments)
    assert set(converted.weights) == set(weights)
    assert all(torch.equal(converted.weights[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("to", "backbone", "block", "message"),
    [
        ("pyslowfast", {}, {}, "pyslowfast cannot express MODEL.BACKBONE.NAME: got 'TSM', allowed: 'ResNet3d'"),
        ("temporal-shift-module", {"NAME": "ResNet3d"}, {}, "MODEL.BACKBONE.NAME: got 'ResNet3d', allowed: 'TSM'"),
        ("temporal-shift-module", {"STRIDE_IN_1X1": True}, {}, "MODEL.BACKBONE.STRIDE_IN_1X1: got True"),
        ("temporal-shift-module", {}, {"BLOCKS": ["res3.1"]}, "places of non-local blocks: got ['res3.1'], allowed: ["),
        ("temporal-shift-module", {}, {"SCALE": True}, "MODEL.NONLOCAL.SCALE: got True, allowed: False"),
        ("temporal-shift-module", {}, {"PAIRWISE": "dot_product"}, "MODEL.NONLOCAL.PAIRWISE: got 'dot_product'"),
        (
            "temporal-shift-module",
            {"DEPTH": 101},
            {"SCALE": False},
            "DEPTH with non-local blocks: got 101, allowed: 50",
        ),
        (
            "mmaction2",
            {"ARGS": [["in_place", True]]},
            {"SCALE": False},
            "with shifts in place: got True, allowed: False",
        ),
    ],
)
def test_what_is_not_exported(peers, to, backbone, block, message):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.update({"NAME": "TSM", "STEM": "slow", **backbone})
    if block:
        cfg.MODEL.NONLOCAL.update({"ENABLED": True, "BLOCKS": PLACES, "POOL_FIRST": False, "SCALE": False, **block})
    weights = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in peers.on_meta(cfg).items()}
    with pytest.raises(ValueError) as error:
        export_weights(weights, cfg, to)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_other_networks_of_theirs_are_refused(network):
    state = network(depth=18).state_dict()
    pooled = {name.replace("layer2.", "layer2.net."): tensor for name, tensor in state.items()}
    with pytest.raises(
        ValueError, match=r"cannot express base_model.layer2.net.* a TSM network with a pool over time$"
    ):
        convert(pooled)
    flow = {**state, "base_model.conv1.weight": torch.zeros(64, 10, 7, 7)}
    with pytest.raises(ValueError, match="reads 10 channels, such as optical flow; ours reads RGB"):
        convert(flow)


def test_weights_that_shift_do_not_start_a_network_that_does_not(network, tmp_path, caplog):
    path = str(tmp_path / "tsm.pth")
    torch.save({"state_dict": network(depth=18).state_dict()}, path)
    settings = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.STEM", "slow",
                "MODEL.HEAD.NUM_CLASSES", "6", "MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]",
                "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]"]  # fmt: skip
    with pytest.raises(ValueError, match="MODEL.BACKBONE.NAME: file 'TSM', config 'ResNet3d'"):
        load_trained_model(load_cfg(None, settings), path)
    in_place = [*settings, "MODEL.BACKBONE.NAME", "TSM", "MODEL.BACKBONE.ARGS", "[[in_place, True]]"]
    with pytest.raises(ValueError, match=r"MODEL.BACKBONE.ARGS: file \[\], config \[\['in_place', True\]\]"):
        load_trained_model(load_cfg(None, in_place), path)
    tsm = [*settings, "MODEL.BACKBONE.NAME", "TSM"]
    # Also where the config says what is the default.
    for more in ([], ["MODEL.BACKBONE.ARGS", "[[in_place, False], [shift_div, 8]]"]):
        assert load_trained_model(load_cfg(None, [*tsm, *more]), path)
    # A network of frames, TSN, may start it, but the log says what it is.
    assert "MODEL.BACKBONE.NAME" not in caplog.text
    torch.save({"state_dict": network(depth=18, place="none").state_dict()}, path)
    load_trained_model(load_cfg(None, tsm), path)
    assert "MODEL.BACKBONE.NAME: file 'ResNet3d', config 'TSM'; training may start from these weights" in caplog.text
