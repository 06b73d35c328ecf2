"""Histories: lazy tensors, windows, limits."""

import pytest
import torch

from nlvideo.utils.events import HISTORY_LENGTH, History


def filled(values):
    history = History()
    for iteration, value in enumerate(values):
        history.put(value, iteration)
    return history


def test_numbers_and_tensors_keep_their_order():
    history = filled([1.0, torch.tensor(2.0), 3, torch.tensor([4.0]), torch.tensor(5)])
    assert history.values() == [(1.0, 0), (2.0, 1), (3.0, 2), (4.0, 3), (5.0, 4)]
    assert all(isinstance(value, float) for value, _ in history.values())
    assert history.latest() == 5.0


def test_windows():
    history = filled([100.0, 1.0, 2.0, 6.0])
    assert history.median(3) == 2.0
    assert history.median(2) == 4.0
    assert history.median(20) == 4.0
    assert history.median(1) == 6.0


@pytest.mark.parametrize("window", [0, -1, HISTORY_LENGTH + 1])
def test_a_window_that_was_not_kept(window):
    with pytest.raises(ValueError, match=f"window: got {window}, allowed: 1 to {HISTORY_LENGTH}"):
        filled([1.0]).median(window)


def test_a_tensor_that_changes_later_keeps_its_value():
    value = torch.tensor(1.0)
    history = filled([value])
    value.fill_(7.0)
    assert history.latest() == 1.0


def test_a_tensor_with_a_graph_is_detached():
    weight = torch.ones((), requires_grad=True)
    history = filled([weight * 3])
    assert not history._pending[0][0].requires_grad
    assert history.latest() == 3.0


def test_a_tensor_is_read_only_when_asked_for():
    # A meta tensor has no value: putting it must not fail, reading it must.
    history = filled([torch.ones((), device="meta")])
    with pytest.raises((RuntimeError, NotImplementedError)):
        history.latest()


def test_values_equal_those_of_item():
    values = [torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.1, dtype=torch.bfloat16)]
    assert [value for value, _ in filled(values).values()] == [value.item() for value in values]


def test_several_elements_are_refused():
    with pytest.raises(ValueError, match=r"one element, got shape \(2,\)"):
        History().put(torch.ones(2), 0)


def test_the_oldest_values_go():
    history = filled([torch.tensor(float(i)) if i % 2 else float(i) for i in range(HISTORY_LENGTH + 5)])
    assert len(history.values()) == HISTORY_LENGTH
    assert history.values()[0] == (5.0, 5)


def test_pending_tensors_are_bounded():
    history = filled([torch.tensor(float(i)) for i in range(HISTORY_LENGTH + 5)])
    assert len(history._pending) < HISTORY_LENGTH
    assert history.values()[0] == (5.0, 5)


def test_latest_as_a_tensor_reads_nothing(monkeypatch):
    numbers, tensors = filled([1.0, 0.1]), filled([1.0, torch.tensor([2.5])])
    monkeypatch.setattr(History, "_flush", lambda self: pytest.fail("read"))
    for history, value in ((numbers, 0.1), (tensors, 2.5)):
        found = history.latest_tensor("cpu")
        assert found.shape == () and found.item() == value
