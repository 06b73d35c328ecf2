"""Random weights under any names, and what a network of ours computes with them once they are converted."""

import math
from types import SimpleNamespace

import pytest
import torch

from nlvideo.checkpoint.convert import convert
from nlvideo.checkpoint.foreign import check_fit
from nlvideo.config import get_cfg
from nlvideo.modeling import META_ARCH, build_model

CLASSES = 5


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
            state[name] = torch.randn(shape, generator=generator) * math.prod(shape[1:]) ** -0.5
    return state


def norm_shapes(name, channels):
    """The five tensors of a batch normalisation."""
    shapes = {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


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


def on_meta(cfg):
    """The state dict of a network of ours, without memory."""
    with torch.device("meta"):
        return META_ARCH.get("VideoClassifier")(cfg).state_dict()


def refusal(shapes, source="auto"):
    """The error of a file with these shapes: of the conversion, or of its comparison with the network."""
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items() if shape is not None}
    with pytest.raises(ValueError) as error:
        converted = convert(state, source)
        check_fit(on_meta(config(converted)), converted.weights, "file")
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
    return SimpleNamespace(
        fill=fill, norm_shapes=norm_shapes, config=config, logits=logits, on_meta=on_meta, refusal=refusal,
        classes=CLASSES,
        blocks={50: (3, 4, 6, 3), 101: (3, 4, 23, 3)},
    )
