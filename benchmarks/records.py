"""How long a list of many videos takes to become a loader, and what memory it takes, in this process and its workers.

``python benchmarks/records.py --records 10000000 --workers 0 1 2`` makes a list of so many records (all lead
to one small video, so that only the records cost), builds the training loader as a run does, takes a few batches, and
prints seconds and MiB. USS is what a process has for itself, RSS includes what it shares. Linux alone tells these.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_CLASSES, NUM_BATCHES = 400, 20


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="(default: 0 1 2)")
    parser.add_argument("--layout", choices=("plain", "csv"), default="plain", help="of the list (default: plain)")
    parser.add_argument("--sampler", default="TrainingSampler", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", metavar="LIST", help=argparse.SUPPRESS)
    return parser


def write_list(folder: Path, num_records: int, layout: str) -> Path:
    """Write a list of paths of realistic length and return its path.

    All lead to one video: each digit is a link to the folder that it lies in.
    """
    write_video(folder / "clip.mp4")
    for digit in "0123456789":
        (folder / digit).symlink_to(".")
    path = folder / "train.csv"
    separator = "," if layout == "csv" else " "
    with open(path, "w") as file:
        file.write("path,label\n" if layout == "csv" else "")
        for i in range(num_records):
            file.write(f"{'/'.join(f'{i:010d}')}/clip.mp4{separator}{i * 7919 % NUM_CLASSES}\n")
    return path


def write_video(path: Path) -> None:
    """Write sixteen small grey frames."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(16):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 16 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def memory_of(pid: int | str) -> dict[str, float]:
    """Return the memory of a process, MiB."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {key: int(value.split()[0]) for key, value in fields.items() if value.strip().endswith("kB")}
    return {"rss": kib["Rss"] / 1024, "uss": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024}


def measure(path: str, num_workers: int, sampler: str) -> dict[str, float]:
    """Build the loader of a list in this process and take batches; return seconds and MiB."""
    begin = time.perf_counter()
    from nlvideo.config import get_cfg
    from nlvideo.data import build_train_loader

    cfg = get_cfg()
    cfg.merge_from_list(
        [
            "DATASETS.TRAIN",
            [f"list:{path}"],
            "MODEL.HEAD.NUM_CLASSES",
            NUM_CLASSES,
            "SOLVER.CLIPS_PER_BATCH",
            8,
            "INPUT.NUM_FRAMES",
            4,
            "INPUT.FRAME_STRIDE",
            2,
            "INPUT.SHORT_SIDE_RANGE",
            [32, 32],
            "INPUT.CROP_SIZE",
            32,
            "DATALOADER.NUM_WORKERS",
            num_workers,
            "DATALOADER.SAMPLER",
            sampler,
            "SEED",
            0,
        ]
    )
    imported, before = time.perf_counter(), memory_of("self")
    loader = build_train_loader(cfg)
    built = time.perf_counter()
    next(loader)
    first = time.perf_counter()
    peak = _peak_rss()
    for _ in range(NUM_BATCHES):
        next(loader)
    main = memory_of("self")
    workers = [memory_of(pid) for pid in _children()]
    return {
        "records": loader.dataset_size, "workers": num_workers, "import_sec": imported - begin,
        "build_sec": built - imported, "first_batch_sec": first - built, "rss_before": before["rss"],
        "peak_rss": peak, "rss": main["rss"], "uss": main["uss"],
        "worker_uss": max((worker["uss"] for worker in workers), default=0.0),
        "worker_rss": max((worker["rss"] for worker in workers), default=0.0),
    }  # fmt: skip


def _peak_rss() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _children() -> list[int]:
    """The processes that this one has started and that run."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def main(arguments: argparse.Namespace) -> None:
    """Measure each number of workers in a fresh process."""
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.workers[0], arguments.sampler)))
        return
    from tabulate import tabulate

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_list(Path(folder), arguments.records, arguments.layout)
        size = path.stat().st_size
        for num_workers in arguments.workers:
            command = [sys.executable, __file__, "--one", str(path), "--workers", str(num_workers)]
            command += ["--sampler", arguments.sampler]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{arguments.records} records, {arguments.layout}, {size / 2**20:.0f} MiB, {arguments.sampler};")
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPU cores; seconds and MiB")
    print(tabulate(rows, headers="keys", floatfmt=".1f"))


if __name__ == "__main__":
    main(build_parser().parse_args())
