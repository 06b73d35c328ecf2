#!/usr/bin/env python3
"""Compare every frame by random access with a full decode: ``python benchmarks/exact_frames.py VIDEO|FOLDER...``.

Each frame of each file, also in folders of folders, is read by its index, alone, backwards, forwards and in random
order. It is compared to the byte with a decode from the start by PyAV itself. So are the frames of the stream, and
their times. A file that no reader opens is listed with the reason. Anything else is a fault. A file whose decode takes
more memory than ``--max-mib`` is compared on as many frames from its start.
"""

import argparse
import itertools
import json
import platform
import sys
import time
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from nlvideo.data import FrameStream, VideoDecodeError, VideoReader
from nlvideo.data.video.pixels import geometry_of

ROOT = Path(__file__).resolve().parent.parent
SEED = 0


def full_decode(path: Path, max_bytes: int) -> list[np.ndarray]:
    """Decode a file from its start and return its frames, upright RGB, up to so many bytes of them."""
    frames: list[np.ndarray] = []
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_type = "NONE"
        # As ffmpeg does: an empty packet is not the end.
        packets = (packet for packet in container.demux(stream) if packet.size)
        for packet in itertools.chain(packets, [None]):
            for frame in stream.codec_context.decode(packet):
                frames.append(geometry_of(frame).upright(frame.to_ndarray(format="rgb24")))
                if (len(frames) + 1) * frames[-1].nbytes > max_bytes:
                    return frames
    return frames


def compare(path: Path, max_bytes: int) -> dict:
    """Return how many frames were compared in each order, and which differ; or why the file cannot be read."""
    result = {"file": path.name}
    started = time.perf_counter()
    try:
        with VideoReader(path) as video:
            expected = full_decode(path, max_bytes)
            count = len(expected)
            forwards = list(range(count))
            orders = {
                "backwards": forwards[::-1],
                "forwards": forwards,
                "random": np.random.default_rng(SEED).permutation(count).tolist(),
            }
            result |= {"num_frames": video.num_frames, "compared": count, "kind": str(video._decoder.kind)}
            for name, order in orders.items():
                wrong = [index for index in order if not np.array_equal(video.get_frames([index])[0], expected[index])]
                result[f"wrong_{name}"] = wrong
            times = video.frame_seconds
        with FrameStream(path) as stream:
            found = [(frame.to_rgb(), float(frame.seconds)) for frame in itertools.islice(stream, count)]
        same = [np.array_equal(image, other) for (image, _), other in zip(found, expected, strict=True)]
        result["wrong_stream"] = [index for index in forwards if not same[index]]
        result["wrong_times"] = [index for index in forwards if abs(found[index][1] - times[index]) > 1e-9]
    except VideoDecodeError as error:
        result["refused"] = error.reason
    except Exception as error:
        result["wrong_error"] = [f"{type(error).__name__}: {error}"]
    return result | {"seconds": round(time.perf_counter() - started, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="VIDEO|FOLDER")
    parser.add_argument("--max-mib", type=int, default=1024, metavar="N", help="of decoded frames of a file (1024)")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks/results/reading/exact_frames.json", metavar="OUT"
    )
    args = parser.parse_args()
    paths = [path for given in args.inputs for path in (sorted(given.rglob("*")) if given.is_dir() else [given])]
    paths = [path for path in paths if path.is_file()]
    files = []
    for path in tqdm(paths, unit="file"):
        files.append(compare(path, args.max_mib * 2**20))
        tqdm.write(json.dumps(files[-1]))
    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    args.json.write_text(json.dumps({
        "seed": SEED, "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "pyav": av.__version__,
        "libraries": libraries, "files": files,
    }, indent=1) + "\n")  # fmt: skip
    wrong = sum(len(value) for file in files for key, value in file.items() if key.startswith("wrong_"))
    compared = sum(4 * file.get("compared", 0) for file in files)
    refused = sum("refused" in file for file in files)
    print(f"{compared} comparisons of {len(files) - refused} files: {wrong} differ; {refused} files refused")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
