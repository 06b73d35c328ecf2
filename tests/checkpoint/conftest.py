"""The authors' Caffe2 networks, stated again: blob names by rule, and the computation in plain functions.

Nothing here uses the package: blobs are named, and layers computed, from the description of the authors' code alone.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
# Residual blocks with a 3x1x1 kernel in an I3D network, and those with a non-local block after them.
TEMPORAL = {2: lambda i: True, 3: lambda i: i % 2 == 0, 4: lambda i: i % 2 == 0, 5: lambda i: i % 2 == 1}
NONLOCAL = {50: {3: (1, 3), 4: (1, 3, 5)}, 101: {3: (1, 3), 4: (6, 13, 20)}}

Shapes = dict[str, tuple[int, ...]]
Blobs = dict[str, np.ndarray]


def _norm_shapes(name: str, channels: int, affine: bool) -> Shapes:
    return {f"{name}_bn_{leaf}": (channels,) for leaf in (("s", "b") if affine else ("s", "b", "rm", "riv"))}


def _residual_shapes(stage: int, index: int, frames: int, first: int, inner: int, affine: bool) -> Shapes:
    name, shapes = f"res{stage}_{index}", {}
    if index == 0:
        shapes[f"{name}_branch1_w"] = (4 * inner, first, 1, 1, 1)
        shapes |= _norm_shapes(f"{name}_branch1", 4 * inner, affine)
    incoming = first if index == 0 else 4 * inner
    for letter, shape in {"a": (inner, incoming, frames, 1, 1), "b": (inner, inner, 1, 3, 3),
                          "c": (4 * inner, inner, 1, 1, 1)}.items():  # fmt: skip
        shapes |= {f"{name}_branch2{letter}_w": shape, **_norm_shapes(f"{name}_branch2{letter}", shape[0], affine)}
    return shapes


def _nonlocal_shapes(stage: int, index: int, channels: int, norm: bool) -> Shapes:
    name, half, shapes = f"nonlocal_conv{stage}_{index}", channels // 2, {}
    for layer in ("theta", "phi", "g", "out"):
        out_in = (channels, half) if layer == "out" else (half, channels)
        shapes |= {f"{name}_{layer}_w": (*out_in, 1, 1, 1), f"{name}_{layer}_b": out_in[:1]}
    return shapes | (_norm_shapes(name, channels, False) if norm else {})


def blob_shapes(
    depth: int = 50, i3d: bool = True, blocks: bool = True, base: int = 64, classes: int = 400, affine: bool = False,
    block_norm: bool = True,
) -> Shapes:  # fmt: skip
    """Blob -> shape of every parameter and statistic, ``base`` channels after the first convolution."""
    shapes: Shapes = {"conv1_w": (base, 3, 5 if i3d else 1, 7, 7), **_norm_shapes("res_conv1", base, affine)}
    first = base
    for stage, count in zip((2, 3, 4, 5), BLOCKS[depth]):
        inner = base * 2 ** (stage - 2)
        for index in range(count):
            frames = 3 if i3d and TEMPORAL[stage](index) else 1
            shapes |= _residual_shapes(stage, index, frames, first, inner, affine)
            if blocks and index in NONLOCAL[depth].get(stage, ()):
                shapes |= _nonlocal_shapes(stage, index, 4 * inner, block_norm)
        first = 4 * inner
    return shapes | {"pred_w": (classes, first), "pred_b": (classes,)}


def random_blobs(shapes: Shapes, seed: int = 0) -> Blobs:
    """Values under which every layer matters and no activation grows out of hand."""
    random = np.random.default_rng(seed)
    blobs = {}
    for name, shape in shapes.items():
        if name.endswith("_w"):
            gain = 1.0 if "nonlocal" in name or name == "pred_w" else math.sqrt(2.0)
            values = random.normal(0, gain / math.sqrt(math.prod(shape[1:])), shape)
        elif name.endswith(("_s", "_riv")):
            # Small at the end of a branch: sums of sixteen large branches would leave no digits for a comparison.
            values = random.uniform(0.5, 1.5, shape) * (0.2 if name.endswith("branch2c_bn_s") else 1.0)
        else:
            values = random.normal(0, 0.1, shape)
        blobs[name] = values.astype(np.float32)
    return blobs


def training_state(blobs: Blobs) -> dict:
    """What a training checkpoint holds besides: a momentum of every parameter that trains, the rate, the iteration."""
    momenta = {f"{name}_momentum": value for name, value in blobs.items() if not name.endswith(("_rm", "_riv"))}
    return {**momenta, "lr": np.float32(0.01), "model_iter": 400000}


def _normalise(blobs: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    scale, shift = blobs[f"{name}_bn_s"], blobs[f"{name}_bn_b"]
    if f"{name}_bn_rm" in blobs:
        # "riv" holds the running variance.
        factor = scale / torch.sqrt(blobs[f"{name}_bn_riv"] + 1.0000001e-5)
        scale, shift = factor, shift - blobs[f"{name}_bn_rm"] * factor
    return x * scale.view(1, -1, 1, 1, 1) + shift.view(1, -1, 1, 1, 1)


def _convolve(blobs: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    kernel = blobs[f"{name}_w"]
    padding = [size // 2 for size in kernel.shape[2:]]
    return _normalise(blobs, name, F.conv3d(x, kernel, stride=(1, stride, stride), padding=padding))


def _residual(blobs: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int) -> torch.Tensor:
    branch = F.relu(_convolve(blobs, f"{name}_branch2a", x))
    branch = F.relu(_convolve(blobs, f"{name}_branch2b", branch, stride))
    branch = _convolve(blobs, f"{name}_branch2c", branch)
    shortcut = _convolve(blobs, f"{name}_branch1", x, stride) if f"{name}_branch1_w" in blobs else x
    return F.relu(branch + shortcut)


def _nonlocal(blobs: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    def project(layer: str, u: torch.Tensor) -> torch.Tensor:
        return F.conv3d(u, blobs[f"{name}_{layer}_w"], blobs[f"{name}_{layer}_b"])

    pooled = F.max_pool3d(x, (1, 2, 2), (1, 2, 2))
    theta, phi, g = project("theta", x), project("phi", pooled), project("g", pooled)
    affinity = torch.einsum("bdn,bdm->bnm", theta.flatten(2), phi.flatten(2)) * theta.shape[1] ** -0.5
    y = torch.einsum("bnm,bdm->bdn", affinity.softmax(dim=2), g.flatten(2)).reshape(theta.shape)
    out = project("out", y)
    return x + (_normalise(blobs, name, out) if f"{name}_bn_s" in blobs else out)


def _grouped_nonlocal(blobs: dict[str, torch.Tensor], name: str, x: torch.Tensor, group: int) -> torch.Tensor:
    chunks = x.split(group, dim=2)
    return torch.cat([_nonlocal(blobs, name, chunk) for chunk in chunks], dim=2)


def caffe2_logits(
    arrays: Blobs, clip: torch.Tensor, clip_kind: str = "32x2", window: int | None = None
) -> torch.Tensor:
    """The network of the authors' code in float64: clip (N, 3, T, H, W) of 0..255, RGB -> logits (N, K, positions).

    ``clip_kind`` "32x2" is their `resnet_video_org`, "8x8" their `resnet_video`; affine files group res3 by 4 frames.
    "slowfast" is PySlowFast's C2D and I3D, which is "8x8" with a padded first pool; "nopool" has no second.
    ``window`` is the height and width of pool5; None: the whole map.
    """
    blobs = {name: torch.as_tensor(value).double() for name, value in arrays.items()}
    sparse, affine = clip_kind != "32x2", "res_conv1_bn_rm" not in blobs
    padding = (0, 1, 1) if clip_kind in ("slowfast", "nopool") else 0
    x = (clip.double() - 114.75) / 57.375
    kernel = blobs["conv1_w"]
    x = F.conv3d(x, kernel, stride=(1 if sparse else 2, 2, 2), padding=(kernel.shape[2] // 2, 3, 3))
    x = F.relu(_normalise(blobs, "res_conv1", x))
    x = F.max_pool3d(x, (1 if sparse else 2, 3, 3), (1 if sparse else 2, 2, 2), padding)
    for stage in (2, 3, 4, 5):
        index = 0
        while f"res{stage}_{index}_branch2a_w" in blobs:
            x = _residual(blobs, f"res{stage}_{index}", x, 2 if index == 0 and stage > 2 else 1)
            name = f"nonlocal_conv{stage}_{index}"
            if f"{name}_theta_w" in blobs:
                x = _grouped_nonlocal(blobs, name, x, 4) if affine and stage == 3 else _nonlocal(blobs, name, x)
            index += 1
        if stage == 2 and clip_kind != "nopool":
            x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
    x = F.avg_pool3d(x, (x.shape[2], window or x.shape[3], window or x.shape[4]), stride=1)
    weight = blobs["pred_w"].reshape(len(blobs["pred_w"]), -1, 1, 1, 1)
    return F.conv3d(x, weight, blobs["pred_b"]).flatten(2)


@pytest.fixture(scope="session")
def authors() -> Callable:
    """The functions of this file as attributes: ``blob_shapes``, ``random_blobs``, ``training_state``, ``logits``."""

    class Authors:
        """A namespace."""

    Authors.blob_shapes, Authors.random_blobs = staticmethod(blob_shapes), staticmethod(random_blobs)
    Authors.training_state, Authors.logits = staticmethod(training_state), staticmethod(caffe2_logits)
    return Authors
