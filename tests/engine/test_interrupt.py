"""Signals end a run between iterations."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from nlvideo.engine import interrupt
from nlvideo.engine.interrupt import StopOnSignal, resume_command
from nlvideo.engine.train_loop import TrainerBase
from nlvideo.errors import TrainingInterrupted


class Trainer(TrainerBase):
    """Sends itself a signal in its third step, in the middle of it."""

    def __init__(self, number: int, times: int = 1):
        super().__init__()
        self.number, self.times, self.finished = number, times, 0

    def run_step(self) -> None:
        if self.iter == 2:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
        self.finished += 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_iteration_is_finished_and_handlers_go_back(number: int) -> None:
    before = signal.getsignal(number)
    trainer = Trainer(number)
    trainer.register_hooks([StopOnSignal()])
    with pytest.raises(TrainingInterrupted, match=f"^{number.name}: stopped after 3 of 10 iterations"):
        trainer.train(0, 10)
    assert trainer.finished == 3
    assert signal.getsignal(number) == before


def test_one_keypress_that_arrives_twice_is_one() -> None:
    trainer = Trainer(signal.SIGINT, times=2)
    trainer.register_hooks([StopOnSignal()])
    with pytest.raises(TrainingInterrupted):
        trainer.train(0, 10)


def test_handlers_go_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = Trainer(signal.SIGINT)
    trainer.run_step = lambda: 1 / 0
    trainer.register_hooks([StopOnSignal()])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 10)
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_the_main_thread_nothing_is_installed() -> None:
    trainer = Trainer(signal.SIGINT, times=0)
    trainer.register_hooks([StopOnSignal()])
    thread = threading.Thread(target=trainer.train, args=(0, 4))
    thread.start()
    thread.join()
    assert trainer.finished == 4


SCRIPT = """
import ctypes, os, signal, sys, time
from nlvideo.engine import interrupt
from nlvideo.engine.train_loop import TrainerBase

interrupt.ONE_KEYPRESS_SEC = 0.01

class Trainer(TrainerBase):
    def run_step(self):
        print("step", flush=True)
        if sys.argv[1] == "python":
            time.sleep(60)
        lock = ctypes.create_string_buffer(64)
        for _ in range(2):  # the second time it waits in C code, without end
            ctypes.CDLL(None).pthread_mutex_lock(lock)

trainer = Trainer()
trainer.register_hooks([interrupt.StopOnSignal()])
trainer.train(0, 10)
"""


@pytest.mark.parametrize("where", ["python", "c"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_second_signal_ends_the_process_wherever_it_waits(where: str, number: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    )
    assert process.stdout.readline() == b"step\n"
    process.send_signal(number)
    while b"Stopping after this iteration" not in process.stderr.readline():
        pass
    assert process.poll() is None
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    assert b"Stopped at once, without saving." in process.stderr.read()


def test_a_terminal_that_is_gone_does_not_keep_the_run_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda *rest, write=os.write: write(*rest) if rest[0] != 2 else os.close(-1))
    trainer = Trainer(signal.SIGHUP)
    trainer.register_hooks([StopOnSignal()])
    with pytest.raises(TrainingInterrupted, match="^SIGHUP: stopped after 3 of 10 iterations"):
        trainer.train(0, 10)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = Trainer(signal.SIGHUP)
        trainer.register_hooks([StopOnSignal()])
        trainer.train(0, 4)
        assert trainer.finished == 4 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["t.py", "--config-file", "a b.yaml"], ["t.py", "--resume", "--config-file", "a b.yaml"]),
        (["t.py", "--resume", "SEED", "1"], ["t.py", "--resume", "SEED", "1"]),
        (["t.py", "A.B", "['x']"], ["t.py", "--resume", "A.B", "['x']"]),
    ],
)
def test_resume_command(argv: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(sys, "argv", argv)
    assert shlex.split(resume_command()) == [sys.executable, *expected]


def test_resume_command_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["t.py"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert interrupt.resume_command() == "torchrun --nproc-per-node 4 t.py --resume"
