"""Names and shapes of peers' real networks, random weights under them, and what all peers compute stated again."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint.convert import convert
from nlvideo.checkpoint.weights import fit
from nlvideo.config import get_cfg
from nlvideo.modeling import META_ARCH, build_model

TABLES = Path(__file__).parent / "data/peer_keys"


def table(name):
    """Name -> shape of every tensor of a peer's network, as its own class printed them."""
    lines = (TABLES / f"{name}.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    return {key: () if shape == "-" else tuple(map(int, shape.split("x"))) for key, shape in pairs}


def narrow(shapes):
    """The same network with an eighth of the channels and classes."""
    return {
        name: tuple(size // 8 if axis < 2 and size >= 64 else size for axis, size in enumerate(shape))
        for name, shape in shapes.items()
    }


def fill(shapes, seed=0):
    """Random tensors with which the activations of a deep network stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        leaf = name.rsplit(".", 1)[1]
        if leaf == "num_batches_tracked":
            state[name] = torch.tensor(7)
        elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
            state[name] = torch.rand(shape, generator=generator) * 0.6 + 0.4
        elif len(shape) == 1:
            state[name] = torch.randn(shape, generator=generator) * 0.2
        else:
            # Blocks of dot products grow with the third power.
            scale = 0.3 if "out" in name else 1
            state[name] = torch.randn(shape, generator=generator) * scale * math.prod(shape[1:]) ** -0.5
    return state


def zeros(shapes):
    """Tensors of these shapes which take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items() if shape is not None}


# How each peer calls the parts that the forward pass below asks for, as in its tables. `{i}`: the residual block.
NAMES = {
    "pyslowfast": {
        "stem": ("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
        "block": [f"s{stage}.pathway0_res{{i}}" for stage in (2, 3, 4, 5)],
        "convs": [(f"branch2.{letter}", f"branch2.{letter}_bn") for letter in "abc"],
        "shortcut": ("branch1", "branch1_bn"),
        "nonlocal": [f"s{stage}.pathway0_nonlocal{{i}}" for stage in (2, 3, 4, 5)],
        "inner": {"theta": "conv_theta", "phi": "conv_phi", "g": "conv_g", "out": "conv_out", "norm": "bn"},
        "head": "head.projection",
    },
    "mmaction2": {
        "stem": ("backbone.conv1.conv", "backbone.conv1.bn"),
        "block": [f"backbone.layer{layer}.{{i}}" for layer in (1, 2, 3, 4)],
        "convs": [(f"conv{number}.conv", f"conv{number}.bn") for number in (1, 2, 3)],
        "shortcut": ("downsample.conv", "downsample.bn"),
        "nonlocal": [f"backbone.layer{layer}.{{i}}.non_local_block" for layer in (1, 2, 3, 4)],
        "inner": {"theta": "theta.conv", "phi": "phi.0.conv", "g": "g.0.conv", "out": "conv_out.conv",
                  "norm": "conv_out.bn", "concat": "concat_project.conv"},
        "head": "cls_head.fc_cls",
    },
    "temporal-shift-module": {
        "stem": ("base_model.conv1", "base_model.bn1"),
        "block": [f"base_model.layer{layer}.{{i}}" for layer in (1, 2, 3, 4)],
        "convs": [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)],
        "shortcut": ("downsample.0", "downsample.1"),
        "nonlocal": [f"base_model.layer{layer}.{{i}}.nl" for layer in (1, 2, 3, 4)],
        "inner": {"theta": "theta", "phi": "phi.0", "g": "g.0", "out": "W.0", "norm": "W.1"},
        "head": "new_fc",
    },
    "pytorchvideo": {
        "stem": ("blocks.0.conv", "blocks.0.norm"),
        "convs": [(f"branch2.conv_{letter}", f"branch2.norm_{letter}") for letter in "abc"],
        "shortcut": ("branch1_conv", "branch1_norm"),
        "nonlocal": [""] * 4,
    },
}  # fmt: skip


def names_of(peer, state):
    """The names of a peer; blocks of PyTorchVideo have other numbers after a pool, and without pools mmcv has no 0."""
    names = dict(NAMES[peer])
    if peer == "pytorchvideo":
        numbers, head = ((1, 2, 3, 4), 5) if "blocks.5.proj.weight" in state else ((1, 3, 4, 5), 6)
        names |= {"block": [f"blocks.{number}.res_blocks.{{i}}" for number in numbers], "head": f"blocks.{head}.proj"}
    elif peer == "mmaction2" and not any(".g.0.conv." in name for name in state):
        names["inner"] = {key: value.replace(".0.", ".") for key, value in names["inner"].items()}
    return names


def conv(state, name, x, stride=(1, 1, 1)):
    weight = state[f"{name}.weight"]
    weight = weight[:, :, None] if weight.dim() == 4 else weight  # of images: each frame by itself
    return F.conv3d(x, weight, state.get(f"{name}.bias"), stride, [size // 2 for size in weight.shape[2:]])


def bn(state, name, x):
    values = (state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *values, eps=1e-5)


def nonlocal_block(state, name, inner, x, form, scale=True, pool="before", group=1):
    """(N, C, T, H, W). ``pool``: what is max-pooled, x "before" phi and g or what is "after" them; None: nothing."""
    n, c, t, h, w = x.shape
    whole = x
    if group > 1:  # consecutive frames attend to each other
        x = x.reshape(n, c, group, t // group, h, w).transpose(1, 2).reshape(n * group, c, t // group, h, w)
    before, after = ((lambda u: F.max_pool3d(u, (1, 2, 2))) if pool == place else (lambda u: u)
                     for place in ("before", "after"))  # fmt: skip
    g = after(conv(state, f"{name}.{inner['g']}", before(x))).flatten(2)
    theta, phi = x, before(x)
    if form != "gaussian":
        theta, phi = conv(state, f"{name}.{inner['theta']}", theta), conv(state, f"{name}.{inner['phi']}", phi)
    theta, phi = theta.flatten(2), after(phi).flatten(2)
    if form == "concatenation":
        queries, keys = theta.shape[2], phi.shape[2]
        pairs = [theta[..., None].expand(-1, -1, -1, keys), phi[:, :, None].expand(-1, -1, queries, -1)]
        weights = F.relu(F.conv2d(torch.cat(pairs, 1), state[f"{name}.{inner['concat']}.weight"]))[:, 0]
    else:
        weights = theta.transpose(1, 2) @ phi
    if form in ("gaussian", "embedded_gaussian"):
        weights = (weights * (theta.shape[1] ** -0.5 if scale else 1)).softmax(-1)
    else:
        weights = weights / weights.shape[-1]
    y = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
    out = conv(state, f"{name}.{inner['out']}", y)
    norm = f"{name}.{inner['norm']}"
    out = bn(state, norm, out) if f"{norm}.weight" in state else out
    if group > 1:
        out = out.reshape(n, group, c, t // group, h, w).transpose(1, 2).reshape(n, c, t, h, w)
    return whole + out


def shifted(x, count):
    """(N, C, T, H, W): 1 / count of the channels of a frame are those of the next, and as many those of the last."""
    out, fold = torch.zeros_like(x), x.shape[1] // count
    out[:, :fold, :-1] = x[:, :fold, 1:]
    out[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
    out[:, 2 * fold :] = x[:, 2 * fold :]
    return out


def features(
    peer, state, clip, *, conv1=1, pool1=1, pool2=False, padding=1, mean=(114.75,) * 3, std=(57.375,) * 3,
    stride_1x1=False, group=1, count=8, **block,
):  # fmt: skip
    """The last map of a network; clip: uint8 (N, 3, T, H, W). ``conv1``, ``pool1``: steps in time of the stem."""
    names = names_of(peer, state)
    mean, std = (torch.tensor(values, dtype=torch.float).view(3, 1, 1, 1) for values in (mean, std))
    first, norm = names["stem"]
    x = F.relu(bn(state, norm, conv(state, first, (clip.float() - mean) / std, (conv1, 2, 2))))
    x = F.max_pool3d(x, (1, 3, 3), (pool1, 2, 2), (0, padding, padding))
    for number in range(4):
        x = residual_stage(state, names, number, x, stride_1x1, count, group=group if number == 1 else 1, **block)
        if number == 0 and pool2:
            x = F.max_pool3d(x, (2, 1, 1))
    return x


def residual_stage(state, names, number, x, stride_1x1=False, count=8, **block):
    """One of the four stages of residual blocks, with the non-local blocks in it.

    What TSM shifts is called ``net``: a residual block, or its first convolution. Its residual blocks before non-local
    blocks are called ``block``.
    """
    for i in range(40):
        name = names["block"][number].format(i=i)
        if not any(key.startswith(f"{name}.") for key in state):
            break
        name = next((n for n in (f"{name}.net", f"{name}.block") if any(k.startswith(n) for k in state)), name)
        layers = [tuple(f"{name}.{part}" for part in pair) for pair in (*names["convs"], names["shortcut"])]
        one, two = (1, 1, 1), (1, 2, 2) if number and i == 0 else (1, 1, 1)
        (a, a_bn), (b, b_bn), (c, c_bn), (short, short_bn) = layers
        x = y = shifted(x, count) if name.endswith(".net") else x
        if f"{a}.net.weight" in state:
            a, y = f"{a}.net", shifted(x, count)
        y = F.relu(bn(state, a_bn, conv(state, a, y, two if stride_1x1 else one)))
        y = F.relu(bn(state, b_bn, conv(state, b, y, one if stride_1x1 else two)))
        y = bn(state, c_bn, conv(state, c, y))
        x = F.relu(y + (bn(state, short_bn, conv(state, short, x, two)) if f"{short}.weight" in state else x))
        name = names["nonlocal"][number].format(i=i)
        if name and any(key.startswith(f"{name}.") for key in state):
            x = nonlocal_block(state, name, names["inner"], x, **block)
    return x


# How the peers call the pathways of SlowFast, and what leads from the fast one to the slow one.
PATHWAYS = {
    "pyslowfast": {
        "stem": ("s1.pathway{p}_stem.conv", "s1.pathway{p}_stem.bn"),
        "block": [f"s{stage}.pathway{{p}}_res{{i}}" for stage in (2, 3, 4, 5)],
        "lateral": [(f"s{n}_fuse.conv_f2s", f"s{n}_fuse.bn") for n in (1, 2, 3, 4)],
    },
    "pytorchvideo": {
        "stem": ("blocks.0.multipathway_blocks.{p}.conv", "blocks.0.multipathway_blocks.{p}.norm"),
        "block": [f"blocks.{n}.multipathway_blocks.{{p}}.res_blocks.{{i}}" for n in (1, 2, 3, 4)],
        "lateral": [(f"{fusion}.conv_fast_to_slow", f"{fusion}.norm")
                    for fusion in (f"blocks.{n}.multipathway_fusion" for n in (0, 1, 2, 3))],
        "head": "blocks.6.proj",
    },
}  # fmt: skip


def slowfast(peer, state, clip, alpha, mean=(114.75,) * 3, std=(57.375,) * 3, **block):
    """The logits (N, K) of SlowFast (its Table 1): the means of both last maps, one after the other."""
    both, maps = NAMES[peer] | PATHWAYS[peer], []
    mean, std = (torch.tensor(values, dtype=torch.float).view(3, 1, 1, 1) for values in (mean, std))
    frames = torch.linspace(0, clip.shape[2] - 1, clip.shape[2] // alpha).long()
    for p, video in enumerate((clip[:, :, frames], clip)):
        kernel, norm = (name.format(p=p) for name in both["stem"])
        x = F.relu(bn(state, norm, conv(state, kernel, (video.float() - mean) / std, (1, 2, 2))))
        maps.append(F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    for number, (lateral, norm) in enumerate(both["lateral"]):
        given = F.relu(bn(state, norm, conv(state, lateral, maps[1], (alpha, 1, 1))))
        for p, x in enumerate((torch.cat([maps[0], given], 1), maps[1])):
            names = both | {"block": [name.replace("{p}", str(p)) for name in both["block"]]}
            names |= {"nonlocal": [""] * 4} if p else {}
            maps[p] = residual_stage(state, names, number, x, **block)
    means = torch.cat([x.mean((2, 3, 4)) for x in maps], 1)
    return F.linear(means, state[f"{both['head']}.weight"], state[f"{both['head']}.bias"])


def forward(peer, state, clip, **settings):
    """The logits (N, K) of the average of the last map."""
    x = features(peer, state, clip, **settings).mean((2, 3, 4))
    head = names_of(peer, state)["head"]
    return F.linear(x, state[f"{head}.weight"], state[f"{head}.bias"])


def config(converted, **settled):
    """The config of converted weights; what they leave open is the first possibility, or `settled` by its last word."""
    cfg = get_cfg()
    decided = {key: values[0] for key, values in converted.undecided.items()}
    for key in decided:
        decided[key] = settled.get(key.rsplit(".", 1)[1].lower(), decided[key])
    settings = {**converted.overrides, **decided, "MODEL.HEAD.DROPOUT": 0.0, "MODEL.DEVICE": "cpu"}
    cfg.merge_from_list([word for item in settings.items() for word in item])
    return cfg


def logits(converted, clip, **settled):
    """uint8 (N, 3, T, H, W) -> (N, K), with the network of `config`, every tensor of which is among the weights."""
    model = build_model(config(converted, **settled)).eval()
    current = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    assert current <= set(converted.weights) <= set(model.state_dict())
    model.load_state_dict(converted.weights, strict=False)
    model.head.train()  # logits, not probabilities
    with torch.no_grad():
        return model.forward_clips(clip)


def same(ours, theirs):
    """Equal to rounding, and neither all alike nor out of hand."""
    assert theirs.std() > 0.1 and theirs.abs().max() < 1e6
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.std().item(), rtol=1e-4)


def on_meta(cfg):
    """The state dict of a network of ours, without memory."""
    with torch.device("meta"):
        return META_ARCH.get("VideoClassifier")(cfg).state_dict()


def refusal(shapes, source="auto"):
    """The error of a file with these shapes: of the conversion, or of its comparison with the network."""
    with pytest.raises(ValueError) as error:
        converted = convert(zeros(shapes), source)
        fit(on_meta(config(converted)), converted.weights, "file", "backbone")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def clip():
    """Two clips of 8 small frames, of smooth colours so that frames and places differ."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 4, 5, 5, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (8, 48, 48), mode="trilinear").round().to(torch.uint8)


@pytest.fixture
def peers():
    """The helpers of this file."""
    return SimpleNamespace(**{
        function.__name__: function
        for function in (table, narrow, fill, zeros, bn, nonlocal_block, features, forward, slowfast, config,
                         logits, same, on_meta, refusal)
    }, names=NAMES, tables=TABLES)  # fmt: skip
