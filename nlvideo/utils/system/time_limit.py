"""``TimeLimit``: gives up work in C code that may never return, in any process and on any thread."""

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from nlvideo.errors import TimeLimitExceeded

Result = TypeVar("Result")


_Tasks = queue.SimpleQueue[Callable[[], bool]]

#: subjects whose work was given up in this process, and the longest limit of each, seconds
given_up: dict[str, float] = {}
# Where threads wait for work. A forked process has none of the threads of its parent.
_idle: list[_Tasks] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def _do_tasks(tasks: _Tasks) -> None:
    """Do one task after the other, until one returns False. Nothing of a task stays once it is done."""
    while tasks.get()():
        pass


def _waiting_thread() -> _Tasks:
    try:
        return _idle.pop()
    except IndexError:
        tasks: _Tasks = queue.SimpleQueue()
        threading.Thread(target=_do_tasks, args=(tasks,), daemon=True, name="nlvideo-time-limit").start()
        return tasks


class TimeLimit:
    """The longest time that some work may take without progress.

    A signal handler runs only when C code returns to Python. So the work runs on another thread, which is left alone
    when its time is up: it stops at its next ``check``, or never, and does not keep the process from ending. A thread
    whose work returned in time is kept for the next: starting one takes as long as decoding a small video.

    Args:
        seconds: the limit; 0: none, and no thread.
        subject: what the work is about, such as the path of a file. This process refuses work on a subject that was
            given up, unless it gets more time: each try would cost the whole limit, and another thread. "": not
            remembered.

    Attributes:
        abandoned: some work was left alone. No one else may use its objects from then on.

    Raises:
        ValueError: the limit is negative.
    """

    def __init__(self, seconds: float, subject: str = ""):
        if seconds < 0:
            raise ValueError(f"time limit: got {seconds} s, allowed: 0 (none) or more")
        self.seconds, self.subject = seconds, subject
        self.abandoned = False
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()

    def give_up(self) -> None:
        """Remember that the subject used up its time. ``run`` does this itself when the limit ends the work."""
        if self.subject:
            given_up[self.subject] = max(self.seconds, given_up.get(self.subject, 0.0))

    def progress(self) -> None:
        """Start the time again."""
        self._deadline = time.monotonic() + self.seconds

    def check(self) -> None:
        """Stop the work here if no one waits for it any more; the work calls this between its steps.

        Raises:
            TimeLimitExceeded: its time is up, or it was left alone.
        """
        if self.abandoned or (self.seconds and time.monotonic() >= self._deadline):
            raise TimeLimitExceeded

    def run(self, work: Callable[[], Result], cleanup: Callable[[], None]) -> Result:
        """Return what ``work`` returns, or raise what it raises.

        Args:
            work: calls ``progress`` and ``check`` as it goes.
            cleanup: closes what the work uses. It is called on the work's thread, and only if that was left alone.

        Raises:
            TimeLimitExceeded: no progress for ``seconds``, now or in an earlier try.
        """
        if not self.seconds:
            return work()
        if self.seconds <= given_up.get(self.subject, 0.0):
            raise TimeLimitExceeded
        self.progress()
        outcome: list[Result] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def _task() -> bool:
            try:
                outcome.append(work())
            except BaseException as error:
                errors.append(error)
            with self._lock:
                left_alone = self.abandoned
                done.set()
            if left_alone:
                cleanup()
            return not left_alone

        tasks = _waiting_thread()
        tasks.put(_task)
        try:
            while not done.wait(max(0.0, self._deadline - time.monotonic())):
                if time.monotonic() >= self._deadline:
                    self.give_up()
                    raise TimeLimitExceeded
        except BaseException:  # the limit, or Ctrl-C
            with self._lock:
                self.abandoned = not done.is_set()
            raise
        finally:
            if not self.abandoned:
                _idle.append(tasks)
        if errors:
            raise errors[0]
        return outcome[0]
