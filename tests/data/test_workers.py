"""Processes that read data: their deaths are explained, and signals of the run are left to the main process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from nlvideo.config import get_cfg
from nlvideo.data import build_test_loader, build_train_loader, workers
from nlvideo.data.loaders import TestDataset, TestLoader, TrainDataset, TrainLoader, collate_train
from nlvideo.data.samplers import TrainingSampler
from nlvideo.data.workers import WorkerWatch, begin_worker, explained, signals_blocked
from nlvideo.errors import WorkerDied

RECORDS = [{"file_name": f"/{i}.mp4", "label": 0, "video_id": str(i)} for i in range(6)]


class Killer:
    """A mapper that kills its process at one of the videos, as a system out of memory does."""

    def __init__(self, number=signal.SIGKILL, bad="/3.mp4"):
        self.number, self.bad = number, bad

    def __call__(self, record, rng):
        """A tiny sample."""
        if record["file_name"] == self.bad:
            os.kill(os.getpid(), self.number)
            time.sleep(60)
        return {"video": torch.zeros(3, 1, 2, 2), "label": 0, "video_id": record["video_id"]}


def loader_of(mapper, num_workers, **options):
    """A training loader of the records above."""
    watch = WorkerWatch(RECORDS, num_workers)
    dataset = TrainDataset(RECORDS, mapper, 0, watch)
    loader = DataLoader(
        dataset, 2, sampler=TrainingSampler(RECORDS), collate_fn=collate_train, num_workers=num_workers,
        worker_init_fn=partial(begin_worker, os.getpid()) if num_workers else None, **options,
    )  # fmt: skip
    return TrainLoader(loader, len(RECORDS), watch)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_error_names_what_the_worker_read(number):
    loader = loader_of(Killer(number), 2)
    with pytest.raises(WorkerDied) as caught:
        for _ in range(4):
            next(loader)
    message = str(caught.value)
    assert "\n" not in message and message.startswith("DataLoader worker (pid")
    assert "What it read last: /3.mp4. Either decoding crashed, or memory ran out" in message
    assert "DATALOADER.NUM_WORKERS" in message


def test_a_death_that_shows_up_elsewhere_is_explained_too():
    loader = loader_of(Killer(bad="none"), 1)
    next(loader)
    worker = loader.watch._begun[0, 0].item()
    with pytest.raises(WorkerDied, match="What it read last: /"), explained(loader):
        os.kill(worker, signal.SIGKILL)
        # In the middle of something else: torch's handler raises here.
        for _ in range(200):
            time.sleep(0.05)


def test_other_errors_pass():
    watch = WorkerWatch(RECORDS, 1)
    with pytest.raises(RuntimeError, match="^CUDA error$"), watch.explained():
        raise RuntimeError("CUDA error")
    with pytest.raises(RuntimeError, match="DataLoader worker is odd"), watch.explained():
        raise RuntimeError("DataLoader worker is odd")
    with explained([1, 2]):
        pass


def test_a_broken_connection_is_a_death_only_where_a_worker_is_dead():
    with pytest.raises(EOFError), WorkerWatch(RECORDS, 1).explained():
        raise EOFError
    watch = WorkerWatch(RECORDS, 1)
    watch._begun[0] = torch.tensor([2**22 + 1, 4, 0])  # no process has this number
    with pytest.raises(WorkerDied, match="^DataLoader worker died. What it read last: /4.mp4. "), watch.explained():
        raise EOFError


def test_in_the_main_process_nothing_is_noted():
    watch = WorkerWatch(RECORDS, 0)
    watch.note(3)
    assert watch._last_of_dead_workers(wait_sec=0) == []
    loader = loader_of(Killer(bad="none"), 0)
    assert next(loader)["label"].tolist() == [0, 0]


class Sends:
    """What a mapper gives for each video."""

    def __init__(self, video):
        self.video = video

    def __call__(self, record, rng):
        """A sample."""
        if isinstance(self.video, Exception):
            raise self.video
        return {"video": torch.zeros(3, 1, 2, 2), "label": 0, "video_id": self.video}


class Unsendable:
    """Fails when a worker sends it, as tensors do where the shared memory is full."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        raise RuntimeError(self.text)


FULL = "unable to write to file </torch_12_345_0>: No space left on device (28)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FULL, r"/dev/shm is full .*--shm-size.*NUM_WORKERS"),
        ("odd\nerror", "^a data worker could not hand over .*: odd error"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_that_cannot_be_handed_over_is_an_error(text, message, training):
    loader = iter(loader_of(Sends(Unsendable(text)), 1))
    if not training:
        loader = DataLoader(
            TestDataset(RECORDS, Sends(Unsendable(text))), 1, collate_fn=list, num_workers=1,
            worker_init_fn=partial(begin_worker, os.getpid()),
        )  # fmt: skip
        loader = iter(TestLoader(loader, len(RECORDS), WorkerWatch(RECORDS, 1)))
    with pytest.raises((OSError, WorkerDied), match=message) as caught:
        next(loader)
    assert "\n" not in str(caught.value)


def test_what_finds_no_room_is_told_apart():
    watch = WorkerWatch(RECORDS, 1)
    bus = (
        "DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's workers are out of"
        " shared memory."
    )
    for error in (RuntimeError(FULL), RuntimeError(bus)):
        with pytest.raises(OSError, match=r"^/dev/shm is full \(\d+ MiB\): .*--shm-size"), watch.explained():
            raise error
    with pytest.raises(WorkerDied, match="^too many open files.*ulimit -n"), watch.explained():
        raise RuntimeError("Too many open files. Communication with the\nworkers is no longer possible.")
    for error in (OSError(28, "No space left on device"), OSError(28, "No space left on device", "metrics.json")):
        with pytest.raises(OSError, match="^.Errno 28"), watch.explained():
            raise error
    with pytest.raises(OSError, match="^/dev/shm is full"), workers.full_memory_explained():
        raise OSError(28, "No space left on device")
    for error in (
        OSError(28, "No space left on device", "a.csv"),
        RuntimeError("</torch_1>: Too many open files (24)"),
    ):
        with pytest.raises(type(error), match="a.csv|open files"), workers.full_memory_explained():
            raise error


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_comes_as_it_was(num_workers):
    error = UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed")
    for sent in (ValueError("no"), error, FileNotFoundError(2, "No such file", "a.mp4")):
        with pytest.raises(type(sent)) as caught:
            next(loader_of(Sends(sent), num_workers))
        assert str(caught.value) == str(sent)


def test_workers_that_do_not_go_on_end_the_run(monkeypatch):
    monkeypatch.setattr(workers, "_STALLED_SEC", 1.5)
    loader = loader_of(Killer(signal.SIGCONT), 1, timeout=1)
    with pytest.raises(
        WorkerDied, match="^no data worker has begun a video for 0.025 minutes; they last read: /3.mp4$"
    ):
        for _ in range(4):
            next(loader)


# The first argument: which loader. The shared memory of this process has 8 MiB, a clip 12.
FULL_SCRIPT = """
import sys
import torch
from torch.utils.data import DataLoader
from nlvideo.config import load_cfg
from nlvideo.data import MAPPER, VideoMapper, build_test_loader, build_train_loader

@MAPPER.register()
class Large(VideoMapper):
    def __call__(self, record, rng):
        return {**super().__call__(record, rng), "video": torch.zeros(12, 2**20, dtype=torch.uint8)}

cfg = load_cfg(None, ["DATASETS.TRAIN", "['list:list.txt']", "DATASETS.TEST", "['list:list.txt']", "DATALOADER.MAPPER",
    "Large", "DATALOADER.NUM_WORKERS", "1", "SOLVER.CLIPS_PER_BATCH", "1", "INPUT.NUM_FRAMES", "4", "INPUT.CROP_SIZE",
    "32", "INPUT.SHORT_SIDE_RANGE", "[32, 32]", "MODEL.HEAD.NUM_CLASSES", "2"])
next(iter(build_train_loader(cfg) if sys.argv[1] == "train" else build_test_loader(cfg, "list:list.txt")))
"""


@pytest.mark.parametrize("which", ["train", "test"])
def test_a_full_shared_memory_is_one_line(which, tmp_path, make_video):
    mount = "mount -t tmpfs -o size=8m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small /dev/shm")
    make_video(tmp_path / "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    (tmp_path / "script.py").write_text(FULL_SCRIPT)
    command = ["unshare", "-m", "sh", "-c", f"{mount} && exec {sys.executable} script.py {which}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("OSError: /dev/shm is full (8 MiB): ") and "--shm-size" in line and "NUM_WORKERS" in line
    assert "QueueFeederThread" not in done.stderr


SCRIPT = """
import multiprocessing, os, signal, sys, time
import torch
from functools import partial
from nlvideo.data.workers import begin_worker, signals_blocked

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, index):
        time.sleep(0.2)
        return os.getpid()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    loader = torch.utils.data.DataLoader(Slow(), num_workers=2, worker_init_fn=partial(begin_worker, os.getpid()))
    with signals_blocked():
        batches = iter(loader)
    pids = {int(next(batches)) for _ in range(2)}
    print("ready", flush=True)
    pids |= {int(batch) for batch in batches}
    print(len(pids), "workers read everything", flush=True)
    del batches
    print("closed", flush=True)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_signals_to_the_whole_group_do_not_end_the_workers(tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), method], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "2 workers read everything\nclosed\n"), error
    assert "Traceback" not in error


def _wait(main_pid, ready):
    begin_worker(main_pid)
    ready.set()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system does not say who has sent a signal")
def test_the_main_process_can_still_end_a_worker_and_nobody_else_can():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_wait, args=(os.getpid(), ready), daemon=True)
    with signals_blocked():
        process.start()
    assert ready.wait(20)
    subprocess.run(["kill", "-TERM", str(process.pid)], check=True)
    process.join(timeout=0.3)
    assert process.is_alive()
    process.terminate()
    process.join(timeout=120)
    assert process.exitcode == 0


def test_signals_are_blocked_for_a_moment_only():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    with signals_blocked():
        inside = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert inside == before | {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before


@pytest.fixture
def cfg(tmp_path, make_video):
    """A config of two videos."""
    for name in "ab":
        make_video(tmp_path / f"{name}.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    cfg = get_cfg()
    names = [f"list:{tmp_path / 'list.txt'}"]
    cfg.merge_from_list(["DATASETS.TRAIN", names, "DATASETS.TEST", names, "MODEL.HEAD.NUM_CLASSES", 2,
                         "SOLVER.CLIPS_PER_BATCH", 2])  # fmt: skip
    return cfg


def test_clips_are_pinned_for_a_gpu_and_test_views_are_few(cfg, monkeypatch):
    test = build_test_loader(cfg, cfg.DATASETS.TEST[0]).loader
    assert (test.prefetch_factor, test.pin_memory, test.num_workers) == (1, False, 4)
    for device, available, pinned in (("cpu", True, False), ("cuda", True, True), ("auto", True, True),
                                      ("auto", False, False)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        cfg.MODEL.DEVICE = device
        train = build_train_loader(cfg).loader
        assert (train.prefetch_factor, train.pin_memory) == (2, pinned)
    cfg.DATALOADER.NUM_WORKERS = 0
    assert build_train_loader(cfg).loader.num_workers == 0


def test_mixing_needs_company(cfg):
    cfg.merge_from_list(["SOLVER.MIX.CUTMIX_ALPHA", 1.0, "SOLVER.ACCUMULATE", 2])
    message = "SOLVER.CLIPS_PER_BATCH: got 2 for 1 ranks x SOLVER.ACCUMULATE 2, allowed with SOLVER.MIX: at least two"
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
    cfg.SOLVER.MIX.PROB = 0.0
    build_train_loader(cfg)


def test_repeated_clips_must_divide_the_batch(cfg):
    cfg.merge_from_list(["INPUT.REPEATED_CLIPS", 2, "SOLVER.ACCUMULATE", 2, "SOLVER.CLIPS_PER_BATCH", 6])
    message = r"BATCH: got 6, allowed: a multiple of 4 \(1 ranks x SOLVER.ACCUMULATE 2 x INPUT.REPEATED_CLIPS 2\)"
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg)
