"""Stop a run between two iterations: at Ctrl-C, a scheduler's SIGTERM, or the SIGHUP of a terminal that closes."""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from nlvideo.engine.hooks import total_over_ranks
from nlvideo.engine.script import INTERRUPTED
from nlvideo.engine.train_loop import HookBase
from nlvideo.utils.system import processes
from nlvideo.utils.system.processes import command_line, stop_signals


class StopOnSignal(HookBase):
    """Turns the first signal that asks a run to stop into a stop after the current iteration; the next one ends the
    process at once, with exit code 130, wherever it waits.

    Must come before the hook that saves checkpoints, which saves one when training stops. Any rank may get the
    signal: all ranks stop at the same iteration.
    """

    def __init__(self) -> None:
        self._received: str | None = None
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the handlers; outside the main thread Python allows none, and nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
        # A handler runs when the main thread is back in Python, which one that waits in C code may never be. The numbers
        # of signals that come in through this pipe reach another thread all the same.
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def after_train(self) -> None:
        """Put the previous handlers back."""
        if self._previous:
            signal.set_wakeup_fd(self._previous_writer)
            os.write(self._writer, bytes(1))
            os.close(self._writer)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        """Ask every rank whether to stop."""
        if total_over_ranks(self._received is not None):
            self.trainer.stop_reason = self._received or "a signal to another rank"

    def _note(self, number: int, frame: FrameType | None = None) -> None:
        self._received = self._received or signal.Signals(number).name

    def _watch(self, reader: int) -> None:
        first = None
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while number := signals.read(1)[0]:
                if number not in self._previous:
                    continue
                self._note(number)
                if first is None:
                    first = time.monotonic()
                    _say("Stopping after this iteration. Once more: stop at once, without saving.")
                elif time.monotonic() > first + processes.ONE_KEYPRESS_SEC:
                    _say("Stopped at once, without saving.")
                    os._exit(INTERRUPTED)


def _say(text: str) -> None:
    # The terminal may be gone.
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())


def resume_command() -> str:
    """Return the command line of this process with ``--resume``, ready to paste into a shell."""
    script, *arguments = sys.argv
    if "--resume" not in arguments:
        # In front: what follows the options is read as KEY VALUE pairs.
        arguments.insert(0, "--resume")
    return command_line([script, *arguments], sys.executable)
