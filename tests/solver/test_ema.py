"""The moving average of weights: values, swapping, resuming."""

import io

import pytest
import torch
from torch import nn

from nlvideo.solver import ModelEma


def _model():
    return nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))


def _set(model, value):
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(value)
        model[1].num_batches_tracked.fill_(int(value))


def _weight(state):
    return state["0.weight"].item()


def test_parameters_are_averaged_and_buffers_copied():
    model = _model()
    ema = ModelEma(model, decay=0.75)
    for value in (1.0, 5.0, 9.0):
        _set(model, value)
        ema.update()
    state = ema.state_dict()
    assert _weight(state) == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 9)
    assert state["1.running_mean"].item() == 9.0
    assert state["1.num_batches_tracked"].item() == 9
    assert state["1.num_batches_tracked"].dtype == torch.int64


def test_the_average_starts_at_the_first_update():
    """Weights that are loaded after construction must not be averaged with the random ones before."""
    model = _model()
    ema = ModelEma(model, decay=0.9)
    _set(model, 7.0)
    ema.update()
    assert _weight(ema.state_dict()) == 7.0


def test_before_any_update_it_is_the_model():
    model = _model()
    _set(model, 3.0)
    ema = ModelEma(model, decay=0.9)
    assert _weight(ema.state_dict()) == 3.0
    with ema.apply():
        assert _weight(model.state_dict()) == 3.0


@pytest.mark.parametrize("decay, expected", [(0.0, 5.0), (1.0, 1.0)])
def test_extreme_decays(decay, expected):
    model = _model()
    ema = ModelEma(model, decay)
    for value in (1.0, 5.0):
        _set(model, value)
        ema.update()
    assert _weight(ema.state_dict()) == expected


def _averaged():
    model = _model()
    ema = ModelEma(model, decay=0.5)
    for value in (1.0, 3.0):
        _set(model, value)
        ema.update()
    _set(model, 10.0)
    return model, ema


def test_apply_swaps_in_place_and_back():
    model, ema = _averaged()
    tensors = [tensor.data_ptr() for tensor in model.state_dict().values()]
    with ema.apply():
        assert _weight(model.state_dict()) == 2.0
        assert model[1].running_mean.item() == 3.0
        _set(model, 99.0)
    assert _weight(model.state_dict()) == 10.0
    assert model[1].running_mean.item() == 10.0
    assert _weight(ema.state_dict()) == 2.0
    assert [tensor.data_ptr() for tensor in model.state_dict().values()] == tensors


def test_apply_swaps_back_after_an_error():
    model, ema = _averaged()
    with pytest.raises(RuntimeError, match="out of memory"), ema.apply():
        raise RuntimeError("out of memory")
    assert _weight(model.state_dict()) == 10.0


def test_update_leaves_the_model_and_its_gradients_alone():
    model, ema = _averaged()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ema.update()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(not tensor.requires_grad for tensor in ema.state_dict().values())


def test_shared_parameters_move_once():
    layer = nn.Linear(1, 1, bias=False)
    model = nn.Sequential(layer, layer)
    ema = ModelEma(model, decay=0.5)
    for value in (0.0, 8.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        ema.update()
    assert [tensor.item() for tensor in ema.state_dict().values()] == [4.0, 4.0]


def test_resumed_average_equals_the_uninterrupted_one():
    model, ema = _averaged()
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    resumed_model = _model()
    resumed = ModelEma(resumed_model, decay=0.5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for value in (4.0, 6.0):
        for each_model, each in ((model, ema), (resumed_model, resumed)):
            _set(each_model, value)
            each.update()
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in ema.state_dict().items())


def test_loading_does_not_alias_the_given_tensors():
    _, ema = _averaged()
    state = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    ema.load_state_dict(state)
    state["0.weight"].fill_(77.0)
    assert _weight(ema.state_dict()) == 2.0


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="belongs to another model: .*0.bias"):
        ModelEma(_model(), 0.5).load_state_dict(nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1)).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match=f"^decay: got {decay}"):
        ModelEma(_model(), decay)
