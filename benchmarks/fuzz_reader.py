#!/usr/bin/env python3
"""Read videos damaged at random: each must give the right number of frames or VideoDecodeError, in time, without leaks.

The right number is that of a plain decode of the same damaged file by PyAV. A crash ends the run, with the case that
was being read on the last line. Exits with 1 where a case failed.
"""

import argparse
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from nlvideo.data import VideoDecodeError, VideoReader
from nlvideo.tools.lib.benchmarking.timing import environment

MUTATIONS = ("flip bits", "random bytes", "zeros", "cut off", "delete", "repeat", "swap", "header")


def mutate(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return damaged bytes, and the kind of damage."""
    kind = MUTATIONS[rng.integers(len(MUTATIONS))]
    array = np.frombuffer(data, np.uint8).copy()
    size = len(array)
    first, other = (int(place) for place in rng.integers(0, size, 2))
    length = int(min(2 ** rng.integers(1, 13), size - max(first, other)))
    if kind == "flip bits":
        array[rng.integers(0, size, int(rng.integers(1, 30)))] ^= np.uint8(1 << rng.integers(8))
    elif kind == "random bytes":
        array[first : first + length] = rng.integers(0, 256, length)
    elif kind == "zeros":
        array[first : first + length] = 0
    elif kind == "cut off":
        array = array[:first]
    elif kind == "delete":
        array = np.delete(array, slice(first, first + length))
    elif kind == "repeat":
        array = np.insert(array, other, array[first : first + length])
    elif kind == "swap":
        array[first : first + length], array[other : other + length] = (
            array[other : other + length].copy(),
            array[first : first + length].copy(),
        )
    else:  # the bytes that say what and where everything is lie at one of the ends
        places = rng.integers(0, min(1500, size), int(rng.integers(1, 10)))
        places = places if rng.random() < 0.5 else size - 1 - places
        array[places] = rng.integers(0, 256, len(places))
    return array.tobytes(), kind


def plain_count(path: str) -> int:
    """Return how many frames PyAV alone decodes, up to the end or to an error, as after the end of an edit list."""
    count = 0
    try:
        with av.open(path, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            stream.codec_context.thread_type = "NONE"
            # As ffmpeg does: an empty packet is not the end.
            packets = (packet for packet in container.demux(stream) if packet.size)
            for packet in itertools.chain(packets, [None]):
                count += len(stream.codec_context.decode(packet))
    except Exception:  # whatever it raises, of which there is much
        pass
    return count


def read(path: str, rng: np.random.Generator, timeout_sec: float) -> int | str:
    """Return the number of frames that the reader reads, all at once and some again at random, or its error."""
    try:
        with VideoReader(path, timeout_sec=timeout_sec) as video:
            video.check()
            video.get_frames(rng.integers(0, video.num_frames, 4).tolist())
            return video.num_frames
    except VideoDecodeError as error:
        return error.reason


def resident_mb() -> float:
    """Return the memory that this process holds, MB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cases(sources: Sequence[Path], num: int, seed: int, folder: str) -> Iterator[tuple[str, str, np.random.Generator]]:
    """Yield (path of a damaged file, what was done to which, generator of the case)."""
    for number, source in zip(range(num), itertools.cycle(sources)):
        rng = np.random.default_rng([seed, number])
        data, kind = mutate(source.read_bytes(), rng)
        path = os.path.join(folder, f"damaged{source.suffix}")
        Path(path).write_bytes(data)
        yield path, f"case {number}: {kind} in {source.name}", rng


def fuzz(
    sources: Sequence[Path], num: int, seed: int = 0, timeout_sec: float = 10.0, show: Callable = lambda text: None
) -> dict:
    """Read ``num`` damaged files.

    Args:
        sources: sound files, damaged in turn.
        num: of cases.
        seed: of all chance.
        timeout_sec: of the reader.
        show: called with the description of each case before it is read.

    Returns:
        "wrong": descriptions of the cases that failed; "read", "errors": how many gave frames and how many an error;
        "slowest_sec"; "memory_mb": after a tenth of the cases and after all.
    """
    result: dict = {"wrong": [], "read": 0, "errors": 0, "slowest_sec": 0.0, "memory_mb": []}
    reasons = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number, (path, what, rng) in enumerate(cases(sources, num, seed, folder)):
            show(what)
            start = time.monotonic()
            outcome = read(path, rng, timeout_sec)
            seconds = time.monotonic() - start
            result["slowest_sec"] = max(result["slowest_sec"], seconds)
            if isinstance(outcome, str):
                result["errors"] += 1
                reasons["".join(c for c in outcome if not c.isdigit())] += 1
            else:
                result["read"] += 1
                expected = plain_count(path)
                if outcome != expected:
                    result["wrong"].append(f"{what}: {outcome} frames, expected {expected}")
            if seconds > timeout_sec + 1:
                result["wrong"].append(f"{what}: took {seconds:.1f} s")
            if number + 1 in (max(1, num // 10), num):
                result["memory_mb"].append(round(resident_mb(), 1))
    return result | {"reasons": dict(reasons.most_common(12))}


def main() -> None:
    """Run it and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, metavar="FILE", help="sound videos")
    parser.add_argument("--num", type=int, default=2000, help="damaged files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--timeout-sec", type=float, default=10.0, help="of the reader (%(default)s)")
    arguments = parser.parse_args()
    with tqdm(total=arguments.num, unit="file", mininterval=1) as bar:

        def show(what: str) -> None:
            bar.update()
            bar.set_postfix_str(what, refresh=False)

        result = fuzz(arguments.sources, arguments.num, arguments.seed, arguments.timeout_sec, show)
    names = [source.name for source in arguments.sources]
    given = {"sources": names, "num": arguments.num, "seed": arguments.seed, "timeout_sec": arguments.timeout_sec}
    print(json.dumps({"environment": environment()} | given | result, indent=1))
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
