#!/usr/bin/env python3
"""Make "mosaic", a dataset of real footage with a far cue: ``python benchmarks/mosaic.py THERMAL OUT``.

THERMAL is the folder of thermal.md: ``train.csv``, ``val.csv``, ``classes.txt`` and the videos. OUT gets lists that
``list:`` reads, ``classes.txt``, ``truth.jsonl`` and videos of 28 frames of 64x64 pixels, in H.264.

In a video, frames 0 to 3 show a mark: a square of one of four colours in one of the four corners. Frames 4 to 19 are
dark. In frames 20 to 27, clips of four actions play in the quadrants, each in one of the four colours. The label is
the action of the clip that has the colour of the mark. A clip is eight frames, spread over its whole video.

What makes it a fair test:

- A *scene* is four clips, their places and colours, and a corner. Each scene makes four videos, which differ in the
  colour of the mark alone and have the four labels. So whatever ignores the mark is right in one of the four.
- The corner of the mark says nothing: each corner has each quadrant as the answer equally often. So has each colour.
- Each action is in each quadrant equally often, where the number of scenes is a multiple of four.
- Scenes of the validation set are made of THERMAL's validation videos alone, so of people never seen in training. Each
  of these videos is used once at most.

A scene makes easier videos, too. In two, two of the clips play, and the mark changes between them (``pair.csv``): here
the mark begins to pay. In two, one of the other clips plays in all quadrants (``everywhere.csv``), which teaches the
actions soon. In one, one of these plays in its own quadrant alone. ``start/`` lists the last two kinds with 16 classes,
an action in a colour each. A network that learns them keeps the colours, which the names of the actions alone do not
ask for.

An output of quickstart's I3D sees 16 frames. The mark is 17 frames before the first frame of the clips, so without a
block no output depends on both. The average of all outputs cannot relate them either: each adds its part alone.
"""

import argparse
import itertools
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from nlvideo.data import get_dataset, open_video
from nlvideo.data.clip_sampling import SegmentClip
from nlvideo.data.datasets.beacon import write_h264
from nlvideo.data.datasets.listed import CLASSES_FILE
from nlvideo.utils.console import progress_bar

# Four of THERMAL's seven: the two that are a posture and the two that are a change of it are mistaken for each other.
CLASSES = ("lie", "sitdown", "standup", "walk")
# As far apart as four colours can be. Less far apart, a network does not learn in minutes to tell them apart.
TINTS = {"red": (235, 40, 40), "green": (40, 215, 60), "blue": (60, 80, 250), "white": (215, 215, 215)}
SIDE = 32  # of a clip and of the mark, pixels. With frames of 48 pixels, x264 sometimes gives other bits.
NUM_FRAMES, MARK_FRAMES, FIRST_FRAME = 28, 4, 20  # of the video and of the mark; where the clips begin
# Four videos each. Multiples of 4 classes x 4 corners.
SCENES = {"train": 1008, "val": 112}
# The quadrants of the two clips of an easier video, in turns.
PAIRS = list(itertools.combinations(range(4), 2))
# Raised whenever the same folder would give other videos.
VERSION = 4


def read_clip(path: str) -> np.ndarray:
    """The clip of a video, (8, SIDE, SIDE), from 0 (the background) to 1 (the warmest point)."""
    with open_video(path) as video:
        frames = video.get_frames(SegmentClip(NUM_FRAMES - FIRST_FRAME)(video.num_frames)[0])
    grey = adaptive_avg_pool2d(torch.from_numpy(frames).float().mean(dim=-1)[:, None], SIDE)[:, 0].numpy()
    low, high = np.percentile(grey, 20), grey.max()
    return np.clip((grey - low) / max(high - low, 1), 0, 1)


def deal_scenes(sources: list[tuple[str, int]], count: int, rng: np.random.Generator) -> Iterator[dict]:
    """Draw scenes: {"sources", "labels", "colours" of the four quadrants (row by row), "corner"}.

    A video is used again only when all videos of its class have been used.

    Args:
        sources: (path, label) of each video; labels 0 to 3.
        count: scenes.
        rng: of everything random.
    """
    videos = [sorted(path for path, label in sources if label == c) for c in range(4)]
    decks: list[list[str]] = [[], [], [], []]
    for index in range(count):
        # In four scenes, each class is in each quadrant once; likewise the four colours.
        if index % 4 == 0:
            shifts, colours = rng.permutation(4), rng.permutation(4)
        labels = [(index + int(shift)) % 4 for shift in shifts]
        for label in labels:
            decks[label] = decks[label] or [str(path) for path in rng.permutation(videos[label])]
        yield {
            "sources": [decks[label].pop() for label in labels],
            "labels": labels,
            "colours": [list(TINTS)[colours[(index + quadrant) % 4]] for quadrant in range(4)],
            "corner": index % 4,
        }


def read_sources(thermal: Path, split: str) -> list[tuple[str, int]]:
    """(path, index in ``CLASSES``) of the videos of a list that have these classes.

    Raises:
        ValueError: the list has no video of one of them.
    """
    names = (thermal / CLASSES_FILE).read_text().split()
    records = [(record["file_name"], names[record["label"]]) for record in get_dataset(f"list:{thermal}/{split}.csv")]
    missing = [name for name in CLASSES if name not in {name for _, name in records}]
    if missing:
        raise ValueError(f"{thermal}/{split}.csv has no video of {', '.join(missing)}")
    return [(path, CLASSES.index(name)) for path, name in records if name in CLASSES]


def render(clips: list[np.ndarray | None], colours: list[str], corner: int, target: int) -> np.ndarray:
    """The frames of a video, uint8 (T, H, W, 3).

    Args:
        clips: of the quadrants, (8, SIDE, SIDE) in 0..1, row by row. None: dark.
        colours: of the quadrants.
        corner: of the mark, counted as the quadrants.
        target: the quadrant that the mark has the colour of.
    """
    frames = np.zeros((NUM_FRAMES, 2 * SIDE, 2 * SIDE, 3))
    for quadrant, (clip, colour) in enumerate(zip(clips, colours, strict=True)):
        top, left = (SIDE * index for index in divmod(quadrant, 2))
        if clip is not None:
            frames[FIRST_FRAME:, top : top + SIDE, left : left + SIDE] = clip[..., None] * TINTS[colour]
    top, left = (SIDE * index for index in divmod(corner, 2))
    frames[:MARK_FRAMES, top : top + SIDE, left : left + SIDE] = TINTS[colours[target]]
    return frames.round().astype(np.uint8)


def videos_of(index: int, clips: list[np.ndarray], target: int) -> dict[str, list[np.ndarray | None]]:
    """The clips that each video of a scene shows, by the end of its name: "" and the kinds of easier videos.

    Args:
        index: of the scene; it says which two quadrants are its pair.
        clips: of the quadrants.
        target: the quadrant that counts.
    """
    pair = PAIRS[index % len(PAIRS)]
    others = [quadrant for quadrant in range(4) if quadrant not in pair]
    videos: dict[str, list[np.ndarray | None]] = {"": [*clips]}
    if target in pair:
        videos["_pair"] = [clips[quadrant] if quadrant in pair else None for quadrant in range(4)]
    else:
        videos["_everywhere"] = [clips[target]] * 4
    if target == others[index % 2]:
        videos["_alone"] = [clips[target] if quadrant == target else None for quadrant in range(4)]
    return videos


def make(thermal: Path, root: Path, scenes: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Make the dataset in the folder ``root``, unless it is there already; return the folder.

    Args:
        thermal: the folder of the source.
        root: a folder to make. An interrupted call leaves none.
        scenes: how many, by split; None: ``SCENES``.
        seed: of everything random. The same arguments give the same files.

    Raises:
        ValueError: ``root`` holds something else.
    """
    scenes = scenes or SCENES
    spec = json.dumps({"version": VERSION, "scenes": scenes, "seed": seed}) + "\n"
    if root.exists():
        if not (root / "spec.json").is_file() or (root / "spec.json").read_text() != spec:
            raise ValueError(f"{root} holds something else than this dataset: remove it or name another folder")
        return root
    partial = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    truths = []
    for number, (split, count) in enumerate(scenes.items()):
        dealt = list(deal_scenes(read_sources(thermal, split), count, np.random.default_rng([seed, number])))
        for folder in (partial / split, partial / "start"):
            folder.mkdir(parents=True, exist_ok=True)
        lists: dict[str, list[str]] = {name: [] for name in (split, f"{split}_pair", f"{split}_everywhere")}
        starts, clip_of = [], cache(read_clip)
        for index, scene in enumerate(progress_bar(dealt, desc=f"mosaic {split}", unit="scene", leave=False)):
            clips = [clip_of(path) for path in scene["sources"]]
            names = [str(Path(path).relative_to(thermal)) for path in scene["sources"]]
            for target, label in enumerate(scene["labels"]):
                name, colour = f"{split}/{index:05d}_{target}", list(TINTS).index(scene["colours"][target])
                for kind, shown in videos_of(index, clips, target).items():
                    frames = render(shown, scene["colours"], scene["corner"], target)
                    write_h264(str(partial / f"{name}{kind}.mp4"), frames)
                    if kind != "_alone":
                        lists[f"{split}{kind}"].append(f"{name}{kind}.mp4 {label}\n")
                    if kind in ("_everywhere", "_alone"):
                        starts.append(f"../{name}{kind}.mp4 {len(CLASSES) * colour + label}\n")
                truths.append({"video": f"{name}.mp4", "label": label, "target": target, **scene, "sources": names})
        for name, lines in {**lists, f"start/{split}": starts}.items():
            (partial / f"{name}.csv").write_text("".join(lines))
    (partial / "truth.jsonl").write_text("".join(json.dumps(truth) + "\n" for truth in truths))
    (partial / CLASSES_FILE).write_text("".join(f"{name}\n" for name in CLASSES))
    coloured = [f"{colour}_{name}\n" for colour in TINTS for name in CLASSES]
    (partial / "start" / CLASSES_FILE).write_text("".join(coloured))
    (partial / "spec.json").write_text(spec)
    partial.rename(root)
    return root


def main() -> None:
    """Make the dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thermal", type=Path, metavar="THERMAL", help="the folder of the source")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder to make")
    args = parser.parse_args()
    print(make(args.thermal.resolve(), args.out.resolve()))


if __name__ == "__main__":
    main()
