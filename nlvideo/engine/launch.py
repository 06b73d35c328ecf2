"""Start the ranks of a run by torch's elastic engine, or be one that a launcher has started."""

import contextlib
import datetime
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import LaunchConfig, elastic_launch

from nlvideo.engine.script import INTERRUPTED, exit_code_of, one_line, traceback_to_show
from nlvideo.errors import RankFailed
from nlvideo.utils import comm
from nlvideo.utils.system import processes
from nlvideo.utils.system.env import uses_cuda

# What ranks get to end by themselves after a second signal.
_GRACE_SEC = 5.0
# A rank that only lost its connection waits this long before it ends. So the rank that failed first is reported.
_LATER_SEC = 1.0


def launch(
    main: Callable[..., Any],
    num_gpus: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    timeout_minutes: float = 30.0,
    device: str = "auto",
    max_restarts: int = 0,
) -> None:
    """Call ``main(*args)`` on every rank and return when all are done.

    Where the environment has RANK and WORLD_SIZE, as under torchrun, this process is a rank and starts none.

    Args:
        main: defined at the top level of a module, so that it pickles.
        num_gpus: ranks on this machine. Without GPUs, or with ``device="cpu"``, they are processes on the CPU.
        num_machines: each runs this with its own ``machine_rank``.
        machine_rank: from 0. Machine 0 has rank 0.
        dist_url: ``tcp://HOST:PORT`` where machine 0 can be reached; ``"auto"`` finds a free port of one machine.
        args: of ``main``; they must pickle.
        timeout_minutes: how long a rank, or a machine, waits for another.
        device: ``MODEL.DEVICE``.
        max_restarts: how often all ranks start again after one has failed; `default_setup` makes the run go on.

    Raises:
        ValueError: an argument that does not fit this machine.
        RankFailed: the first error of a rank, after the last restart.
    """
    if timeout_minutes <= 0:
        raise ValueError(f"--dist-timeout: got {timeout_minutes}, allowed: minutes above 0")
    work = (main, args, device, datetime.timedelta(minutes=timeout_minutes))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        _check_device("LOCAL_WORLD_SIZE (--nproc-per-node)", int(os.environ.get("LOCAL_WORLD_SIZE", 1)), device)
        _be_rank(*work)
        return
    if num_gpus < 1 or max_restarts < 0:
        name, value, least = ("num-gpus", num_gpus, 1) if num_gpus < 1 else ("max-restarts", max_restarts, 0)
        raise ValueError(f"--{name}: got {value}, allowed: {least} or more")
    meeting = _meeting(num_machines, machine_rank, dist_url)
    _check_device("--num-gpus", num_gpus, device)
    if num_gpus * num_machines == 1 and not max_restarts:
        main(*args)
        return
    if not uses_cuda(device):
        # Else every rank would use all cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processes.usable_cpus() // num_gpus)))
    with tempfile.TemporaryDirectory(prefix="nlvideo_ranks_") as folder:
        config = LaunchConfig(
            **meeting,
            min_nodes=num_machines,
            max_nodes=num_machines,
            nproc_per_node=num_gpus,
            rdzv_configs={"timeout": int(60 * timeout_minutes) or 1, "rank": machine_rank},
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            max_restarts=max_restarts,
        )
        _run_engine(config, multiprocessing.get_start_method(), *work)


def _meeting(num_machines: int, machine_rank: int, dist_url: str) -> dict[str, Any]:
    """Where the machines of a run meet."""
    if num_machines < 1:
        raise ValueError(f"--num-machines: got {num_machines}, allowed: 1 or more")
    if not 0 <= machine_rank < num_machines:
        raise ValueError(f"--machine-rank: got {machine_rank}, allowed: 0 to {num_machines - 1} (--num-machines - 1)")
    if num_machines == 1:
        here = "127.0.0.1"
        return {"rdzv_backend": "c10d", "rdzv_endpoint": f"{here}:0", "local_addr": here, "run_id": uuid.uuid4().hex}
    host, _, port = dist_url.removeprefix("tcp://").rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(f"--dist-url: got {dist_url!r}, allowed with several machines: tcp://HOST:PORT of machine 0")
    return {"rdzv_backend": "static", "rdzv_endpoint": f"{host}:{port}", "run_id": "none"}


def _check_device(name: str, num_ranks: int, device: str) -> None:
    if num_ranks > 1 and ":" in device:
        raise ValueError(f"MODEL.DEVICE: got {device!r}, allowed with several ranks: 'auto', 'cpu', 'cuda'")
    if uses_cuda(device) and not torch.cuda.device_count():
        raise ValueError(f"MODEL.DEVICE: got {device!r}, but no GPU is visible")
    if uses_cuda(device) and num_ranks > torch.cuda.device_count():
        raise ValueError(
            f"{name}: got {num_ranks}, allowed: 1 to {torch.cuda.device_count()}, the visible GPUs"
            " (MODEL.DEVICE cpu runs that many processes on the CPU)"
        )


def _be_rank(main: Callable[..., Any], args: tuple, device: str, timeout: datetime.timedelta) -> None:
    """Be the rank that the environment says. An error is also written for the engine, in the form that it reads."""
    processes.end_with_parent()
    cuda, alone = uses_cuda(device), os.environ["WORLD_SIZE"] == "1"
    try:
        if cuda and not alone:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        if not alone:
            # The CPU side carries objects and small agreements between ranks, which would make NCCL wait for the GPU.
            comm.start("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout)
        main(*args)
        comm.finish()
    except BaseException as error:
        if exit_code_of(error) == INTERRUPTED and not alone:
            # All ranks stop.
            with contextlib.suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group()
        if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
            facts = {"py_callstack": traceback_to_show(error), "timestamp": str(int(time.time()))}
            message = {"message": one_line(error), "errorCode": exit_code_of(error), "extraInfo": facts}
            with open(path, "w", encoding="utf8") as file:
                json.dump({"message": message}, file)
        raise


def _rank_main(start_method: str, *work: Any) -> str:
    """Be a rank: return an empty string, or what stopped it. Any other error ends this process."""
    # A signal outside the training loop ends the run as Ctrl-C does. Without a handler it would be a failure, and the
    # ranks would start again.
    for number in processes.stop_signals():
        signal.signal(number, signal.default_int_handler)
    # Else this process would spawn its loaders' workers: each would import torch again, and none would hear signals.
    multiprocessing.set_start_method(start_method, force=True)
    processes.keep_freed_memory()
    try:
        _be_rank(*work)
    except BaseException as error:
        if exit_code_of(error) == INTERRUPTED:
            # For the engine that is a success, after which it starts nothing again.
            return one_line(error)
        time.sleep(_LATER_SEC if isinstance(error, RuntimeError) else 0)
        print(end="", flush=True)
        # sys.exit would wait for threads of a broken process group.
        os._exit(exit_code_of(error))
    return ""


def _run_engine(config: LaunchConfig, *work: Any) -> None:
    if not config.max_restarts:
        # Its log says in many lines what the one line of RankFailed says.
        for name in list(logging.root.manager.loggerDict):
            if name.startswith("torch.distributed.elastic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
    others = multiprocessing.active_children()  # of the user's script
    ended: list[Any] = []
    asked: list[float] = []

    def ranks() -> list[multiprocessing.process.BaseProcess]:
        """Return the processes that the engine has started."""
        return [process for process in multiprocessing.active_children() if process not in others]

    def engine() -> None:
        """Keep what the engine returns or raises."""
        try:
            ended.append(elastic_launch(config, _rank_main)(*work))
        except BaseException as error:
            ended.append(error)

    # The ranks decide what a signal means. This process waits for them, but not for ever after a second one.
    def forward(number: int, frame: Any) -> None:
        """Send the signal to every rank."""
        asked.append(time.monotonic())
        for process in ranks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    # Only the main thread may have handlers.
    handled = processes.stop_signals() if threading.current_thread() is threading.main_thread() else []
    previous = {number: signal.signal(number, forward) for number in handled}
    # In a thread the engine has no handlers of its own, which would kill ranks that still save.
    thread = threading.Thread(target=engine, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            twice = asked and asked[-1] > asked[0] + processes.ONE_KEYPRESS_SEC
            if twice and time.monotonic() > asked[-1] + _GRACE_SEC:
                raise RankFailed("ranks were killed: they did not end after two signals", INTERRUPTED)
    finally:
        for process in ranks():
            process.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
    _judge(ended[0], config)


def _judge(ended: Any, config: LaunchConfig) -> None:
    """Raise what ended the run, if something did."""
    if isinstance(ended, ChildFailedError):
        rank, failure = ended.get_first_failure()
        said: Any = failure.message
        if isinstance(said, dict):
            raise RankFailed(f"rank {rank}: {said['message']}", said["errorCode"], said["extraInfo"]["py_callstack"])
        code = failure.exitcode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RankFailed(f"rank {rank}: {how}", INTERRUPTED if code in (-signal.SIGINT, INTERRUPTED) else 1)
    if isinstance(ended, BaseException):
        if config.rdzv_backend == "static" and isinstance(ended, (RuntimeError, OSError)):
            raise RankFailed(
                f"the machines did not meet at --dist-url tcp://{config.rdzv_endpoint}: {one_line(ended)}", 1
            )
        raise ended
    for rank, line in sorted(ended.items()):
        if line:
            raise RankFailed(f"rank {rank}: {line}", INTERRUPTED)
