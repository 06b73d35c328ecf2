"""The authors' released networks by name: where they are, and what their files do not say.

Names, results and the base address are those of the README of facebookresearch/video-nonlocal-net. No checksums are
published there, so none are checked.
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

# Frames x stride of a clip -> the network definition that it goes with (`resnet_video_org` halves time in the stem).
_STEMS = {"32x2": "authors_32x2", "128x1": "authors_32x2", "8x8": "authors_8x8", "32x4": "authors_8x8"}
# Clips with 16 frames in res3, in which attention stays within groups of 4.
_LONG = ("32x4", "128x1")


def release_url(name: str) -> str | None:
    """Return the address of a released network; None where `name` is none."""
    return f"{BASE_URL}{name}.pkl" if name in RELEASES else None


def release_overrides(path: str) -> dict[str, Any]:
    """Return the config keys that the name of a released file decides; none for other files."""
    name = os.path.splitext(os.path.basename(path))[0]
    if name not in RELEASES:
        return {}
    clip = name.split("_")[2]
    frames, stride = map(int, clip.split("x"))
    overrides = {"MODEL.BACKBONE.STEM": _STEMS[clip], "INPUT.NUM_FRAMES": frames, "INPUT.FRAME_STRIDE": stride}
    if "nonlocal" in name and clip in _LONG:
        overrides["MODEL.NONLOCAL.TEMPORAL_GROUPS"] = 4
    return overrides


def settle(converted: Converted, overrides: dict[str, Any]) -> None:
    """Decide, in place, what a file left open.

    Raises:
        ValueError: a value that the file cannot mean.
    """
    for key, allowed in converted.undecided.items():
        if key in overrides and overrides[key] not in allowed:
            raise ValueError(f"{key}: got {overrides[key]!r}, the file can mean {' or '.join(map(repr, allowed))}")
    converted.undecided = {key: allowed for key, allowed in converted.undecided.items() if key not in overrides}
    converted.overrides = {**converted.overrides, **overrides}
