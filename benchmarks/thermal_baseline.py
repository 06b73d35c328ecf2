#!/usr/bin/env python3
"""What logistic regression makes of the thermal clips' pixels, with and without the order of the frames.

    NLVIDEO_TEST_DATA=FOLDER python benchmarks/thermal_baseline.py

Eight frames spread over each clip, in grey, 16x16 (what the sensor had). Without the order: the eight values of every
pixel sorted, which keeps all but the order in which they came.
"""

import os
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from nlvideo.data import VideoReader, get_dataset
from nlvideo.data.clip_sampling import SegmentClip

NUM_FRAMES, SIDE = 8, 16


def read_split(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 8, 256) in 0..1 and labels (N,) of a list."""
    records = get_dataset(f"list:{path}")
    clips = []
    for record in records:
        with VideoReader(record["file_name"]) as video:
            frames = video.get_frames(SegmentClip(NUM_FRAMES)(video.num_frames)[0])
        grey = frames.mean(axis=-1) / 255
        factor = grey.shape[1] // SIDE
        clips.append(grey.reshape(NUM_FRAMES, SIDE, factor, SIDE, factor).mean(axis=(2, 4)).reshape(NUM_FRAMES, -1))
    return np.stack(clips), np.array([record["label"] for record in records])


def main() -> None:
    """Print the accuracy of both."""
    folder = Path(os.environ.get("NLVIDEO_TEST_DATA", "")) / "thermal"
    if not (folder / "train.csv").is_file():
        sys.exit("set NLVIDEO_TEST_DATA to a folder with thermal/train.csv and thermal/val.csv")
    (train, labels), (val, val_labels) = (read_split(folder.resolve() / f"{split}.csv") for split in ("train", "val"))
    for name, order in (("eight frames in order", np.asarray), ("the same, order lost", lambda x: np.sort(x, axis=1))):
        model = LogisticRegression(C=10, max_iter=2000).fit(order(train).reshape(len(train), -1), labels)
        accuracy = model.score(order(val).reshape(len(val), -1), val_labels)
        print(f"{name}: {100 * accuracy:.1f} %", flush=True)


if __name__ == "__main__":
    main()
