"""What names and shapes say of a network is what our networks are."""

import re

import pytest
import torch

from nlvideo.checkpoint.convert.common import BOTTLENECK_DEPTHS, USUAL_PLACES, architecture_of, nonlocal_places
from nlvideo.config import get_cfg, load_cfg
from nlvideo.modeling.backbone.layout import BASIC_DEPTHS, NUM_BLOCKS, STAGES, TEMPORAL_KERNELS
from nlvideo.modeling.nonlocal_block.build import nonlocal_placement


def settings_of(backbone, block=()):
    """Keys of a config, from those below MODEL.BACKBONE and MODEL.NONLOCAL."""
    named = {f"MODEL.BACKBONE.{key}": value for key, value in backbone.items()}
    return named | {f"MODEL.NONLOCAL.{key}": value for key, value in dict(block).items()}


@pytest.fixture
def weights_of(peers):
    """``weights_of(settings)``: the state dict of that network of ours, without memory, with seven classes."""

    def build(settings):
        cfg = get_cfg()
        cfg.merge_from_list([word for item in {**settings, "MODEL.HEAD.NUM_CLASSES": 7}.items() for word in item])
        return peers.on_meta(cfg)

    return build


@pytest.mark.parametrize("depth", USUAL_PLACES)
def test_usual_places_are_those_of_our_defaults(depth):
    cfg = load_cfg(None, ["MODEL.NONLOCAL.ENABLED", True])
    places = nonlocal_placement(cfg, dict(zip(STAGES, NUM_BLOCKS[depth])))
    assert USUAL_PLACES[depth] == [f"{stage}.{index}" for stage, indices in places.items() for index in indices]


@pytest.mark.parametrize("temporal", TEMPORAL_KERNELS)
@pytest.mark.parametrize(("depth", "width"), [(10, 0.25), (18, 1.0), (50, 1.0), (101, 0.125), (152, 0.25)])
def test_every_style_depth_and_width_is_told(weights_of, temporal, depth, width):
    settings = settings_of({"DEPTH": depth, "WIDTH": width, "TEMPORAL": temporal})
    weights = weights_of({**settings, "MODEL.BACKBONE.STEM": "slow"})
    if depth in BASIC_DEPTHS and temporal == "i3d_3x3x3":
        # The first 3x3 of a basic block holds the time axis in both styles: one network.
        settings["MODEL.BACKBONE.TEMPORAL"] = "i3d_3x1x1"
    assert architecture_of(weights) == {**settings, "MODEL.NONLOCAL.ENABLED": False, "MODEL.HEAD.NUM_CLASSES": 7}


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("norm", ["same", "none"])
def test_blocks_are_found_with_what_their_names_show(weights_of, pairwise, norm):
    places = ["res2.2", "res4.0", "res4.5", "res5.1"]
    block = {"ENABLED": True, "BLOCKS": places, "NORM": norm, "PAIRWISE": pairwise}
    weights = weights_of(settings_of({"WIDTH": 0.125}, block))
    assert nonlocal_places(weights) == places
    if pairwise in ("embedded_gaussian", "dot_product"):
        del block["PAIRWISE"]
    found = {key: value for key, value in architecture_of(weights).items() if key.startswith("MODEL.NONLOCAL")}
    assert found == settings_of({}, block)


def test_more_than_ten_blocks_of_a_stage_keep_their_order(weights_of):
    weights = weights_of(settings_of({"WIDTH": 0.125, "DEPTH": 101}, {"ENABLED": True}))
    assert nonlocal_places(dict(reversed(weights.items()))) == USUAL_PLACES[101]


def test_weights_without_a_head_say_nothing_of_classes(weights_of):
    weights = {name: tensor for name, tensor in weights_of({}).items() if not name.startswith("head.")}
    assert "MODEL.HEAD.NUM_CLASSES" not in architecture_of(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem.conv.weight": None}, "the first convolution is missing"),
        ({"res5.3.conv1.weight": (64, 256, 1, 1, 1)}, "a ResNet of [3, 4, 6, 4] bottlenecks, allowed: MODEL.BACKBONE"),
        ({"res3.0.conv2.weight": None}, "there is no kernel backbone.res3.0.conv2.weight"),
        ({"res3.0.conv2.weight": (16,)}, "there is no kernel backbone.res3.0.conv2.weight"),
        ({"res3.0.conv2.weight": (16, 4, 1, 3, 3)}, "grouped convolutions (ResNeXt) in res3: ours are ungrouped"),
        ({"res4.0.conv3.weight": (64, 32, 1, 1, 1)}, "res4 has 32 inner and 64 outer channels, allowed: 32 and 128"),
        ({"stem.conv.weight": (16, 3, 1, 7, 7)}, "res2 has 8 inner and 32 outer channels, allowed: 16 and 64"),
        ({"res3.1.conv1.weight": (16, 64, 3, 1, 1)}, "kernels in res3.1.conv1 after a stem of 1 frames are none of"),
        ({"stem.conv.weight": (8, 3, 5, 7, 7)}, "temporal kernels in no block after a stem of 5 frames are none of"),
        ({"res3.1.conv1.weight": (16, 64, 1, 1)}, "backbone.res3.1.conv1.weight (16, 64, 1, 1) has no time axis"),
        ({"res3.nl1.g.weight": (64, 64, 1, 1, 1)}, "backbone.res3.nl1: 64 inner channels of 64, allowed: half"),
    ],
)
def test_other_networks_are_refused(weights_of, change, message):
    weights = weights_of({"MODEL.BACKBONE.WIDTH": 0.125})
    for name, shape in change.items():
        weights.pop(f"backbone.{name}", None)
        if shape is not None:
            weights[f"backbone.{name}"] = torch.zeros(()).expand(shape)
    with pytest.raises(ValueError, match=re.escape(message)):
        architecture_of(weights)


def test_a_source_may_have_bottlenecks_only(weights_of):
    with pytest.raises(ValueError, match=r"a ResNet of \[2, 2, 2, 2\] basic blocks, allowed: .*DEPTH \[50, 101, 152\]"):
        architecture_of(weights_of({"MODEL.BACKBONE.DEPTH": 18}), BOTTLENECK_DEPTHS)
