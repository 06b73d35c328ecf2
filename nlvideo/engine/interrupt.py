"""Stop a run between two iterations or in a test: at Ctrl-C, a scheduler's SIGTERM, or a closed terminal's SIGHUP."""

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
from nlvideo.evaluation.inference import STOP_REASON
from nlvideo.utils.system.processes import ONE_KEYPRESS_SEC, command_line, stop_signals


class StopOnSignal(HookBase):
    """Stops training after the current iteration when a signal asks for it, and a test between two videos.

    The next signal ends the process at once, with exit code 130, wherever it waits. Any rank may get the signal: all
    ranks stop after the same iteration. Must come before the hook that saves checkpoints, which then saves one.
    """

    def __init__(self) -> None:
        self._received = ""
        self._previous: dict[int, Any] = {}

    def before_train(self) -> None:
        """Install the handlers; outside the main thread Python allows none, and nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._asked = STOP_REASON.set(lambda: self._received)
        self._previous = {number: signal.signal(number, self._note) for number in stop_signals()}
        # A handler runs when the main thread is back in Python. A main thread that waits in C code may never be. But
        # Python writes the number of each signal into this pipe at once, and another thread reads it.
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def after_train(self) -> None:
        """Put the previous handlers back."""
        if self._previous:
            STOP_REASON.reset(self._asked)
            signal.set_wakeup_fd(self._previous_writer)
            os.write(self._writer, bytes(1))
            os.close(self._writer)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        """Ask every rank whether to stop."""
        if total_over_ranks(bool(self._received)):
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
                    _say("Stopping after this iteration or video. Once more: stop at once, without saving.")
                elif time.monotonic() > first + ONE_KEYPRESS_SEC:
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
        # At the front, where it cannot be taken for a part of a KEY VALUE pair.
        arguments.insert(0, "--resume")
    return command_line([script, *arguments], sys.executable)
