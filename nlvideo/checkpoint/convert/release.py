"""Released networks by name: the addresses of the authors' files, and what their names say of the network.

Names and address are from the README of facebookresearch/video-nonlocal-net. It publishes no checksums, so none are
checked.
"""

import os
from typing import Any

from nlvideo.checkpoint.convert.common import Converted

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

# Stem -> frames and stride of the usual clips of networks with it.
_USUAL_CLIPS = {
    "authors_32x2": (32, 2), "authors_8x8": (8, 8), "slowfast_8x8": (8, 8), "slow": (8, 8), "mmaction2_32x2": (32, 2)
}  # fmt: skip

_CLIP_KEYS = ("MODEL.BACKBONE.STEM", "INPUT.NUM_FRAMES", "INPUT.FRAME_STRIDE")


def release_url(name: str) -> str | None:
    """Return the address of a released network; None if ``name`` is not in `RELEASES`."""
    return f"{BASE_URL}{name}.pkl" if name in RELEASES else None


def release_overrides(path: str) -> dict[str, Any]:
    """Return the config keys that the name of a released file decides; an empty dict for other files."""
    name = os.path.splitext(os.path.basename(path))[0]
    if name in _PYSLOWFAST:
        return dict(zip(_CLIP_KEYS, _PYSLOWFAST[name], strict=True))
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
        if key in overrides and overrides[key] not in allowed:
            raise ValueError(f"{key}: got {overrides[key]!r}, the file can mean {' or '.join(map(repr, allowed))}")
    converted.undecided = {key: allowed for key, allowed in converted.undecided.items() if key not in overrides}
    converted.overrides = {**converted.overrides, **overrides}
    clip = _USUAL_CLIPS.get(converted.overrides.get("MODEL.BACKBONE.STEM", ""))
    if clip and "INPUT.NUM_FRAMES" not in converted.overrides:
        converted.overrides |= dict(zip(_CLIP_KEYS[1:], clip, strict=True))
        converted.notes.append(f"the clip is taken to be {clip[0]} frames with stride {clip[1]}, usual with this stem")
