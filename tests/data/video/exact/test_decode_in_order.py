"""When frames are shown, and how many come a second, from timestamps of every quality."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from nlvideo.data.video.exact.decode_in_order import DEFAULT_FPS, ShowTimes, average_fps, stated_rates


def stream(average_rate=Fraction(10), guessed_rate=None, time_base=Fraction(1, 100)):
    """What a stream says of its times."""
    return SimpleNamespace(average_rate=average_rate, guessed_rate=guessed_rate, time_base=time_base)


@pytest.mark.parametrize(
    "stamps, times",
    [
        ([100, 103, 150], [0, 3, 50]),
        ([None, None, None], [0, 10, 20]),
        ([None, 7, None, 6], [0, 10, 20, 30]),
        ([100, 120, 100, None], [0, 20, 30, 40]),
        ([0, 5, 5, 9], [0, 5, 5, 9]),
        ([7, 7, 7, 7, 7], [0, 0, 10, 20, 30]),
        ([-50, None, -35, -35], [0, 10, 15, 15]),
        ([0, 40, 30, 80], [0, 40, 50, 80]),
        ([0, 100, 200, 0, 100, 90], [0, 100, 200, 210, 310, 320]),
    ],
    ids=["true", "none", "some", "going back", "equal", "all equal", "negative", "in disorder", "starting again"],
)
def test_times_follow_the_stamps_and_never_go_back(stamps, times):
    assert ShowTimes(stream()).of_all(stamps).tolist() == times


def test_fractions_of_a_tick_add_up():
    times = ShowTimes(stream(Fraction(30), time_base=Fraction(1, 1000))).of_all([None] * 31)
    assert times[:4].tolist() == [0, 33, 67, 100] and times[30] == 1000


@pytest.mark.parametrize(
    "average, guessed, times, fps",
    [
        (Fraction(30), None, [0, 33, 67, 100], 30),  # rounded, as Matroska does
        (Fraction(500), Fraction(30000, 1001), [0, 33, 67, 100], 30000 / 1001),
        (Fraction(50), None, [0, 40, 80, 120], 25),
        (Fraction(30), None, [0, 500, 520], 2 / 0.52),
        (Fraction(30), None, [0], 30),
        (None, Fraction(12), [0, 0], 12),
        (None, None, [], 30),
    ],
)
def test_frames_per_second(average, guessed, times, fps):
    source = stream(average, guessed, Fraction(1, 1000))
    assert average_fps(np.array(times), source) == pytest.approx(fps)


def test_a_stream_that_states_no_rate():
    assert stated_rates(stream(None, None)) == [DEFAULT_FPS]
