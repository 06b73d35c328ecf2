"""Arguments of non-local blocks: those of ``MODEL.NONLOCAL.ARGS``, and values that are not allowed."""

import pytest
from torch import nn

from nlvideo.config import load_cfg
from nlvideo.config.configurable import constructor_arguments
from nlvideo.modeling import NONLOCAL, NonLocalBlock, build_nonlocal_block
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules


def build(name, *args):
    """The block of a config with these ``MODEL.NONLOCAL.ARGS``."""
    cfg = load_cfg(None, ["MODEL.NONLOCAL.NAME", name, "MODEL.NONLOCAL.ARGS", [list(pair) for pair in args]])
    return build_nonlocal_block(cfg, 8)


@pytest.mark.parametrize(
    "name, args, message",
    [
        ("GlobalContext", [("rato", 2)], "GlobalContext has no argument 'rato' of its own. did you mean 'ratio'?"),
        ("GlobalContext", [("xyz", 2)], "no argument 'xyz' of its own. Allowed: 'ratio', 'fusion', 'pooling'"),
        ("NonLocalBlock", [("scale", True)], "no argument 'scale' of its own. Allowed: 'inner_channels', 'num_heads'"),
        ("NonLocalBlock", [("dim", 2)], "NonLocalBlock has no argument 'dim' of its own."),
        ("NonLocalBlock", [("num_heads", "two")], "num_heads: expected int, got str 'two'"),
        ("GlobalContext", [("fusion", "add")], "fusion: expected tuple, got str 'add'; write [add]"),
        ("BilinearAttentionTransform", [("groups", 3)], "groups: got 3, allowed: divisors of 4 inner channels"),
        ("BilinearAttentionTransform", [("frames", -1)], "frames: got -1, allowed: 0 or more"),
        ("RegionNonLocal", [("kernel", [2, 3, 3])], "kernel: got [2, 3, 3], allowed: three odd lengths"),
        ("GlobalContext", [("ratio", 0)], "ratio: got 0, allowed: 1 to 8, the channels"),
        (
            "NonLocalBlock",
            [("num_heads", 3)],
            "num_heads with pairwise='embedded_gaussian' and 4 inner channels: got 3",
        ),
    ],
)
def test_arguments_of_a_config_that_do_not_fit(name, args, message):
    """One line with the key, what was given and what is allowed."""
    with pytest.raises(ValueError) as error:
        build(name, *args)
    assert str(error.value).startswith("MODEL.NONLOCAL.ARGS: ") and message in str(error.value)
    assert "\n" not in str(error.value)


NUMBERS = [
    (name, argument)
    for name in sorted(NONLOCAL)
    for argument in ("inner_channels", "nodes", "descriptors", "num_bases", "ratio", "num_heads")
    if argument in constructor_arguments(NONLOCAL.get(name))
]


@pytest.mark.parametrize("count", [0, -4])
@pytest.mark.parametrize("name, argument", NUMBERS)
def test_no_block_has_less_than_one_channel_inside(name, argument, count):
    with pytest.raises(ValueError, match=rf"MODEL.NONLOCAL.ARGS: {argument}.*: got {count}, allowed: (1|divisors)"):
        build(name, (argument, count))


@pytest.mark.parametrize("key", ["MODEL.BACKBONE.ARGS", "MODEL.NONLOCAL.ARGS", "MODEL.HEAD.ARGS"])
@pytest.mark.parametrize("args", [["ratio", 2], [["ratio"]], [["ratio", 2], ["ratio", 4]], [[2, "ratio"]]])
def test_arguments_of_a_config_are_pairs(key, args):
    with pytest.raises(ValueError, match=rf"{key}: got .*, allowed: \[name, value\] pairs, each name once"):
        load_cfg(None, [key, args])


def test_arguments_of_a_config_reach_the_block():
    """Also one that a base class takes, and one of a factory without a from_config."""
    assert build("NonLocalBlock", ("num_heads", 2), ("inner_channels", 6)).num_heads == 2
    assert build("CrissCross", ("recurrence", 3)).recurrence == 3

    def factory(cfg, in_channels, stage, width=1):
        """Make a module of some width."""
        return nn.Conv3d(in_channels, width, 1)

    NONLOCAL.register(factory, name="Factory")
    try:
        assert build("Factory", ("width", 3)).out_channels == 3
        with pytest.raises(ValueError, match="no argument 'size' of its own. Allowed: 'width'"):
            build("Factory", ("size", 3))
    finally:
        del NONLOCAL._objects["Factory"]


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("GlobalContext", {"fusion": "add"}, "fusion: got 'add', allowed: ['add'], ['multiply'], ['add', 'multiply']"),
        ("GlobalContext", {"pooling": "max"}, "pooling: got 'max', allowed: 'attention', 'average'"),
        ("CompactGeneralizedNonLocal", {"groups": 3}, "groups: got 3, allowed: divisors of 16 channels"),
        ("CompactGeneralizedNonLocal", {"kernel": "cosine"}, "kernel: got 'cosine', allowed: 'dot_product', 'rbf'"),
        ("CompactGeneralizedNonLocal", {"order": 0}, "order: got 0, allowed: 1 or more"),
        ("CrissCross", {"recurrence": 0}, "recurrence: got 0, allowed: 1 or more"),
        ("DisentangledNonLocal", {"temperature": 0}, "temperature: got 0, allowed: more than 0"),
        ("DisentangledNonLocal", {"algorithm": "sorted"}, "algorithm: got 'sorted', allowed: 'auto', 'dense', 'fused'"),
        ("AsymmetricPyramid", {"bins": []}, "bins: got [], allowed: one number or more, each 1 or more"),
        ("EfficientAttention", {"num_heads": 3}, "num_heads: got 3, allowed: divisors of 8 inner channels"),
        ("EfficientAttention", {"normalisation": "l2"}, "normalisation: got 'l2', allowed: 'softmax', 'scaling'"),
        ("ExpectationMaximization", {"num_bases": 0}, "num_bases: got 0, allowed: 1 or more"),
        (
            "ExpectationMaximization",
            {"checkpoint": True},
            "checkpoint: got True, allowed for Expectation",
        ),
        ("DoubleAttention", {"norm": "LN"}, "norm: got 'LN', allowed: 'BN'"),
    ],
)
def test_constructor_errors(name, options, message):
    with pytest.raises(ValueError) as error:
        NONLOCAL.get(name)(16, **options)
    assert str(error.value).startswith(message)


def test_a_block_inside_a_block_is_not_listed():
    """Its costs are those of the outer one."""
    outer = NonLocalBlock(8)
    outer.inner = NonLocalBlock(8)
    network = nn.Sequential(nn.Conv3d(3, 8, 1), outer, NonLocalBlock(8))
    assert list(nonlocal_modules(network)) == ["1", "2"]
    assert list(nonlocal_modules(outer)) == [""]
