"""``TimeLimit``: work in C code that may never come back is given up, in any process and on any thread."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class TimeLimitExceeded(Exception):
    """The work made no progress for the time it was given."""


class TimeLimit:
    """The longest that some work may take without progress.

    A signal handler runs only when C code returns to Python, so the work runs on a thread of its own, which is left
    behind when its time is up: it stops at its next ``check``, or never, and does not keep the process from ending.

    Args:
        seconds: the limit; 0 for none, and then there is no thread either.

    Attributes:
        abandoned: some work was left behind. What it used is its own from then on.

    Raises:
        ValueError: the limit is negative.
    """

    def __init__(self, seconds: float):
        if seconds < 0:
            raise ValueError(f"time limit: got {seconds} s, allowed: 0 (none) or more")
        self.seconds = seconds
        self.abandoned = False
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()

    def progress(self) -> None:
        """Begin the time anew."""
        self._deadline = time.monotonic() + self.seconds

    def check(self) -> None:
        """Called by the work between its steps: stop here if the time is up or nobody waits any more.

        Raises:
            TimeLimitExceeded: so it is.
        """
        if self.abandoned or (self.seconds and time.monotonic() >= self._deadline):
            raise TimeLimitExceeded

    def run(self, work: Callable[[], Result], cleanup: Callable[[], None]) -> Result:
        """Return what ``work`` returns, or raise what it raises.

        Args:
            work: calls ``progress`` and ``check`` as it goes.
            cleanup: closes what the work uses; called on the work's thread, and only if that was left behind.

        Raises:
            TimeLimitExceeded: no progress for ``seconds``.
        """
        self.progress()
        if not self.seconds:
            return work()
        outcome: list[Result] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def _target() -> None:
            try:
                outcome.append(work())
            except BaseException as error:
                errors.append(error)
            with self._lock:
                done.set()
            if self.abandoned:
                cleanup()

        threading.Thread(target=_target, daemon=True, name="nlvideo-time-limit").start()
        try:
            while not done.wait(max(0.0, self._deadline - time.monotonic())):
                if time.monotonic() >= self._deadline:
                    raise TimeLimitExceeded
        except BaseException:  # the limit, or Ctrl-C
            with self._lock:
                self.abandoned = not done.is_set()
            raise
        if errors:
            raise errors[0]
        return outcome[0]
