"""ShapeSpec: defaults, equality, and that nothing can change one that another part holds."""

import dataclasses

import pytest

from nlvideo.layers import ShapeSpec


def test_defaults_and_equality():
    """A bare number of channels is a map as large as the input."""
    assert ShapeSpec(64) == ShapeSpec(channels=64, stride=1, temporal_stride=1)
    assert ShapeSpec(64) != ShapeSpec(64, stride=4)


def test_is_frozen_and_hashable():
    """It is handed from part to part and must stay what it was."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        ShapeSpec(64).channels = 32
    assert len({ShapeSpec(64), ShapeSpec(64)}) == 1
