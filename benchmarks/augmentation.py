#!/usr/bin/env python3
"""Time each augmentation of a training clip, 32 frames of 256x340 px to 224x224 px, on one thread.

Example:
    python benchmarks/augmentation.py
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=9, metavar="N", help="timed calls of each, of which the median counts"
    )
    return parser


def median_ms(call: Callable[[], object], runs: int) -> float:
    """Median of ``runs`` calls after a first one, milliseconds."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def rows() -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    import numpy as np
    import torch

    from nlvideo.data.transforms import augmentation as aug
    from nlvideo.data.transforms.augmentation import random_resized_crop
    from nlvideo.data.transforms.batch_mixing import BatchMixer
    from nlvideo.data.transforms.clip_augmentations import RandomErasing
    from nlvideo.data.transforms.photometric import OPERATIONS, ColorJitter, RandAugment

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    video = torch.from_numpy(rng.integers(0, 256, size=(32, 256, 340, 3), dtype=np.uint8))
    clip = aug.random_crop(video, 224, rng)
    batch = {"video": torch.stack([aug.to_clip(clip)] * 8), "label": torch.arange(8)}
    jitters = {name: ColorJitter(**{name: x}) for name, x in
               {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}.items()}  # fmt: skip
    found = {
        "short side (256 to 320) and crop": lambda: aug.random_crop(
            aug.jitter_short_side(video, (256, 320), rng), 224, rng
        ),
        "random resized crop": lambda: random_resized_crop(video, 224, (0.08, 1.0), (0.75, 1.3333), rng),
        "flip": lambda: aug.flip(clip),
        **{f"colour jitter: {name}": lambda jitter=jitter: jitter(clip, rng) for name, jitter in jitters.items()},
        **{f"RandAugment: {name}": lambda operation=operation: operation(clip, 0.3, [115.0])
           for name, operation in OPERATIONS.items() if name != "Identity"},
        "RandAugment, 2 operations, mean": lambda: [RandAugment(2, 9, [115.0])(clip, rng) for _ in range(20)],
        "random erasing": lambda: RandomErasing(1.0)(clip, rng),
        "to (C, T, H, W)": lambda: aug.to_clip(clip),
        "mixup, per clip of 8": lambda: BatchMixer(8, mixup_alpha=1.0)(batch, 0),
        "cutmix, per clip of 8": lambda: BatchMixer(8, cutmix_alpha=1.0)(batch, 0),
    }  # fmt: skip
    return found


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    from tqdm import tqdm

    print("| | ms a clip |\n|---|---|")
    lines = []
    for name, call in tqdm(rows().items(), file=sys.stderr, disable=None):
        clips = 20 if name.endswith("mean") else 8 if name.endswith("of 8") else 1
        lines.append(f"| {name} | {median_ms(call, max(1, args.runs // clips)) / clips:.1f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main(build_parser().parse_args())
