"""EventStorage and its writers."""

import json
import logging

import pytest
import torch

from nlvideo.errors import LookupFailed
from nlvideo.utils.events import (
    ConsoleWriter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorBoardWriter,
    get_event_storage,
    has_event_storage,
)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_storages_nest_and_leave_nothing_behind():
    assert not has_event_storage()
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer
    assert not has_event_storage()


def test_an_exception_closes_the_storage():
    with pytest.raises(KeyError), EventStorage():
        raise KeyError
    assert not has_event_storage()


def test_without_a_storage():
    with pytest.raises(RuntimeError, match="no EventStorage"):
        get_event_storage()


def test_scalars_carry_the_iteration():
    storage = EventStorage(start_iter=5)
    storage.put_scalar("loss", torch.tensor(2.0))
    storage.put_scalar("lr", 0.1, smoothing_hint=False)
    storage.step()
    storage.put_scalar("loss", 1.0)
    assert (storage.iter, storage.start_iter) == (6, 5)
    assert storage.latest() == {"loss": (1.0, 6), "lr": (0.1, 5)}
    assert storage.history("loss").values() == [(2.0, 5), (1.0, 6)]


def test_an_unknown_scalar_names_a_near_one():
    storage = EventStorage()
    storage.put_scalar("loss_cls", 1.0)
    with pytest.raises(LookupFailed, match="no scalar 'loss_cl' was recorded. did you mean 'loss_cls'"):
        storage.history("loss_cl")


def test_only_hinted_scalars_are_smoothed():
    storage = EventStorage()
    for value in (1.0, 5.0, 9.0):
        storage.put_scalar("loss", value)
        storage.put_scalar("lr", value, smoothing_hint=False)
        storage.step()
    assert storage.smoothed(20) == {"loss": (5.0, 2), "lr": (9.0, 2)}
    assert storage.smoothed(1) == {"loss": (9.0, 2), "lr": (9.0, 2)}


def put_run(storage, iterations):
    for iteration in iterations:
        storage.iter = iteration
        storage.put_scalar("loss", torch.tensor(1.0 / (iteration + 3)))
        storage.put_scalar("lr", 0.1 * iteration, smoothing_hint=False)


def test_smoothed_values_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tmp_path):
    whole, first = EventStorage(), EventStorage()
    put_run(whole, range(37))
    put_run(first, range(23))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = EventStorage(start_iter=23)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    put_run(second, range(23, 37))
    for window in (1, 20, 1000):
        assert second.smoothed(window) == whole.smoothed(window)
    assert second.state_dict() == whole.state_dict()
    assert second.start_iter == 23


def test_loading_a_state_replaces_what_was_there():
    storage = EventStorage()
    storage.put_scalar("old", 1.0)
    storage.load_state_dict({})
    assert storage.latest() == {}


def test_the_base_writer_writes_nothing_and_closes():
    EventWriter().close()
    with pytest.raises(NotImplementedError):
        EventWriter().write()


def test_json_lines_hold_each_value_once(tmp_path):
    writer = JSONWriter(str(tmp_path / "new" / "metrics.json"), window=2)
    with EventStorage() as storage:
        for value in (1.0, 3.0, 7.0):
            storage.put_scalar("loss", value)
            storage.iter += 1
        storage.iter = 2
        storage.put_scalar("lr", 0.5, smoothing_hint=False)
        storage.put_scalar("norm", float("inf"))  # no JSON
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("lr", 0.25, smoothing_hint=False)
        writer.write()
    writer.close()
    assert read_lines(tmp_path / "new" / "metrics.json") == [
        {"iteration": 2, "loss": 5.0, "lr": 0.5},
        {"iteration": 3, "lr": 0.25},
    ]


def test_json_values_of_several_iterations_get_lines_of_their_own(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"))
    with EventStorage() as storage:
        storage.put_scalar("val/top1", 50.0, smoothing_hint=False)
        storage.step()
        storage.put_scalar("loss", 1.0)
        writer.write()
    assert read_lines(tmp_path / "metrics.json") == [
        {"iteration": 0, "val/top1": 50.0},
        {"iteration": 1, "loss": 1.0},
    ]


def test_a_resumed_json_file_grows_without_the_values_of_the_first_run(tmp_path):
    path = str(tmp_path / "metrics.json")
    with EventStorage() as first:
        first.put_scalar("loss", 1.0)
        writer = JSONWriter(path)
        writer.write()
        writer.close()
    with EventStorage(start_iter=1) as second:
        second.load_state_dict(first.state_dict())
        writer = JSONWriter(path)
        writer.write()
        second.put_scalar("loss", 3.0)
        writer.write()
        writer.close()
    assert read_lines(tmp_path / "metrics.json") == [{"iteration": 0, "loss": 1.0}, {"iteration": 1, "loss": 2.0}]


def test_tensorboard_gets_the_same_values(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(str(tmp_path), window=2)
    with EventStorage() as storage:
        for value in (1.0, 3.0):
            storage.put_scalar("loss", value)
            writer.write()
            storage.step()
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 1.0), (1, 2.0)]


def test_the_console_line(caplog):
    with EventStorage(start_iter=19, max_iter=100) as storage, caplog.at_level(logging.INFO, "nlvideo"):
        storage.put_scalar("top1", 25.0)
        storage.put_scalar("loss_cls", 0.123456)
        storage.put_scalar("time", 2.0)
        storage.put_scalar("data_time", 0.5)
        storage.put_scalar("lr", 0.01, smoothing_hint=False)
        storage.put_scalar("classification/top1", 99.0, smoothing_hint=False)
        ConsoleWriter().write()
    line = caplog.messages[-1]
    assert line.startswith(
        "eta: 0:02:40  iter: 19  loss_cls: 0.1235  top1: 25  time: 2.0000  data_time: 0.5000  lr: 0.01"
    )
    assert "99" not in line


def test_the_console_line_before_anything_was_timed(caplog):
    with EventStorage(), caplog.at_level(logging.INFO, "nlvideo"):
        ConsoleWriter().write()
    assert caplog.messages[-1].startswith("iter: 0")


def test_latest_values_as_tensors():
    with EventStorage() as storage:
        storage.put_scalar("a", 1)
        storage.put_scalar("b", torch.tensor(0.5))
    found = storage.latest_tensors("cpu")
    assert {name: value.item() for name, value in found.items()} == {"a": 1.0, "b": 0.5}
