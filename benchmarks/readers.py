"""How lists and shards are read here, and by the libraries that also read them: seconds of CPU time and memory.

``python benchmarks/readers.py --records 10000000`` reads a list with nlvideo, with Python's csv alone and with pyarrow.
``python benchmarks/readers.py --samples 5000`` reads the first sample of a shard, and the one at 90 % of it, with
nlvideo (with an index and without one) and with webdataset. Each reader runs in a process of its own, several times;
printed are medians. pyarrow and webdataset are left out where they are not installed.
"""

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SAMPLE_BYTES = 100_000


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=0, metavar="N", help="lines of the lists (default: no lists)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="of the shard (default: no shard)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of each reader (default: %(default)s)")
    parser.add_argument("--one", nargs=3, metavar=("READER", "PATH", "PLACE"), help=argparse.SUPPRESS)
    return parser


def write_lists(folder: Path, num_records: int) -> list[Path]:
    """Write the same records as plain lines and as csv, and return the paths."""
    paths = [folder / "plain.txt", folder / "table.csv"]
    for path, separator in zip(paths, " ,", strict=True):
        with open(path, "w") as file:
            file.write("path,label\n" if separator == "," else "")
            for i in range(num_records):
                file.write(f"class_{i % 400:03d}/video_{i:010d}.mp4{separator}{i * 7919 % 400}\n")
    return paths


def write_shard(folder: Path, num_samples: int) -> Path:
    """Write a shard of samples that hold bytes in place of videos, with its index, and return its path."""
    from nlvideo.dataset_tools.shard_writing import write_shards

    (folder / "clip.mp4").write_bytes(os.urandom(SAMPLE_BYTES))
    records = [{"file_name": f"{folder}/clip.mp4", "label": i % 400, "video_id": str(i)} for i in range(num_samples)]
    write_shards(records, [f"{folder}/a.tar"], shuffle_seed=None)
    return folder / "a.tar"


def prepare_nlvideo(path: str, place: int) -> Callable[[], object]:
    """Read a list, or a shard and the bytes of one of its samples."""
    from nlvideo.data import get_dataset
    from nlvideo.data.video.paths import split_member_path

    def _read_sample() -> bytes:
        member = split_member_path(get_dataset(f"wds:{path}")[place]["file_name"])
        assert member is not None
        with open(member[0], "rb") as file:
            file.seek(member[1])
            return file.read(member[2])

    return _read_sample if path.endswith(".tar") else lambda: get_dataset(f"list:{path}")


def prepare_csv(path: str, place: int) -> Callable[[], object]:
    """Split each line of a csv file, and keep nothing."""

    def _read() -> int:
        with open(path, newline="") as file:
            return sum(1 for _ in csv.reader(file))

    return _read


def prepare_pyarrow(path: str, place: int) -> Callable[[], object]:
    """Read a list into a table of Arrow, with one thread."""
    from pyarrow import csv as arrow

    plain = path.endswith(".txt")
    options = arrow.ReadOptions(use_threads=False, column_names=["path", "label"] if plain else None)
    parse = arrow.ParseOptions(delimiter=" " if plain else ",")
    return lambda: arrow.read_csv(path, read_options=options, parse_options=parse)


def prepare_webdataset(path: str, place: int) -> Callable[[], object]:
    """Read the samples of a shard up to one of them; there is no other way to it."""
    import webdataset

    def _read() -> object:
        samples = iter(webdataset.WebDataset(path, shardshuffle=False))
        for _ in range(place):
            next(samples)
        return next(samples)

    return _read


LIST_READERS = {"nlvideo": prepare_nlvideo, "csv": prepare_csv, "pyarrow": prepare_pyarrow}
SHARD_READERS = {"nlvideo": prepare_nlvideo, "webdataset": prepare_webdataset}


def measure(reader: str, path: str, place: int) -> tuple[float, float]:
    """Read in this process; return seconds of CPU time, and MiB of the peak above what there was before."""
    read = (LIST_READERS | SHARD_READERS)[reader](path, place)
    before, begin = _peak_mib(), time.process_time()
    kept = read()
    seconds = time.process_time() - begin
    assert kept is not None
    return seconds, _peak_mib() - before


def _peak_mib() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def median_of(reader: str, path: Path, place: int, runs: int) -> list[float]:
    """Return the medians of several runs, each in a process of its own."""
    command = [sys.executable, __file__, "--one", reader, str(path), str(place)]
    found = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) for _ in range(runs)]
    return [statistics.median(values) for values in zip(*found, strict=True)]


def _installed(readers: dict[str, Callable]) -> list[str]:
    return [name for name in readers if importlib.util.find_spec(name)]


def main(arguments: argparse.Namespace) -> None:
    """Print a table for the lists and one for the shard."""
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], arguments.one[1], int(arguments.one[2]))))
        return
    from tabulate import tabulate

    rows: list[list] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in write_lists(folder, arguments.records) if arguments.records else ():
            for reader in _installed(LIST_READERS):
                if reader != "csv" or path.suffix == ".csv":
                    rows.append([path.name, reader, "", *median_of(reader, path, 0, arguments.runs)])
        if arguments.samples:
            path, late = write_shard(folder, arguments.samples), arguments.samples * 9 // 10
            rows.append(["with index", "nlvideo", late, *median_of("nlvideo", path, late, arguments.runs)])
            os.unlink(f"{path}.index")
            for reader in _installed(SHARD_READERS):
                rows += [
                    ["without", reader, place, *median_of(reader, path, place, arguments.runs)] for place in (0, late)
                ]
    print(tabulate(rows, headers=["file", "reader", "sample", "CPU (s)", "peak (MiB)"], floatfmt=".2f"))


if __name__ == "__main__":
    main(build_parser().parse_args())
