"""Where non-local blocks go in a ResNet: the paper's and the authors' places, exact places, clear errors."""

import pytest

from nlvideo.config import get_cfg
from nlvideo.modeling.nonlocal_block import NONLOCAL, nonlocal_placement

R18 = {"res2": 2, "res3": 2, "res4": 2, "res5": 2}
R50 = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}
R101 = {"res2": 3, "res3": 4, "res4": 23, "res5": 3}
R152 = {"res2": 3, "res3": 8, "res4": 36, "res5": 3}


def place(network, **keys):
    """The places for keys of MODEL.NONLOCAL."""
    cfg = get_cfg()
    for key, value in {"ENABLED": True, **keys}.items():
        cfg.MODEL.NONLOCAL[key] = value
    return nonlocal_placement(cfg, network)


@pytest.mark.parametrize(
    "network, keys, expected",
    [
        (R50, {}, {"res3": [1, 3], "res4": [1, 3, 5]}),
        (R50, {"EVERY": 1}, {"res3": [0, 1, 2, 3], "res4": [0, 1, 2, 3, 4, 5]}),
        (R50, {"STAGES": ["res4", "res3"], "EVERY": 3}, {"res3": [2], "res4": [2, 5]}),
        (R50, {"STAGES": ["res2", "res5"]}, {"res2": [1], "res5": [1]}),
        (R50, {"STAGES": ["res4", "res4"], "EVERY": 6}, {"res4": [5]}),
        (R101, {}, {"res3": [1, 3], "res4": [6, 13, 20]}),
        (R101, {"EVERY": 1}, {"res3": [0, 1, 2, 3], "res4": [2, 5, 8, 11, 14, 17]}),
        (R101, {"STAGES": ["res4"], "EVERY": 6}, {"res4": [22]}),
        (R152, {}, {"res3": [3, 7], "res4": [11, 23, 35]}),
        (R18, {}, {"res3": [1], "res4": [1]}),
        (R50, {"EVERY": 5}, {"res4": [4]}),
    ],
)
def test_regular_places(network, keys, expected):
    """Five blocks by default (Table 2c), ten after every block; as many in deeper networks."""
    assert place(network, **keys) == expected
    assert list(place(network, **keys)) == [stage for stage in network if stage in expected]


def test_exact_places():
    """They replace STAGES and EVERY, in the order of the network."""
    assert place(R50, BLOCKS=["res4.4"]) == {"res4": [4]}
    assert place(R50, BLOCKS=["res4.4", "res2.0", "res4.0"]) == {"res2": [0], "res4": [0, 4]}
    assert place(R101, BLOCKS=["res4.22"], STAGES=["nowhere"]) == {"res4": [22]}


def test_disabled_is_empty_whatever_the_other_keys_say():
    """No block, no error."""
    assert place(R50, ENABLED=False, BLOCKS=["res4.4"]) == {}


@pytest.mark.parametrize(
    "keys, error, message",
    [
        ({"STAGES": ["res6"]}, KeyError, "STAGES: unknown stage 'res6'.*Allowed: res2, res3, res4, res5"),
        ({"BLOCKS": ["layer4.1"]}, KeyError, "BLOCKS: unknown stage 'layer4'"),
        ({"BLOCKS": ["res4.6"]}, ValueError, "got 'res4.6', allowed: res4.0 to res4.5"),
        ({"BLOCKS": ["res4.-1"]}, ValueError, "got 'res4.-1', allowed: res4.0 to res4.5"),
        ({"BLOCKS": ["res4"]}, ValueError, "got 'res4', allowed: res4.0 to res4.5"),
        ({"BLOCKS": ["res4.1", "res4.1"]}, ValueError, "'res4.1' is given twice"),
        ({"STAGES": []}, ValueError, "ENABLED is True but STAGES=.* give no block"),
        ({"EVERY": 7}, ValueError, "EVERY=7 .* give no block"),
    ],
)
def test_errors(keys, error, message):
    """A network without the blocks that were asked for is never built silently."""
    with pytest.raises(error, match=message):
        place(R50, **keys)


def test_registry_states_its_contract():
    """The doc of a slot is what an author of a block reads."""
    assert "stage" in NONLOCAL.__doc__ and "(N, C, T, H, W)" in NONLOCAL.__doc__
