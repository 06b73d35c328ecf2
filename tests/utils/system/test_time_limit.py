"""Work that never comes back is given up, and cleans up if it ever does."""

import multiprocessing
import threading
import time
import weakref
from functools import partial

import pytest

from nlvideo.errors import TimeLimitExceeded
from nlvideo.utils.system.time_limit import TimeLimit


def test_results_and_errors_pass_through():
    for seconds in (0, 10):
        limit = TimeLimit(seconds)
        assert limit.run(lambda: 3, cleanup=pytest.fail) == 3
        with pytest.raises(KeyError, match="inner"):
            limit.run(lambda: {}["inner"], cleanup=pytest.fail)
        assert not limit.abandoned


def test_without_a_limit_there_is_no_thread():
    assert TimeLimit(0).run(threading.current_thread, pytest.fail) is threading.current_thread()
    assert TimeLimit(10).run(threading.current_thread, pytest.fail) is not threading.current_thread()


def test_threads_are_kept_for_the_next_work_and_are_of_one_process():
    first, second = (TimeLimit(10).run(threading.get_ident, pytest.fail) for _ in range(2))
    assert first == second
    with pytest.raises(KeyError):
        TimeLimit(10).run(lambda: {}["inner"], pytest.fail)
    assert TimeLimit(10).run(threading.get_ident, pytest.fail) == first
    # Work inside of work needs a thread of its own, and so does a forked process.
    assert TimeLimit(10).run(lambda: TimeLimit(10).run(lambda: "inner", pytest.fail), pytest.fail) == "inner"
    child = multiprocessing.get_context("fork").Process(target=TimeLimit(10).run, args=(threading.get_ident, None))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_a_thread_that_waits_keeps_nothing_of_its_work():
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    TimeLimit(10).run(partial(id, large), pytest.fail)
    del large
    for _ in range(100):
        if gone() is None:
            break
        time.sleep(0.02)
    assert gone() is None


def test_stuck_work_is_given_up_and_cleans_up_later():
    release, cleaned = threading.Event(), threading.Event()
    limit = TimeLimit(0.1)
    start = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        limit.run(release.wait, cleanup=cleaned.set)
    assert time.monotonic() - start < 5 and limit.abandoned and not cleaned.is_set()
    release.set()
    assert cleaned.wait(5)


def test_progress_begins_the_time_anew_and_check_ends_the_work():
    limit = TimeLimit(0.2)

    def steady():
        for _ in range(6):
            time.sleep(0.06)
            limit.check()
            limit.progress()
        return "done"

    def spinning():
        while True:
            limit.check()
            time.sleep(0.005)

    assert limit.run(steady, cleanup=pytest.fail) == "done"
    with pytest.raises(TimeLimitExceeded):
        limit.run(spinning, cleanup=lambda: None)


def test_interrupt_leaves_running_work_to_itself(monkeypatch):
    release, cleaned, limit = threading.Event(), threading.Event(), TimeLimit(60)

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        real = threading.Event
        patch.setattr(
            threading,
            "Event",
            lambda: Interrupted() if threading.current_thread() is threading.main_thread() else real(),
        )
        patch.setattr(
            threading.Thread,
            "start",
            lambda self, start=threading.Thread.start: (setattr(self, "_started", real()), start(self))[1],
        )
        with pytest.raises(KeyboardInterrupt):
            limit.run(release.wait, cleaned.set)
    assert limit.abandoned
    with pytest.raises(TimeLimitExceeded):
        limit.check()
    release.set()
    assert cleaned.wait(5)


def test_negative_limit():
    with pytest.raises(ValueError, match="got -1 s, allowed: 0"):
        TimeLimit(-1)


def test_what_was_given_up_is_refused_at_once_unless_it_gets_more_time():
    release = threading.Event()
    with pytest.raises(TimeLimitExceeded):
        TimeLimit(0.1, "a.mp4").run(release.wait, lambda: None)
    threads, start = threading.active_count(), time.monotonic()
    for seconds in (0.1, 0.05):
        with pytest.raises(TimeLimitExceeded):
            TimeLimit(seconds, "a.mp4").run(pytest.fail, pytest.fail)
    assert threading.active_count() == threads and time.monotonic() - start < 0.05
    for limit in (TimeLimit(10, "a.mp4"), TimeLimit(0, "a.mp4"), TimeLimit(0.1, "b.mp4"), TimeLimit(0.1)):
        assert limit.run(lambda: 3, pytest.fail) == 3
    release.set()
