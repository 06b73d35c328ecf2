#!/usr/bin/env python3
"""What logistic regression makes of the pixels of small videos, with and without the order of the frames.

    python benchmarks/pixel_baseline.py list:thermal/train.csv list:thermal/val.csv

Eight frames are spread over each video, in grey, 16x16. Without the order, the eight values of every pixel are sorted:
that keeps everything but the order in which they came. A network that learns from motion or from form must be clearly
better than both.
"""

import argparse

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import adaptive_avg_pool2d

from nlvideo.data import get_dataset, open_video
from nlvideo.data.clip_sampling import SegmentClip

NUM_FRAMES, SIDE = 8, 16


def read_split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (N, 8, 256) in 0..1 and labels (N,) of a dataset."""
    records = get_dataset(name)
    clips = []
    for record in records:
        with open_video(record["file_name"]) as video:
            frames = video.get_frames(SegmentClip(NUM_FRAMES)(video.num_frames)[0])
        grey = torch.from_numpy(frames).float().mean(dim=-1) / 255
        clips.append(adaptive_avg_pool2d(grey[:, None], SIDE).reshape(NUM_FRAMES, -1).numpy())
    return np.stack(clips), np.array([record["label"] for record in records])


def accuracies(train_name: str, val_name: str) -> tuple[float, float]:
    """Return the accuracy in percent of eight frames in order, and of the same without their order."""
    (train, labels), (val, val_labels) = (read_split(name) for name in (train_name, val_name))
    found = []
    for order in (np.asarray, lambda x: np.sort(x, axis=1)):
        model = LogisticRegression(C=10, max_iter=2000).fit(order(train).reshape(len(train), -1), labels)
        found.append(100 * float(model.score(order(val).reshape(len(val), -1), val_labels)))
    return found[0], found[1]


def main() -> None:
    """Print the accuracy of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="a dataset as in DATASETS.TRAIN")
    parser.add_argument("val", help="a dataset as in DATASETS.TEST")
    args = parser.parse_args()
    in_order, order_lost = accuracies(args.train, args.val)
    print(f"eight frames in order: {in_order:.1f} %\nthe same, order lost: {order_lost:.1f} %")


if __name__ == "__main__":
    main()
