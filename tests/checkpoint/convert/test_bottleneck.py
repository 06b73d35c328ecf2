"""What names and shapes say of a network is what our networks are."""

import pytest
import torch

from nlvideo.checkpoint.convert.bottleneck import NUM_BLOCKS, check_network, describe, network_shapes
from nlvideo.config import get_cfg
from nlvideo.modeling import META_ARCH
from nlvideo.modeling.backbone import layout


def on_meta(**settings):
    """A network of ours without memory: its config, and the tensors of its state dict."""
    cfg = get_cfg()
    cfg.merge_from_list([word for item in settings.items() for word in item])
    with torch.device("meta"):
        return META_ARCH.get("VideoClassifier")(cfg).state_dict()


def settings_of(weights, **block):
    return {**describe(weights, "file"), "MODEL.NONLOCAL.PAIRWISE": "embedded_gaussian", "MODEL.NONLOCAL.NORM": "same",
            **{f"MODEL.NONLOCAL.{key}": value for key, value in block.items()}}  # fmt: skip


def test_the_depths_are_those_of_the_bottleneck_networks():
    ours = {depth: blocks for depth, blocks in layout.NUM_BLOCKS.items() if depth not in layout.BASIC_DEPTHS}
    assert ours == NUM_BLOCKS


@pytest.mark.parametrize("temporal", layout.TEMPORAL_KERNELS)
@pytest.mark.parametrize(("depth", "width"), [(50, 1.0), (101, 0.125), (152, 0.25)])
def test_every_style_is_told_and_every_shape_known(temporal, depth, width):
    wanted = {"MODEL.BACKBONE.DEPTH": depth, "MODEL.BACKBONE.WIDTH": width, "MODEL.BACKBONE.TEMPORAL": temporal,
              "MODEL.HEAD.NUM_CLASSES": 7}  # fmt: skip
    weights = on_meta(**wanted, **{"MODEL.BACKBONE.STEM": "slow"})
    settings = settings_of(weights)
    assert wanted.items() <= settings.items() and not settings["MODEL.NONLOCAL.ENABLED"]
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if "num_batches" not in name}
    assert network_shapes(settings) == shapes


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("norm", ["same", "none"])
def test_blocks_are_found_and_every_shape_known(pairwise, norm):
    places = ["res2.2", "res4.0", "res4.5", "res5.1"]
    block = {"PAIRWISE": pairwise, "NORM": norm}
    node = {**block, "ENABLED": True, "BLOCKS": places}
    nonlocal_keys = {f"MODEL.NONLOCAL.{key}": value for key, value in node.items()}
    weights = on_meta(**{"MODEL.BACKBONE.WIDTH": 0.125}, **nonlocal_keys)
    settings = settings_of(weights, **block)
    assert settings["MODEL.NONLOCAL.BLOCKS"] == places
    check_network(weights, settings, "file")
    del weights["backbone.res4.nl5.g.bias"]
    with pytest.raises(ValueError, match=r"file: the file has nothing for backbone.res4.nl5.g.bias \(64,\)"):
        check_network(weights, settings, "file")


def test_basic_blocks_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 2, 2, 2\) residual blocks in the stages, allowed: \(3, 4, 6, 3\)"):
        describe(on_meta(**{"MODEL.BACKBONE.DEPTH": 18}), "file")
