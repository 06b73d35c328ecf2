"""Clips to click on, made on the spot."""

from pathlib import Path

import numpy as np

from nlvideo.data.datasets.beacon import BeaconSpec, beacon_clip
from nlvideo.data.datasets.beacon_render import ACTIONS
from nlvideo.visualization import write_video

ABOUT_EXAMPLES = "A lamp glows in a colour, then figures enter: the class is what the one of the lamp's colour does."
# Frames per second of the dataset's own videos.
_FPS = 10


def write_examples(folder: Path, count: int = 5) -> list[Path]:
    """Write ``count`` clips of beacon's validation split, each of another action, and one in which they follow.

    The folder is made where it is missing. The files are named after their actions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = [beacon_clip(BeaconSpec(), "val", index) for index in range(count)]
    named = [(scene.label, frames) for scene, frames in clips]
    named.append((f"{count}_in_a_row", np.concatenate([frames for _, frames in clips])))
    paths = [folder / f"{name}.mp4" for name, _ in named]
    for path, (_, frames) in zip(paths, named, strict=True):
        write_video(path, frames, _FPS)
    return paths


def are_of_beacon(classes: list[str]) -> bool:
    """Whether these are the classes of the beacon dataset, so that its clips mean something to the model."""
    return list(classes) == list(ACTIONS)
