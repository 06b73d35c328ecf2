"""Reduction of states to plain types."""

import collections
import io

import numpy as np
import pytest
import torch
from torch import nn

from nlvideo.checkpoint.plain import to_plain


def _same_type_tree(value):
    if isinstance(value, dict):
        return {key: _same_type_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [_same_type_tree(item) for item in value]
    return type(value)


def test_plain_values_stay_as_they_are():
    value = {"a": [1, 2.5, "x", None, True], "b": (1, (2,)), 3: {}}
    assert to_plain(value, "state") == value
    assert _same_type_tree(to_plain(value, "state")) == _same_type_tree(value)


@pytest.mark.parametrize(
    "value, expected",
    [
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (torch.Size([1, 2]), (1, 2)),
        ({np.int64(4): 1}, {4: 1}),
    ],
)
def test_relatives_of_plain_types_become_plain(value, expected):
    plain = to_plain(value, "state")
    assert plain == expected
    assert _same_type_tree(plain) == _same_type_tree(expected)


def test_parameters_become_detached_tensors():
    parameter = nn.Parameter(torch.ones(2))
    plain = to_plain({"w": [parameter]}, "model")["w"][0]
    assert type(plain) is torch.Tensor and not plain.requires_grad
    assert torch.equal(plain, parameter)


@pytest.mark.parametrize(
    "value, place",
    [
        ({"rng": np.random.default_rng(0)}, "sampler.rng: got numpy.random"),
        ({"list": [1, np.zeros(2)]}, r"sampler.list\[1\]: got numpy.ndarray"),
        ({"fn": print}, "sampler.fn: got builtins.builtin_function"),
        ({("a", object()): 1}, "a key of sampler"),
        ({"set": {1}}, "sampler.set: got builtins.set"),
    ],
)
def test_foreign_objects_are_refused_with_their_place(value, place):
    with pytest.raises(ValueError, match=f"checkpoint entry {place}") as error:
        to_plain(value, "sampler")
    assert "\n" not in str(error.value)


def test_everything_accepted_is_read_by_the_safe_loader():
    value = {"t": torch.arange(3), "n": np.float32(1), "s": torch.Size([2]), "m": {1: (None, True, "a", 2**40)}}
    file = io.BytesIO()
    torch.save(to_plain(value, "state"), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert loaded["m"] == value["m"] and loaded["s"] == (2,) and torch.equal(loaded["t"], value["t"])
