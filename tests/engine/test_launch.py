"""Ranks start, agree and end together."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nlvideo.engine.launch import _rank_main, launch, uses_cuda

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path
import torch
from nlvideo.errors import RankFailed, TooManyFailedVideos, TrainingInterrupted
from nlvideo.engine.failures import FailedVideos
from nlvideo.engine.hooks import total_over_ranks
from nlvideo.engine.interrupt import StopOnSignal
from nlvideo.engine.launch import launch
from nlvideo.engine.script import run_script
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.utils import comm

def say(text):
    os.write(1, (text + "\\n").encode())  # in one piece, even where the other rank writes

class Model(torch.nn.Linear):
    bad = False
    def forward(self, batch):
        time.sleep(0.01)
        return {"loss": super().forward(torch.ones(1, 1)).mean() + (float("nan") if self.bad else 0.0)}

class Batches:
    dataset_size = 10
    def __iter__(self):
        yield {}
        yield {"failed": [(f"{comm.get_rank()}.mp4", "broken")]}
        while True:
            yield {}

def trainer(*hooks):
    model = Model(1, 1)
    made = SimpleTrainer(model, Batches(), torch.optim.SGD(model.parameters(), 0.1))
    made.register_hooks(hooks)
    return made

def agree():
    rank = comm.get_rank()
    assert comm.get_world_size() == 2 and torch.distributed.get_backend() == "gloo"
    say(f"rank {rank}: total {total_over_ranks(rank + 1)}")
    run = trainer()
    run.model.bad = rank == 1
    try:
        run.train(0, 3)
    except FloatingPointError as error:
        say(f"rank {rank}: {error}")
    try:
        trainer(FailedVideos(None, 0.1)).train(0, 4)
    except TooManyFailedVideos as error:
        say(f"rank {rank}: {error}")

def fail(how):
    if comm.get_rank() == 1:
        if how == "error":
            raise ValueError("MODEL.X: got 1, allowed: 2")
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()

def hang():
    if comm.get_rank() == 1:
        time.sleep(600)
    comm.synchronize()

def before():
    comm.synchronize()
    say("ready")
    time.sleep(600)

def stuck():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # not heard, as by a process that waits in C code
    comm.synchronize()
    say("ready")
    time.sleep(600)

class Ready(HookBase):
    def after_step(self):
        if self.trainer.iter == 2:
            say("ready")

def train():
    run = trainer(StopOnSignal(), Ready())
    try:
        run.train(0, 100000)
    except TrainingInterrupted:
        say(f"stopped after {run.iter}")
        raise

def start(args):
    options = {"num_gpus": 2, "device": "cpu", "timeout_minutes": 3}
    if sys.argv[1] == "all":  # a process of the user
        own = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), daemon=True)
        own.start()
    if sys.argv[1] == "train":
        launch(train, **options)
    elif sys.argv[1] == "before":
        launch(before, **options, max_restarts=2)
    elif sys.argv[1] == "stuck":
        launch(stuck, **options)
    elif sys.argv[1] == "machine":
        machine = {"num_machines": 2, "machine_rank": int(sys.argv[2]), "dist_url": sys.argv[3], "num_gpus": 1}
        launch(train, **options | machine | {"timeout_minutes": 0.2})
    elif sys.argv[1] == "hang":
        launch(hang, **options | {"timeout_minutes": 0.05})
    elif sys.argv[1] == "error":
        launch(fail, args=("error",), **options)
    else:
        launch(agree, **options)
    if "RANK" in os.environ:
        names = [task.joinpath("comm").read_text() for task in Path("/proc/self/task").iterdir()]
        say(f"rank {os.environ['RANK']} has {sum('gloo' in name for name in names)} threads of its group")
    if sys.argv[1] == "all":
        own.join(0.5)
        assert own.is_alive()
        own.kill()
        for how in ("error", "kill"):
            try:
                launch(fail, args=(how,), **options)
            except RankFailed as error:
                say(json.dumps([how, str(error), error.exit_code, error.trace]))

class Parser:
    def parse_args(self, argv):
        return None

if __name__ == "__main__":
    run_script(start, Parser())
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script above in a file."""
    path = tmp_path_factory.mktemp("launch") / "work.py"
    path.write_text(SCRIPT)
    return str(path)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _run(*command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def _assert_agreement(lines: list[str]) -> None:
    for rank in (0, 1):
        total, loss, budget = [line for line in lines if line.startswith(f"rank {rank}: ")]
        assert total.endswith("total 3")
        # Only rank 1 had a bad loss, and each rank failed on a video of its own.
        assert "iteration 0: the loss is not finite (loss = nan, total_loss = nan)" in loss
        assert "2 of 10 training videos could not be read" in budget and "0.mp4 (broken), 1.mp4 (broken)" in budget


def test_ranks_agree_and_the_first_error_ends_them_all(script: str) -> None:
    *lines, error, kill = _run(script, "all")
    _assert_agreement(lines)
    assert json.loads(error) == ["error", "rank 1: MODEL.X: got 1, allowed: 2", 2, ""]
    # What the rank that is left says of its broken connection is not the cause.
    assert json.loads(kill) == ["kill", "rank 1: ended by SIGKILL", 1, ""]


def test_a_rank_that_hangs_ends_the_run_after_the_timeout(script: str) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, script, "hang"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1 and time.monotonic() - start < 100, done.stderr
    # Where it waited, and why it does so no longer.
    assert "in hang" in done.stderr and "Timed out waiting 3000ms" in done.stderr.splitlines()[-1], done.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_under_torchrun_nothing_is_spawned_and_no_thread_of_the_group_is_left(script: str) -> None:
    lines = _run(*TORCHRUN, script, "agree")
    _assert_agreement([line for line in lines if " has " not in line])
    # A thread that is left may abort Python's end.
    assert sorted(line for line in lines if " has " in line) == [
        f"rank {rank} has 0 threads of its group" for rank in (0, 1)
    ]


def test_under_torchrun_an_error_ends_a_rank_with_its_exit_code(script: str) -> None:
    done = subprocess.run(
        [sys.executable, *TORCHRUN, script, "error"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "work.py: MODEL.X: got 1, allowed: 2\n" in done.stderr and "exitcode  : 2 " in done.stderr, done.stderr


@pytest.mark.parametrize("whom", ["parent", "everyone"])
def test_a_signal_stops_all_ranks_after_the_same_iteration(script: str, whom: str) -> None:
    process = subprocess.Popen(
        [sys.executable, script, "train"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    if whom == "parent":
        process.send_signal(signal.SIGINT)
    else:  # what a terminal does
        os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert len(out.splitlines()) == 2 and len(set(out.splitlines())) == 1, out
    assert "stopped after" in err.splitlines()[-1] and "Traceback" not in err


def test_a_signal_outside_the_training_ends_ranks_that_may_restart(script: str) -> None:
    process = subprocess.Popen(
        [sys.executable, script, "before"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and err.splitlines()[-1].endswith(": interrupted"), err


def test_a_second_signal_ends_ranks_that_hear_none(script: str) -> None:
    process = subprocess.Popen(
        [sys.executable, script, "stuck"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and ": ranks were killed: they did not end after two signals\n" in err, err


def test_ranks_end_with_a_launcher_that_is_killed(script: str) -> None:
    process = subprocess.Popen(
        [sys.executable, script, "train"], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.kill()
    # The pipe ends with the last process that holds it.
    assert process.communicate(timeout=60)[0] == ""


def test_one_rank_runs_here() -> None:
    calls: list = []
    launch(lambda *args: calls.append((os.getpid(), args)), args=(1, 2))
    assert calls == [(os.getpid(), (1, 2))]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus: got 0, allowed: 1 or more"),
        ({"num_machines": 0}, "--num-machines: got 0"),
        ({"num_machines": 2, "machine_rank": 2, "dist_url": "tcp://a:1"}, "--machine-rank: got 2, allowed: 0 to 1"),
        ({"num_machines": 2}, "--dist-url: got 'auto', allowed with several machines: tcp://HOST:PORT"),
        ({"num_gpus": 2, "device": "cuda:1"}, "MODEL.DEVICE: got 'cuda:1', allowed with several ranks"),
        ({"num_gpus": 999, "device": "cuda"}, "--num-gpus: got 999, allowed: 1 to"),
        ({"timeout_minutes": 0}, "--dist-timeout: got 0, allowed: minutes above 0"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="^" + message):
        launch(lambda: pytest.fail("must not run"), **arguments)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "MODEL.DEVICE: got 'cuda:1', allowed with several ranks"),
        ("cuda", r"LOCAL_WORLD_SIZE \(--nproc-per-node\): got 999, allowed: 1 to"),
    ],
)
def test_wrong_devices_under_torchrun(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "999"), ("LOCAL_WORLD_SIZE", "999")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="^" + message):
        launch(lambda: pytest.fail("must not run"), device=device)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="^MODEL.DEVICE: got 'cuda', but no GPU is visible$"):
        launch(lambda: pytest.fail("must not run"), device="cuda")


def test_uses_cuda() -> None:
    assert uses_cuda("cuda") and uses_cuda("cuda:1") and not uses_cuda("cpu")
    assert uses_cuda("auto") == torch.cuda.is_available()


def test_a_spawned_rank_keeps_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    done, module = [], sys.modules[_rank_main.__module__]
    monkeypatch.setattr(module.processes, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(module, "_be_rank", lambda *work: done.append("ran"))
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    assert _rank_main(multiprocessing.get_start_method()) == ""
    assert done == ["kept", "ran"]


def test_a_machine_whose_partner_is_killed_ends_with_one_line(script: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    machines = [
        subprocess.Popen(
            [sys.executable, script, "machine", str(rank), url], env=ENVIRONMENT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [machine.stdout.readline() for machine in machines] == ["ready\n"] * 2
    machines[1].kill()
    out, err = machines[0].communicate(timeout=120)
    assert machines[0].returncode == 1, out + err
    assert re.search(r"^work.py: rank 0: .*onnection", err.splitlines()[-1]), err


def test_a_machine_alone_ends_after_the_timeout(script: str) -> None:
    done = subprocess.run(
        [sys.executable, script, "machine", "1", "tcp://127.0.0.1:9"], env=ENVIRONMENT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the machines did not meet at --dist-url tcp://127.0.0.1:9: " in done.stderr.splitlines()[-1], done.stderr


STARTS_THAT_SHARE_A_STORE = """
import datetime, os, sys, time
import torch.distributed as dist
from nlvideo.engine.launch import _be_rank

def main():
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == dist.get_world_size()

import torch
store = dist.TCPStore("127.0.0.1", 0, is_master=True, multi_tenant=True)
for start, (world_size, late) in enumerate([(2, 1), (2, 0), (3, 0), (2, 1)]):
    ranks = []
    for rank in range(world_size):
        ranks.append(os.fork())
        if not ranks[-1]:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port),
                TORCHELASTIC_USE_AGENT_STORE="True",
            )
            time.sleep(rank == late)
            _be_rank(main, (), "cpu", datetime.timedelta(seconds=30))
            os._exit(0)
    assert [os.waitpid(pid, 0)[1] for pid in ranks] == [0] * world_size, start
"""


def test_ranks_do_not_read_the_addresses_of_an_earlier_start() -> None:
    """A rank that is late is where the others find what the one before it had written, in the store of the agent."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS_THAT_SHARE_A_STORE], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
