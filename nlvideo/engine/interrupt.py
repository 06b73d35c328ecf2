"""Stop a run between two iterations when somebody presses Ctrl-C or a scheduler sends SIGTERM."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from nlvideo.engine.hooks import total_over_ranks
from nlvideo.engine.train_loop import HookBase
from nlvideo.utils.invocations import command_line

# One keypress can arrive several times, from the terminal and from a launcher that passes it on.
_ONE_KEYPRESS_SEC = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(HookBase):
    """Turns the first SIGINT or SIGTERM into a stop after the current iteration; the next one ends the process at once.

    Must come before the hook that saves checkpoints, which saves one when training stops. Any rank may get the
    signal: all ranks stop at the same iteration.
    """

    def __init__(self) -> None:
        self._received: str | None = None
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the handlers; outside the main thread Python allows none, and nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def after_train(self) -> None:
        """Put the previous handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        """Ask every rank whether to stop."""
        if total_over_ranks(self._received is not None):
            self.trainer.stop_reason = self._received or "a signal to another rank"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received, self._received_at = signal.Signals(number).name, time.monotonic()
            # No logging in a signal handler: it may have interrupted one that holds the lock.
            os.write(2, b"\nStopping after this iteration. Once more: stop at once, without saving.\n")
        elif time.monotonic() - self._received_at > _ONE_KEYPRESS_SEC:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def resume_command() -> str:
    """Return the command line of this process with ``--resume``, ready to paste into a shell."""
    script, *arguments = sys.argv
    if "--resume" not in arguments:
        # In front: what follows the options is read as KEY VALUE pairs.
        arguments.insert(0, "--resume")
    return command_line([script, *arguments], sys.executable)
