"""Start the ranks of a run: none to start for one process or under torchrun, else one process per GPU."""

import contextlib
import datetime
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from nlvideo.engine.script import INTERRUPTED, exit_code_of, one_line, traceback_to_show
from nlvideo.errors import RankFailed
from nlvideo.utils.system.env import uses_cuda
from nlvideo.utils.system.processes import (
    ONE_KEYPRESS_SEC,
    end_with_parent,
    keep_freed_memory,
    stop_signals,
    usable_cpus,
)

logger = logging.getLogger(__name__)

TIMEOUT_VARIABLE = "NLVIDEO_DIST_TIMEOUT_MINUTES"
# What the other ranks get to end by themselves after one has failed.
_GRACE_SEC = 5.0


def launch(
    main: Callable[..., Any],
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout_minutes: float | None = None,
    device: str = "auto",
) -> None:
    """Call ``main(*args)`` on every rank and return when all are done.

    Args:
        main: defined at the top level of a module, so that it pickles.
        num_gpus: ranks on this machine. Without GPUs, or with ``device="cpu"``, they are processes on the CPU.
        num_machines: each runs this with its own ``machine_rank``.
        machine_rank: from 0.
        dist_url: ``tcp://HOST:PORT`` where rank 0 can be reached; ``"auto"`` finds a free port of one machine.
        args: of ``main``; they must pickle.
        timeout_minutes: of a rank that waits for another; None: NLVIDEO_DIST_TIMEOUT_MINUTES of the environment, or 30.
        device: ``MODEL.DEVICE``.

    Raises:
        ValueError: an argument that does not fit this machine.
        RankFailed: the first error of a spawned rank.
    """
    group: dict[str, Any] = {"timeout": _timeout(timeout_minutes)}
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) == 1:
            main(*args)
            return
        _check_device("torchrun's --nproc-per-node", int(os.environ.get("LOCAL_WORLD_SIZE", 1)), device)
        _with_process_group(_Work(main, args, device, group), int(os.environ.get("LOCAL_RANK", 0)))
        return
    for name, value in (("--num-gpus", num_gpus), ("--num-machines", num_machines)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, allowed: 1 or more")
    if not 0 <= machine_rank < num_machines:
        raise ValueError(f"--machine-rank: got {machine_rank}, allowed: 0 to {num_machines - 1} (--num-machines - 1)")
    if num_machines > 1 and dist_url == "auto":
        raise ValueError("--dist-url: got 'auto', allowed with several machines: tcp://HOST:PORT of machine 0")
    _check_device("--num-gpus", num_gpus, device)
    if num_gpus * num_machines == 1:
        main(*args)
        return
    if dist_url == "auto":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            dist_url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    group |= {"init_method": dist_url, "world_size": num_gpus * num_machines}
    _spawn(_Work(main, args, device, group), machine_rank * num_gpus, num_gpus)


def _check_device(name: str, num_ranks: int, device: str) -> None:
    if num_ranks > 1 and ":" in device:
        raise ValueError(f"MODEL.DEVICE: got {device!r}, allowed with several ranks: 'auto', 'cpu', 'cuda'")
    if uses_cuda(device) and num_ranks > torch.cuda.device_count():
        raise ValueError(
            f"{name}: got {num_ranks}, allowed: 1 to {torch.cuda.device_count()}, the visible GPUs"
            " (MODEL.DEVICE cpu runs that many processes on the CPU)"
        )


def _timeout(minutes: float | None) -> datetime.timedelta:
    given = os.environ.get(TIMEOUT_VARIABLE, 30.0) if minutes is None else minutes
    with contextlib.suppress(ValueError):
        if (value := float(given)) > 0:
            return datetime.timedelta(minutes=value)
    name = TIMEOUT_VARIABLE if minutes is None else "timeout_minutes"
    raise ValueError(f"{name}: got {given!r}, allowed: minutes above 0")


class _Work(NamedTuple):
    """What a rank does, on which device, and the arguments of its process group."""

    main: Callable[..., Any]
    args: tuple
    device: str
    group: dict[str, Any]


def _with_process_group(work: _Work, local_rank: int) -> None:
    cuda = uses_cuda(work.device)
    if cuda:
        torch.cuda.set_device(local_rank)
    # The CPU side carries objects and the small agreements between ranks, which would make NCCL wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", **work.group)
    work.main(*work.args)
    # Only after success: after an error, waiting for other ranks would hang.
    dist.barrier()
    dist.destroy_process_group()


class _Outcome(NamedTuple):
    """How a rank ended; the earliest failure is the cause of the others."""

    time: float
    exit_code: int = 0
    line: str = ""
    trace: str = ""


def _rank_main(arguments: tuple, start_method: str, report: Connection) -> None:
    """Run one spawned rank with the arguments of ``_with_process_group``, and tell the parent how it ended."""
    # Else this process would spawn its loaders' workers: each would import torch again, and none would hear signals.
    multiprocessing.set_start_method(start_method, force=True)
    keep_freed_memory()
    end_with_parent()
    try:
        _with_process_group(*arguments)
        report.send(_Outcome(time.time()))
    except BaseException as error:
        # Short enough for the pipe to take it whole, whether the parent reads or not.
        trace = traceback_to_show(error)[-16000:]
        report.send(_Outcome(time.time(), exit_code_of(error), one_line(error)[:4000], trace))
        sys.stdout.flush()
        # sys.exit would wait for threads of a broken process group.
        os._exit(exit_code_of(error))


def _spawn(work: _Work, first_rank: int, num_ranks: int) -> None:
    if not uses_cuda(work.device):
        # Else every rank would use all cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // num_ranks)))
    context = multiprocessing.get_context("spawn")
    start_method = multiprocessing.get_start_method()
    ranks: dict[int, tuple[BaseProcess, Connection]] = {}
    for local in range(num_ranks):
        receiver, sender = context.Pipe(duplex=False)
        own = work._replace(group={**work.group, "rank": first_rank + local})
        process: BaseProcess = context.Process(target=_rank_main, args=((own, local), start_method, sender))
        process.start()
        ranks[first_rank + local] = process, receiver
        sender.close()
    processes = [process for process, _ in ranks.values()]
    asked: list[float] = []

    # The ranks decide what a signal means. This process waits for them, but not for ever after a second one.
    def forward(number: int, frame: Any) -> None:
        """Send the signal to every rank."""
        asked.append(time.monotonic())
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    # Only the main thread may have handlers.
    handled = stop_signals() if threading.current_thread() is threading.main_thread() else []
    previous = {number: signal.signal(number, forward) for number in handled}
    try:
        _join(ranks, asked)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _join(ranks: dict[int, tuple[BaseProcess, Connection]], asked: list[float]) -> None:
    running = dict(ranks)
    failures: list[tuple[_Outcome, int]] = []
    deadline = float("inf")
    while running and time.monotonic() < deadline:
        wait([process.sentinel for process, _ in running.values()], timeout=0.5)
        for rank, (process, receiver) in list(running.items()):
            if process.exitcode is None:
                continue
            del running[rank]
            outcome = _outcome_of(process.exitcode, receiver)
            if outcome.exit_code:
                failures.append((outcome, rank))
            # Ranks that stop on a signal all end by themselves; one of them may still be saving.
            if outcome.exit_code != 0 and (outcome.exit_code != INTERRUPTED or not outcome.time):
                deadline = min(deadline, time.monotonic() + _GRACE_SEC)
        if asked and asked[-1] > asked[0] + ONE_KEYPRESS_SEC:
            deadline = min(deadline, asked[-1] + _GRACE_SEC)
    if running and not failures:
        failures = [(_Outcome(0.0, INTERRUPTED, "killed: it did not end after two signals"), min(running))]
    if failures:
        cause, rank = min(failures)
        raise RankFailed(f"rank {rank}: {cause.line}", cause.exit_code, cause.trace)


def _outcome_of(exit_code: int, receiver: Connection) -> _Outcome:
    """What a rank reported. Its exit code counts only without a report: some backends abort when their process ends."""
    try:
        return receiver.recv()
    except EOFError:
        # It was killed. Time 0 makes it the cause: the other ranks may report a broken connection first.
        how = f"ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        interrupted = exit_code in (-signal.SIGINT, INTERRUPTED)
        return _Outcome(0.0, INTERRUPTED if interrupted else int(exit_code != 0), how)
