"""Released networks by name: the addresses of the authors' files, and what names say of network, classes, licence.

Names and address are from the README of facebookresearch/video-nonlocal-net. It publishes no checksums, so none are
checked.
"""

import os
import re
from typing import Any

from nlvideo.checkpoint.convert.common import Converted, same_value

BASE_URL = "https://dl.fbaipublicfiles.com/video-nonlocal/"

RELEASES = (
    # "Paper settings"
    "c2d_baseline_32x2_IN_pretrain_400k",
    "c2d_nonlocal_32x2_IN_pretrain_400k",
    "i3d_baseline_32x2_IN_pretrain_400k",
    "i3d_nonlocal_32x2_IN_pretrain_400k",
    "i3d_baseline_128x1_I3D_pretrain_400k",
    "i3d_nonlocal_128x1_I3D_pretrain_400k",
    # "Faster settings"
    "c2d_baseline_8x8_IN_pretrain_400k",
    "c2d_nonlocal_8x8_IN_pretrain_400k",
    "i3d_baseline_8x8_IN_pretrain_400k",
    "i3d_nonlocal_8x8_IN_pretrain_400k",
    "i3d_baseline_32x4_I3D_pretrain_400k",
    "i3d_nonlocal_32x4_I3D_pretrain_400k",
    "i3d_baseline_8x8_IN_pretrain_300k",
    "i3d_baseline_8x8_IN_pretrain_600k_4gpu",
    "i3d_baseline_8x8_IN_pretrain_300k_4gpu",
)

# Frames x stride of a clip -> the stem of its network (the authors' `resnet_video_org` halves time in the stem).
_STEMS = {"32x2": "authors_32x2", "128x1": "authors_32x2", "8x8": "authors_8x8", "32x4": "authors_8x8"}
# Clips with 16 frames in res3, where attention stays within groups of 4 frames.
_LONG = ("32x4", "128x1")

# Pickles of PySlowFast's table for Kinetics -> stem, frames and stride.
_PYSLOWFAST = {
    "C2D_NOPOOL_8x8_R50": ("slow", 8, 8),
    "I3D_8x8_R50": ("slowfast_8x8", 8, 8),
    "I3D_NLN_8x8_R50": ("slowfast_8x8", 8, 8),
    "SLOWONLY_4x16_R50": ("slow", 4, 16),
    "SLOWONLY_8x8_R50": ("slow", 8, 8),
}

# Kinetics files of SlowFast, by PySlowFast and PyTorchVideo -> arguments of the backbone, frames of a clip of stride 2.
_SLOWFAST: dict[str, tuple[list[list], int]] = {
    "SLOWFAST_4x16_R50": ([["alpha", 8], ["lateral_kernel", 5]], 32),
    "SLOWFAST_8x8_R50": ([["alpha", 4], ["lateral_kernel", 7]], 32),
    "SLOWFAST_8x8_R101": ([["alpha", 4], ["lateral_kernel", 5]], 32),
    "SLOWFAST_16x8_R101_50_50": ([["alpha", 4], ["lateral_kernel", 5], ["temporal_blocks", 6]], 64),
}

# Files of PyTorchVideo's hub for Kinetics.
_PYTORCHVIDEO = ("C2D_8x8_R50", "I3D_8x8_R50", "SLOW_8x8_R50")
# Addresses and files of torchvision; its video networks are all of Kinetics-400.
_TORCHVISION = re.compile(r"torchvision://|(.*/)?(r3d|mc3|r2plus1d|s3d|mvit|swin3d)\w*-[0-9a-f]{8}\.pth$")
# How the configs of PySlowFast and of OpenMMLab name a dataset.
_KINETICS = re.compile(r"^ *DATASET: '?kinetics'? *$|\bann_file\w* *= *['\"][^'\"]*kinetics[-_]?400", re.MULTILINE)

# Stem, or backbone -> frames and stride of the usual clips of such networks.
_USUAL_CLIPS = {
    "authors_32x2": (32, 2), "authors_8x8": (8, 8), "slowfast_8x8": (8, 8), "slow": (8, 8), "mmaction2_32x2": (32, 2),
    "SlowFast": (32, 2),
}  # fmt: skip

_CLIP_KEYS = ("MODEL.BACKBONE.STEM", "INPUT.NUM_FRAMES", "INPUT.FRAME_STRIDE")


def release_url(name: str) -> str | None:
    """Return the address of a released network; None if ``name`` is not in `RELEASES`."""
    return f"{BASE_URL}{name}.pkl" if name in RELEASES else None


def _name_of(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def release_config(path: str) -> str | None:
    """Return the config, as a name of `model_zoo.list_configs`, of a name or file in `RELEASES`; None for others."""
    name = _name_of(path)
    if name not in RELEASES or os.path.splitext(path)[1] not in ("", ".pkl"):
        return None
    kind, blocks, clip, _, _, *schedule = name.split("_")
    parts = [kind, "r50", clip, *(["nl5"] if blocks == "nonlocal" else []), *(schedule if schedule != ["400k"] else [])]
    return f"kinetics/authors/{'_'.join(parts)}"


def dataset_of(path: str, config: str = "") -> str:
    """Return "kinetics400" where the name of a file, its address or ``config``, the text in it, says so, else ""."""
    # The folders of a path are the user's. Those of an address tell.
    said = path if "://" in path else os.path.basename(path)
    is_listed = _name_of(path) in (*RELEASES, *_PYSLOWFAST, *_SLOWFAST, *_PYTORCHVIDEO) or _TORCHVISION.match(path)
    return "kinetics400" if is_listed or "kinetics" in said.lower() or _KINETICS.search(config) else ""


def licence_of(path: str) -> str:
    """Return the licence of weights by their name or address, as docs/weights.md has it; "" where it is not known."""
    if path.startswith("torchvision://"):
        return "BSD 3-Clause (torchvision's; the data of the training may have terms of their own)"
    return "CC-BY-NC 4.0 (not for commercial use)" if _name_of(path) in RELEASES else ""


def release_overrides(path: str) -> dict[str, Any]:
    """Return the config keys that the name of a released file decides; an empty dict for other files."""
    name = _name_of(path)
    if name in _PYSLOWFAST:
        return dict(zip(_CLIP_KEYS, _PYSLOWFAST[name], strict=True))
    if name in _SLOWFAST:
        args, frames = _SLOWFAST[name]
        return {"MODEL.BACKBONE.ARGS": args, "INPUT.NUM_FRAMES": frames, "INPUT.FRAME_STRIDE": 2}
    if name not in RELEASES:
        return {}
    clip = name.split("_")[2]
    overrides = dict(zip(_CLIP_KEYS, (_STEMS[clip], *map(int, clip.split("x"))), strict=True))
    if "nonlocal" in name and clip in _LONG:
        overrides["MODEL.NONLOCAL.TEMPORAL_GROUPS"] = 4
    return overrides


def settle(converted: Converted, overrides: dict[str, Any]) -> None:
    """Decide, in place, what a file left open. If the stem is known then, the usual clip of the stem is added.

    Raises:
        ValueError: the file does not allow a value.
    """
    for key, allowed in converted.undecided.items():
        if key in overrides and not any(same_value(key, overrides[key], value) for value in allowed):
            raise ValueError(f"{key}: got {overrides[key]!r}, the file can mean {' or '.join(map(repr, allowed))}")
    converted.undecided = {key: allowed for key, allowed in converted.undecided.items() if key not in overrides}
    converted.overrides = {**converted.overrides, **overrides}
    stem = converted.overrides.get("MODEL.BACKBONE.STEM", converted.overrides.get("MODEL.BACKBONE.NAME", ""))
    clip = _USUAL_CLIPS.get(stem)
    if clip and "INPUT.NUM_FRAMES" not in converted.overrides:
        converted.overrides |= dict(zip(_CLIP_KEYS[1:], clip, strict=True))
        converted.notes.append(
            f"the clip is taken to be {clip[0]} frames with stride {clip[1]}, usual with this network"
        )
