"""How processes end: with the one that started them, and the signals that ask them to."""

import multiprocessing
import os
import signal
import threading

#: signals within this time are one: a keypress can arrive several times, from the terminal and from a launcher
ONE_KEYPRESS_SEC = 1.0


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a run to stop: Ctrl-C, a scheduler's, and that of a terminal that closes.

    Under ``nohup`` the last is ignored, and it does not exist on Windows.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    return signals if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else [*signals, hangup]
