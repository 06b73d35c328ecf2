"""Datasets in the formats of their authors, written small: all classes, few videos, files that are empty."""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Official:
    """What was written: ``root/<folder>/annotations`` and ``root/<folder>/videos``, and what it should be read as."""

    root: Path
    classes: list[str]
    #: split -> (video id, label, path below the folder of videos)
    videos: dict[str, list[tuple[str, object, str]]] = field(default_factory=dict)

    @property
    def annotations(self) -> Path:
        return self.root / "annotations"

    def write(self, name: str, text: object) -> Path:
        """Write an annotation file: text, or a value as JSON."""
        self.annotations.mkdir(parents=True, exist_ok=True)
        (self.annotations / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return self.annotations / name

    def touch_videos(self) -> "Official":
        """Make an empty file, or an empty folder where the path has no extension, for each video."""
        for _, _, path in itertools.chain(*self.videos.values()):
            path = self.root / "videos" / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir()
        return self


def write_kinetics(root: Path, size: int) -> Official:
    """A video for each class in train, one for every tenth in val; some in class folders, some flat."""
    names = sorted(["passing American football", *(f"act {i}" for i in range(1, size))])
    made = Official(root / f"kinetics{size}", names)
    for split, official_split, step in (("train", "train", 1), ("val", "validate", 10)):
        rows, made.videos[split] = ["label,youtube_id,time_start,time_end,split,is_cc"], []
        for label in reversed(range(0, size, step)):
            name, youtube_id = made.classes[label], f"-{split}_{label:05d}"
            quoted = f'"{name}"' if label % 2 else name
            rows.append(f"{quoted},{youtube_id},{label},{label + 10},{official_split},0")
            video_id = f"{youtube_id}_{label:06d}_{label + 10:06d}"
            folder = ("", f"{name}/", f"{split}/{name.replace(' ', '_')}/")[label % 3]
            made.videos[split].append((video_id, label, f"{folder}{video_id}.{'mp4' if label % 5 else 'mkv'}"))
        made.write(f"kinetics_{official_split}.csv", "\n".join(rows) + "\n")
    made.write("kinetics_test.csv", "youtube_id,time_start,time_end,split\nx,0,10,test\n")
    return made.touch_videos()


def write_ssv1(root: Path) -> Official:
    """Folders of frames and files with semicolons."""
    names = ["Turning something upside down", *(f"Doing [x], {i} of something" for i in range(173))]
    made = Official(root / "ssv1", names)
    made.write("something-something-v1-labels.csv", "\n".join(made.classes) + "\n")
    for split, name, first in (("train", "train", 100), ("val", "validation", 900)):
        made.videos[split] = [(str(first + 7 * k), k * 25, str(first + 7 * k)) for k in range(6)]
        lines = [f"{video_id};{made.classes[label]}" for video_id, label, _ in made.videos[split]]
        made.write(f"something-something-v1-{name}.csv", "\n".join(lines) + "\n")
    made.write("something-something-v1-test.csv", "11\n12\n")
    return made.touch_videos()


def write_ssv2(root: Path) -> Official:
    """WebM videos, JSON files, templates with brackets."""
    made = Official(root / "ssv2", [f"Putting something {i} on something" for i in range(174)])
    labels = {name: str(made.classes.index(name)) for name in made.classes[::-1]}
    made.write("something-something-v2-labels.json", labels)
    for split, name, first in (("train", "train", 1), ("val", "validation", 500)):
        made.videos[split] = [(str(first + k), 29 * k, f"{first + k}.webm") for k in range(6)]
        made.write(
            f"something-something-v2-{name}.json",
            [
                {"id": video_id, "label": "putting cup on table", "placeholders": ["cup", "table"],
                 "template": made.classes[label].replace("something", "[something]")}
                for video_id, label, _ in made.videos[split]
            ],
        )  # fmt: skip
    made.write("something-something-v2-test.json", [{"id": "9"}])
    return made.touch_videos()


def write_ucf101(root: Path, number: int = 1) -> Official:
    """Class folders of AVI files, lists with labels that count from 1, and without."""
    made = Official(root / "ucf101", [f"Class{i:03d}" for i in range(101)])
    made.write("classInd.txt", "".join(f"{i + 1} {name}\r\n" for i, name in enumerate(made.classes)))
    for split, group in (("train", 8), ("test", 1)):
        made.videos[split] = []
        for label in (0, 50, 100):
            stem = f"v_{made.classes[label]}_g{group + number:02d}_c01"
            made.videos[split].append((stem, label, f"{made.classes[label]}/{stem}.avi"))
        lines = [f"{path}{f' {label + 1}' if split == 'train' else ''}" for _, label, path in made.videos[split]]
        made.write(f"{split}list{number:02d}.txt", "\n".join(lines) + "\n")
    return made.touch_videos()


def write_hmdb51(root: Path, number: int = 1) -> Official:
    """A file for each class; names with spaces, '#' and the same name in two classes; a class that begins another."""
    names = [f"{verb}_{i:02d}" for i in range(1, 17) for verb in ("clap", "sit", "wave")]
    made = Official(root / "hmdb51", sorted([*names, "climb", "climb_stairs", "climb_up"]))
    made.videos = {"train": [], "test": []}
    for label, name in enumerate(made.classes):
        uses = {f"#20_{number}_clap.avi": 1, f"(HQ)_a b_{number}.avi": 2, f"neither_{number}.avi": 0}
        made.write(f"{name}_test_split{number}.txt", "".join(f"{file} {use} \n" for file, use in uses.items()))
        for split, file in zip(("train", "test"), uses):
            made.videos[split].append((f"{name}/{file[:-4]}", label, f"{name}/{file}"))
    return made.touch_videos()


def write_charades(root: Path) -> Official:
    """A csv file with quoted texts over several lines, and actions with times; one video without any."""
    made = Official(root / "charades", [f"Doing thing {i}" for i in range(157)])
    made.write("Charades_v1_classes.txt", "".join(f"c{i:03d} {name}\n" for i, name in enumerate(made.classes)))
    made.write("Charades_v1_objectclasses.txt", "o000 None\n")
    header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
    row = '{},HR43,Kitchen,6,7,Yes,"A person, ""cooking""\nthe lunch.",food;stove,"One; two",{},24.83\n'
    for split, official_split, ids in (("train", "train", ("46GP8", "N11GT")), ("val", "test", ("YSKX3", "ZZZZZ"))):
        made.write(
            f"Charades_v1_{official_split}.csv",
            header + row.format(ids[0], "c092 11.90 21.20;c147 0.00 12.60;c092 22.0 23.5") + row.format(ids[1], ""),
        )
        made.videos[split] = [(ids[0], [92, 147], f"{ids[0]}.mp4"), (ids[1], [], f"{ids[1]}.mp4")]
    return made.touch_videos()


def write_diving48(root: Path) -> Official:
    """JSON lists, and a vocabulary of four words for each class."""
    words = [["Back", f"{i:02d}som", "NoTwis", "PIKE"] for i in range(48)]
    made = Official(root / "diving48", [" ".join(w) for w in words])
    made.write("Diving48_vocab.json", words)
    for split in ("train", "test"):
        made.videos[split] = [(f"_8Vy{split}_{k:05d}", 9 * k, f"_8Vy{split}_{k:05d}.mp4") for k in range(5)]
        made.write(
            f"Diving48_V2_{split}.json",
            [{"vid_name": v, "label": label, "start_frame": 0, "end_frame": 70} for v, label, _ in made.videos[split]],
        )
    return made.touch_videos()


@pytest.fixture()
def make_official(tmp_path: Path) -> Callable[[str], Official]:
    """``make_official("ssv2")`` writes a dataset below ``tmp_path`` and returns what it should be read as."""

    def make(name: str) -> Official:
        """Write it."""
        base, _, number = name.partition("_split")
        if base.startswith("kinetics"):
            return write_kinetics(tmp_path, int(base.removeprefix("kinetics")))
        writers = {"ssv1": write_ssv1, "ssv2": write_ssv2, "charades": write_charades, "diving48": write_diving48}
        if base in writers:
            return writers[base](tmp_path)
        return {"ucf101": write_ucf101, "hmdb51": write_hmdb51}[base](tmp_path, int(number))

    return make
