"""The "beacon" dataset: small videos that only a network relating far-apart positions can classify.

A lamp glows in one colour and goes out; then agents of different colours enter, each performing another action. The
label is the action of the agent that has the lamp's colour (``beacon_render`` draws this). The files are made on first
use, so that "beacon_train" and "beacon_val" need no download: H.264 in MP4, lists that ``list:FILE`` reads as well, and
``truth.jsonl`` with the places of lamp and agents.
"""

import json
import logging
import multiprocessing
import os
import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from iopath.common.file_io import file_lock

from nlvideo.data.catalog import DatasetCatalog, MetadataCatalog, Record
from nlvideo.data.datasets.beacon_render import ACTIONS, BeaconSpec, Scene, render, sample_scene
from nlvideo.data.datasets.listed import CLASSES_FILE, write_classes
from nlvideo.data.datasets.official import datasets_root
from nlvideo.data.many_files import map_in_processes
from nlvideo.errors import ProcessDied
from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.file_io import write_text
from nlvideo.utils.messages import check_one_of
from nlvideo.utils.system.processes import usable_cpus

# Raised whenever the same spec would give other videos, so that an old folder is noticed.
_GENERATOR_VERSION = 2
_SPLITS = ("train", "val")

logger = logging.getLogger(__name__)


def beacon_clip(spec: BeaconSpec, split: str, index: int) -> tuple[Scene, np.ndarray]:
    """Return the scene and the frames, uint8 (T, H, W, 3), of one clip.

    Labels take turns: a split is balanced.

    Raises:
        ValueError: ``split`` is neither "train" nor "val".
    """
    check_one_of("split", split, _SPLITS)
    rng = np.random.default_rng([spec.seed, _SPLITS.index(split), index])
    scene = sample_scene(rng, ACTIONS[index % len(ACTIONS)], spec)
    return scene, render(scene, rng)


def generate_beacon(root: str | os.PathLike, spec: BeaconSpec, num_processes: int | None = None) -> Path:
    """Make the dataset in the folder ``root``, unless it is there already; returns the folder.

    The work is done in a temporary folder that is renamed at the end: an interrupted run leaves nothing, and of
    several processes that start together one generates while the others wait.

    ``num_processes`` is one for each core by default. The files do not depend on it.

    Raises:
        ValueError: ``root`` holds another dataset, or one of another spec; it is never overwritten.
    """
    root, content = Path(root).absolute(), {"generator_version": _GENERATOR_VERSION, **asdict(spec)}
    if _is_complete(root, content):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):
        if _is_complete(root, content):
            return root
        partial_root = root.with_name(f".{root.name}.partial")
        shutil.rmtree(partial_root, ignore_errors=True)
        try:
            truths = _write_all(partial_root, spec, num_processes or usable_cpus())
            for split in _SPLITS:
                rows = [f"{t['video']} {ACTIONS.index(t['label'])}\n" for t in truths if t["split"] == split]
                write_text(partial_root / f"{split}.csv", "".join(rows))
            write_text(partial_root / "truth.jsonl", "".join(json.dumps(t) + "\n" for t in truths))
            write_classes(partial_root / CLASSES_FILE, ACTIONS)
            write_text(partial_root / "spec.json", json.dumps(content, indent=1) + "\n")
            partial_root.rename(root)
        finally:
            shutil.rmtree(partial_root, ignore_errors=True)
    return root


def _is_complete(root: Path, content: dict[str, int | bool]) -> bool:
    """Whether the dataset with this spec.json is in ``root``; ValueError where something else is."""
    if not root.exists():
        return False
    path = root / "spec.json"
    if not path.is_file():
        raise ValueError(f"{root} exists but is no beacon dataset (it has no spec.json): name another folder")
    found = json.loads(path.read_text(encoding="utf8"))
    keys = sorted(k for k in found.keys() | content.keys() if found.get(k) != content.get(k))
    if keys:
        differences = ", ".join(f"{k} is {found.get(k)}, not {content.get(k)}" for k in keys)
        raise ValueError(f"{root} holds another beacon dataset ({differences}): remove it or name another folder")
    return True


def _write_all(root: Path, spec: BeaconSpec, num_processes: int) -> list[dict]:
    """Write all videos and return the lines of truth.jsonl."""
    jobs = [("train", i) for i in range(spec.num_train)] + [("val", i) for i in range(spec.num_val)]
    for split in _SPLITS:
        (root / "videos" / split).mkdir(parents=True)
    logger.info("Generating %d beacon videos, once, into %s", len(jobs), root.parent)
    write = partial(_write_clip, str(root), spec)
    bar = partial(progress_bar, total=len(jobs), desc="beacon", unit="video", leave=False)
    # A worker costs a second or two to start, and a daemonic process may not have children.
    if num_processes == 1 or len(jobs) < 64 or multiprocessing.current_process().daemon:
        return [write(job) for job in bar(jobs)]
    # Spawned, not forked: the caller may already run torch's threads.
    found = dict(bar(map_in_processes(write, jobs, num_processes, "spawn")))
    if died := [result for result in found.values() if isinstance(result, ProcessDied)]:
        raise RuntimeError(f"cannot generate the dataset: {died[0]}")
    return [found[index] for index in range(len(jobs))]


def _write_clip(root: str, spec: BeaconSpec, job: tuple[str, int]) -> dict:
    """Write one video and return its line of truth.jsonl."""
    split, index = job
    scene, frames = beacon_clip(spec, split, index)
    name = f"videos/{split}/{index:05d}.mp4"
    write_h264(os.path.join(root, name), frames)
    lamp = scene.lamp
    shown = {"colour": lamp.colour, "centre": [round(lamp.x, 2), round(lamp.y, 2)], "radius": round(lamp.radius, 2)}
    agents = []
    for i, agent in enumerate(scene.agents):
        known = {key: getattr(agent, key) for key in ("colour", "action", "shape", "enter_frame")}
        agents.append({**known, "target": i == scene.target, "boxes": agent.boxes()})
    lit = {"lamp": {**shown, "frames": [0, lamp.last_frame]}, "agents": agents}
    return {"video": name, "split": split, "label": scene.label, **lit}


def write_h264(path: str, frames: np.ndarray) -> None:
    """Write frames, uint8 (T, H, W, 3), as H.264 with one key frame and no B-frames: cheap to decode in order."""
    num_frames, height, width, _ = frames.shape
    with av.open(path, "w") as container:
        # One thread: the bits of a file do not depend on the machine's cores.
        options = {"crf": "20", "preset": "veryfast", "tune": "fastdecode", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = num_frames
        # One scaler on one thread: for frames this small, setting up a scaler for each costs more than all the rest.
        scaler = VideoReformatter()
        for frame in frames:
            planar = scaler.reformat(av.VideoFrame.from_ndarray(frame, "rgb24"), format="yuv420p", threads=1)
            container.mux(stream.encode(planar))
        container.mux(stream.encode())


# What is generated on first use: the dataset of the quickstart, and one that is made in a second to try things on.
PRESETS = {"beacon": BeaconSpec(), "beacon_tiny": BeaconSpec(num_train=32, num_val=16)}


def load_beacon(split: str, name: str = "beacon") -> list[Record]:
    """Return the records of a split, generating the dataset on first use.

    ``name`` is a key of ``PRESETS``, and the folder in ``datasets_root()``.

    Raises:
        ValueError: ``split`` is neither "train" nor "val", or the folder holds something else.
    """
    check_one_of("split", split, _SPLITS)
    root = generate_beacon(datasets_root() / name, PRESETS[name])
    rows = (line.rsplit(" ", 1) for line in (root / f"{split}.csv").read_text(encoding="utf8").splitlines())
    return [{"file_name": str(root / path), "label": int(label), "video_id": Path(path).stem} for path, label in rows]


for _name in PRESETS:
    for _split in _SPLITS:
        DatasetCatalog.register(f"{_name}_{_split}", partial(load_beacon, _split, _name))
        MetadataCatalog.get(f"{_name}_{_split}").classes = list(ACTIONS)
