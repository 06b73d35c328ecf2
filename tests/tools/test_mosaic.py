"""benchmarks/mosaic.py: its balance, its split, its labels, and that the cue is out of reach of convolutions."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data import get_dataset, open_video
from nlvideo.data.datasets.beacon import write_h264
from nlvideo.modeling import build_model

SCENES = {"train": 8, "val": 4}
NAMES = ("fall", "lie", "sitdown", "standup", "walk")


@pytest.fixture(scope="module")
def mosaic(load_tool):
    """The script as a module."""
    return load_tool("mosaic", "benchmarks")


@pytest.fixture(scope="module")
def made(mosaic, tmp_path_factory):
    """A small source of five classes, one of them not used, and what is made of it: (source, dataset)."""
    source = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for index in range(20):
            name = f"{split}{index}.mp4"
            write_h264(str(source / name), rng.integers(90, 180, (9, 32, 32, 1), np.uint8).repeat(3, axis=3))
            rows.append(f"{name} {index % 5}\n")
        (source / f"{split}.csv").write_text("".join(rows))
    (source / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return source, mosaic.make(source, tmp_path_factory.mktemp("out") / "mosaic", SCENES)


def read(path):
    """All frames of a video."""
    with open_video(path) as video:
        return video.get_frames(range(video.num_frames))


def truths(root):
    """The lines of truth.jsonl."""
    return [json.loads(line) for line in (root / "truth.jsonl").read_text().splitlines()]


def test_classes_colours_and_corners_are_balanced(mosaic):
    sources = [(f"{label}/{number}", label) for label in range(4) for number in range(5)]
    scenes = list(mosaic.deal_scenes(sources, 32, np.random.default_rng(0)))
    assert all(set(scene["labels"]) == {0, 1, 2, 3} and set(scene["colours"]) == set(mosaic.TINTS) for scene in scenes)
    for quadrant in range(4):
        assert Counter(scene["labels"][quadrant] for scene in scenes) == dict.fromkeys(range(4), 8)
        assert Counter(scene["colours"][quadrant] for scene in scenes) == dict.fromkeys(mosaic.TINTS, 8)
    assert Counter(scene["corner"] for scene in scenes) == dict.fromkeys(range(4), 8)
    # 32 uses of the five videos of a class: each six or seven times. A video shows its class.
    uses = Counter(path for scene in scenes for path in scene["sources"])
    assert len(uses) == 20 and set(uses.values()) == {6, 7}
    for scene in scenes:
        assert [int(path.split("/")[0]) for path in scene["sources"]] == scene["labels"]


def test_the_usual_numbers_are_multiples_and_use_no_validation_video_twice(mosaic):
    assert all(count % 16 == 0 for count in mosaic.SCENES.values())
    assert mosaic.SCENES["val"] <= 120  # videos of a class in the validation set of thermal.md


def test_a_source_without_one_of_the_actions_is_refused(made, mosaic, tmp_path):
    source, _ = made
    (tmp_path / "train.csv").write_text((source / "train.csv").read_text().replace("train", f"{source}/train"))
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in ("fall", "lie", "sit", "standup", "walk")))
    with pytest.raises(ValueError, match=r"train\.csv has no video of sitdown"):
        mosaic.make(tmp_path, tmp_path / "out", {"train": 4})


def test_validation_is_made_of_validation_videos(made):
    source, root = made
    for split, count in SCENES.items():
        listed = {line.split()[0] for line in (source / f"{split}.csv").read_text().splitlines()}
        ours = [t for t in truths(root) if t["video"].startswith(split)]
        assert len(ours) == 4 * count and {path for t in ours for path in t["sources"]} <= listed


def test_the_label_is_the_action_of_the_colour_that_the_mark_has(made, mosaic):
    source, root = made
    labels = {r["file_name"]: r["label"] for s in SCENES for r in get_dataset(f"list:{root}/{s}.csv")}
    lines = [line.split() for s in SCENES for line in (source / f"{s}.csv").read_text().splitlines()]
    shown = {path: NAMES[int(label)] for path, label in lines}
    assert len(labels) == len(truths(root)) == 48 and (root / "classes.txt").read_text().split() == [*mosaic.CLASSES]
    for truth in truths(root)[::7]:
        frames = read(root / truth["video"]).astype(float)
        assert frames.shape == (28, 64, 64, 3) and frames[5:19].max() < 30
        top, left = (32 * index for index in divmod(truth["corner"], 2))
        mark = frames[2, top + 4 : top + 28, left + 4 : left + 28].mean(axis=(0, 1))
        colour = min(mosaic.TINTS, key=lambda name: np.abs(mark - mosaic.TINTS[name]).max())
        assert np.abs(mark - mosaic.TINTS[colour]).max() < 15
        target = truth["colours"].index(colour)
        assert shown[truth["sources"][target]] == mosaic.CLASSES[truth["label"]]
        assert labels[str(root / truth["video"])] == truth["label"]
        # And the clip has the colour.
        top, left = (32 * index for index in divmod(target, 2))
        mean = frames[21:27, top + 4 : top + 28, left + 4 : left + 28].mean(axis=(0, 1, 2))
        cosine = {name: np.dot(mean, tint) / np.linalg.norm(tint) for name, tint in mosaic.TINTS.items()}
        assert max(cosine, key=cosine.get) == colour


def test_the_videos_of_a_scene_differ_in_the_mark_alone(made):
    _, root = made
    group = truths(root)[:4]
    assert len({t["label"] for t in group}) == 4 and len({tuple(t["sources"]) for t in group}) == 1
    first, *others = (read(root / t["video"]).astype(int) for t in group)
    for frames in others:
        assert np.abs(frames[2] - first[2]).max() > 100
        assert np.abs(frames[20:] - first[20:]).max() < 30  # what compression leaves


def test_easier_videos_show_two_clips_or_one_in_all_quadrants_or_one_in_its_own(made, mosaic):
    _, root = made
    label_of = {r["file_name"]: r["label"] for r in get_dataset(f"list:{root}/train.csv")}
    for kind in ("pair", "everywhere"):
        records = get_dataset(f"list:{root}/train_{kind}.csv")
        assert len(records) == 2 * SCENES["train"]
        assert all(label_of[r["file_name"].replace(f"_{kind}", "")] == r["label"] for r in records)
    for number, truth in enumerate(truths(root)[:8]):
        target, pair = truth["target"], mosaic.PAIRS[number // 4]
        others = [quadrant for quadrant in range(4) if quadrant not in pair]
        # Which clip each quadrant shows.
        shows = {"pair": {q: q for q in pair}} if target in pair else {"everywhere": dict.fromkeys(range(4), target)}
        if target == others[number // 4 % 2]:
            shows["alone"] = {target: target}
        for kind, shown in shows.items():
            endings = (".mp4", f"_{kind}.mp4")
            frames = [read(root / truth["video"].replace(".mp4", ending))[24] for ending in endings]
            # By brightness: the quadrants keep their colours.
            whole, easier = (
                [frame[32 * y :, 32 * x :][:32, :32].max(axis=2) for y in (0, 1) for x in (0, 1)] for frame in frames
            )
            for quadrant, picture in enumerate(easier):
                if quadrant in shown:
                    alike = [np.corrcoef(picture.ravel(), other.ravel())[0, 1] for other in whole]
                    assert np.argmax(alike) == shown[quadrant]
                else:
                    assert picture.mean() < 15


def test_the_start_names_the_colour_and_the_action_of_a_clip_without_others(made, mosaic):
    _, root = made
    names = (root / "start/classes.txt").read_text().split()
    assert len(names) == 16 and names[:2] == ["red_lie", "red_sitdown"]
    for split, scenes in SCENES.items():
        truth_of = {truth["video"]: truth for truth in truths(root)}
        lines = [line.split() for line in (root / f"start/{split}.csv").read_text().splitlines()]
        kinds = Counter(name.rpartition("_")[2] for name, _ in lines)
        assert kinds == {"everywhere.mp4": 2 * scenes, "alone.mp4": scenes}
        assert len(get_dataset(f"list:{root}/start/{split}.csv")) == len(lines)
        for name, label in lines:
            truth = truth_of[name.removeprefix("../").rpartition("_")[0] + ".mp4"]
            assert names[int(label)] == f"{truth['colours'][truth['target']]}_{mosaic.CLASSES[truth['label']]}"


def test_the_same_arguments_give_the_same_files_and_another_folder_is_refused(made, mosaic, tmp_path):
    source, root = made
    again = mosaic.make(source, tmp_path / "mosaic", SCENES)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    # Nine videos of a scene, eight lists, and what describes them.
    assert len(files) == 9 * 12 + 8 + 4
    assert all((root / path).read_bytes() == (again / path).read_bytes() for path in files)
    other = mosaic.make(source, tmp_path / "other", SCENES, seed=1)
    assert (other / "train.csv").read_text() != (root / "train.csv").read_text()
    assert mosaic.make(source, root, SCENES) == root
    with pytest.raises(ValueError, match="holds something else than this dataset: remove it or name another folder"):
        mosaic.make(source, root, {"train": 4, "val": 4})


@pytest.mark.parametrize("with_block", [False, True])
def test_no_output_without_a_block_sees_the_mark_and_a_clip(mosaic, with_block):
    side = 2 * mosaic.SIDE
    cfg = load_cfg("configs/quickstart/i3d_nl.yaml", [
        "MODEL.NONLOCAL.ENABLED", str(with_block), "MODEL.NONLOCAL.ZERO_INIT", "False", "MODEL.DEVICE", "cpu",
    ])  # fmt: skip
    backbone = build_model(cfg).backbone.eval()
    video = torch.rand(1, 3, mosaic.NUM_FRAMES, side, side, requires_grad=True)
    (out,) = list(backbone(video).values())[-1:]
    both = False
    for t in range(out.shape[2]):
        (grad,) = torch.autograd.grad(out[:, :, t].square().sum(), video, retain_graph=True)
        seen = grad.abs().amax(dim=(0, 1, 3, 4)) > 0
        both |= bool(seen[: mosaic.MARK_FRAMES].any() and seen[mosaic.FIRST_FRAME :].any())
    assert both == with_block
