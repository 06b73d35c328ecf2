"""The authors' released networks by name."""

import pytest
import torch

from nlvideo.checkpoint.convert import Converted
from nlvideo.checkpoint.convert.release import RELEASES, release_overrides, release_url, settle


def test_there_are_fifteen_and_each_has_an_address():
    assert len(set(RELEASES)) == 15
    url = "https://dl.fbaipublicfiles.com/video-nonlocal/i3d_nonlocal_32x2_IN_pretrain_400k.pkl"
    assert release_url("i3d_nonlocal_32x2_IN_pretrain_400k") == url
    assert all(release_url(name).endswith(f"/{name}.pkl") for name in RELEASES)
    assert release_url("i3d") is None


@pytest.mark.parametrize(
    ("path", "stem", "frames", "stride", "groups"),
    [
        ("c2d_baseline_32x2_IN_pretrain_400k", "authors_32x2", 32, 2, None),
        ("/x/i3d_nonlocal_8x8_IN_pretrain_400k.pkl", "authors_8x8", 8, 8, None),
        ("i3d_nonlocal_32x4_I3D_pretrain_400k.pkl", "authors_8x8", 32, 4, 4),
        ("i3d_baseline_128x1_I3D_pretrain_400k.pkl", "authors_32x2", 128, 1, None),
        ("https://host/i3d_nonlocal_128x1_I3D_pretrain_400k.pkl", "authors_32x2", 128, 1, 4),
        ("/x/C2D_NOPOOL_8x8_R50.pkl", "slow", 8, 8, None),
        ("I3D_NLN_8x8_R50.pkl", "slowfast_8x8", 8, 8, None),
        ("SLOWONLY_4x16_R50.pkl", "slow", 4, 16, None),
    ],
)
def test_what_a_name_says(path, stem, frames, stride, groups):
    overrides = release_overrides(path)
    assert overrides["MODEL.BACKBONE.STEM"] == stem
    assert (overrides["INPUT.NUM_FRAMES"], overrides["INPUT.FRAME_STRIDE"]) == (frames, stride)
    assert overrides.get("MODEL.NONLOCAL.TEMPORAL_GROUPS") == groups


def test_what_the_name_of_a_slowfast_says():
    overrides = release_overrides("https://host/SLOWFAST_16x8_R101_50_50.pyth")
    args = [["alpha", 4], ["lateral_kernel", 5], ["temporal_blocks", 6]]
    assert overrides == {"MODEL.BACKBONE.ARGS": args, "INPUT.NUM_FRAMES": 64, "INPUT.FRAME_STRIDE": 2}
    assert release_overrides("SLOWFAST_8x8_R50.pkl")["MODEL.BACKBONE.ARGS"] == [["alpha", 4], ["lateral_kernel", 7]]


@pytest.mark.parametrize("path", ["model.pkl", "i3d_8x8.pkl", "my_i3d_baseline_8x8_IN_pretrain_400k.pkl"])
def test_other_names_say_nothing(path):
    assert release_overrides(path) == {}


def test_what_is_settled_is_no_longer_open():
    converted = Converted({"a": torch.zeros(1)}, undecided={"MODEL.BACKBONE.STEM": ["a", "slow"], "K": [1]})
    settle(converted, {"MODEL.BACKBONE.STEM": "slow", "INPUT.NUM_FRAMES": 4})
    assert converted.undecided == {"K": [1]} and converted.notes == []
    assert converted.overrides == {"MODEL.BACKBONE.STEM": "slow", "INPUT.NUM_FRAMES": 4}
    with pytest.raises(ValueError, match="K: got 2, the file can mean 1"):
        settle(converted, {"K": 2})


@pytest.mark.parametrize(("stem", "clip"), [("authors_32x2", (32, 2)), ("authors_8x8", (8, 8)), ("slow", (8, 8))])
def test_a_stem_comes_with_its_usual_clip_where_nothing_says_another(stem, clip):
    converted = Converted({}, undecided={"MODEL.BACKBONE.STEM": [stem]})
    settle(converted, {})
    assert converted.overrides == {} and converted.notes == []
    settle(converted, {"MODEL.BACKBONE.STEM": stem})
    assert (converted.overrides["INPUT.NUM_FRAMES"], converted.overrides["INPUT.FRAME_STRIDE"]) == clip
    assert converted.notes == [
        f"the clip is taken to be {clip[0]} frames with stride {clip[1]}, usual with this network"
    ]
