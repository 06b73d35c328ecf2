"""Datasets in COCO's format: what is read, what is left out and counted, and what is refused in one line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nonlocal_rcnn import shapes
from nonlocal_rcnn.coco_data import coco_files, load_coco
from nonlocal_rcnn.mapper import DetectionMapper, read_image
from nonlocal_rcnn.sampler import AspectRatioSampler
from PIL import Image

from nlvideo.data import MetadataCatalog, VideoDecodeError, get_dataset
from nlvideo.errors import AnnotationError

NAMES = ["nose", "left_hand", "right_hand"]


def test_records_have_what_is_learned(write_coco: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    name = write_coco()
    with caplog.at_level(logging.INFO, "nonlocal_rcnn"):
        records = get_dataset(name)
    assert [record["video_id"] for record in records] == ["7", "2", "11", "5"]
    # Ids with a gap are classes in their order.
    assert MetadataCatalog.get(name).classes == ["person", "cat"]
    assert [record["label"] for record in records] == [[0, 1], [0], [], [0, 1]]
    assert [len(record["annotations"]) for record in records] == [2, 1, 0, 2]
    assert records[0]["file_name"].endswith("images/wide.png") and records[1]["height"] == 60
    assert records[3]["annotations"][0]["segmentation"] == [[30, 20, 46, 20, 30, 34]]
    assert "5 objects, 1 images without any; left out: 1 crowds, 2 boxes without an area in the image" in caplog.text


@pytest.mark.parametrize(("part", "entries", "message"), [
    ("annotations", {"image_id": 99}, "annotation 1 has image_id 99, which is not in images: is it of another dataset"),
    ("annotations", {"category_id": 4}, "annotation 1 has category_id 4, which is not in categories"),
    ("annotations", {"bbox": [1, 2]}, "allowed: one with bbox [x, y, w, h]"),
    ("annotations", {"bbox": None, "caption": "a cat"}, "allowed: one with bbox [x, y, w, h]"),
    ("annotations", {"keypoints": [1, 2, 3, 4, 5, 6]}, "annotation 1 has 6 keypoint numbers, not 9: x, y and"),
    ("images", {"height": None}, "allowed: entries with id, file_name, height, width"),
    ("images", {"id": 2}, "two images have one id"),
    ("categories", {"id": 3}, "two categories have one id"),
    ("categories", None, "not in COCO's format, which has the lists images, annotations, categories"),
])  # fmt: skip
def test_wrong_annotations_are_one_line(
    part: str, entries: dict[str, Any] | None, message: str, write_coco: Callable[..., str]
) -> None:
    with pytest.raises(AnnotationError) as caught:
        load_coco(write_coco({part: entries}))
    assert message in str(caught.value) and "notes.json: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_json_and_names_of_other_forms(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(AnnotationError, match=r"a.json: not JSON"):
        load_coco(f"coco:{tmp_path}/a.json:{tmp_path}")
    with pytest.raises(ValueError, match="allowed: coco:ANNOTATIONS:IMAGES"):
        load_coco("coco:a.json")
    with pytest.raises(ValueError, match="beacon_train: not in COCO's format, allowed: .*coco_2017_train"):
        coco_files("beacon_train")


def test_cocos_own_files_are_where_coco_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLVIDEO_DATASETS", "/data")
    assert coco_files("coco_2017_val") == ("/data/coco/annotations/instances_val2017.json", "/data/coco/val2017")
    names = coco_files("coco_2017_train_keypoints")
    assert names == ("/data/coco/annotations/person_keypoints_train2017.json", "/data/coco/train2017")


def _mapper(**changes: Any) -> DetectionMapper:
    return DetectionMapper(
        is_train=True, **{"short_side_range": (80, 80), "max_size": 100, "flip_prob": 0.0, **changes}
    )


def test_targets_are_torchvisions(write_coco: Callable[..., str]) -> None:
    record = load_coco(write_coco())[0]
    sample = _mapper()(record, np.random.default_rng(0))
    # 80 / 40 would make the long side 120.
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape == (3, 66, 100)
    target = sample["target"]
    assert target["labels"].tolist() == [1, 2]
    torch.testing.assert_close(
        target["boxes"][0], torch.tensor([10, 8, 30, 24]) * torch.tensor([100 / 60, 66 / 40] * 2)
    )
    assert target["masks"].shape == (2, 66, 100) and target["masks"].dtype == torch.uint8
    # Polygons and runs: 16 x 20 and 12 x 3 pixels, enlarged.
    assert target["masks"].sum(dim=(1, 2)).tolist() == pytest.approx([16 * 20 * 2.75, 36 * 2.75], rel=0.2)
    assert all(type(value) is torch.Tensor for value in target.values())


def test_a_mirror_moves_everything(write_coco: Callable[..., str]) -> None:
    record = load_coco(write_coco())[0]
    plain, flipped = (
        [_mapper(short_side_range=(40, 40), flip_prob=p, keypoints=k)(record, np.random.default_rng(0))
         for k in (None, NAMES)] for p in (0.0, 1.0)
    )  # fmt: skip
    assert torch.equal(flipped[0]["image"], plain[0]["image"].flip(2))
    assert torch.equal(flipped[0]["target"]["masks"], plain[0]["target"]["masks"].flip(2))
    assert flipped[0]["target"]["boxes"][0].tolist() == [30, 8, 50, 24]
    assert plain[1]["target"]["keypoints"][0].tolist() == [[11, 9, 2], [12, 12, 1], [0, 0, 0]]
    # The left hand is the right hand of the mirror image, and what nobody marked stays at 0.
    assert flipped[1]["target"]["keypoints"][0].tolist() == [[49, 9, 2], [0, 0, 0], [48, 12, 1]]
    assert "masks" not in plain[1]["target"] and "keypoints" not in plain[0]["target"]


def test_scales_differ_and_an_image_may_be_empty(write_coco: Callable[..., str]) -> None:
    records = load_coco(write_coco())
    mapper = _mapper(short_side_range=(40, 44))
    rng = np.random.default_rng(0)
    assert {min(mapper(records[0], rng)["image"].shape[1:]) for _ in range(40)} == {40, 41, 42, 43, 44}
    target = mapper(records[2], rng)["target"]
    assert {name: len(value) for name, value in target.items()} == {"boxes": 0, "labels": 0, "masks": 0}
    points = _mapper(keypoints=NAMES)(records[2], rng)["target"]["keypoints"]
    assert points.shape == (0, 3, 3)


def test_batches_hold_lists(write_coco: Callable[..., str]) -> None:
    mapper, rng = _mapper(), np.random.default_rng(0)
    batch = mapper.collate([mapper(record, rng) for record in load_coco(write_coco())[:2]])
    assert [tuple(image.shape[1:]) for image in batch["images"]] == [(66, 100), (100, 66)] and len(
        batch["targets"]
    ) == 2


def test_at_test_an_image_stays_as_it_is(write_coco: Callable[..., str]) -> None:
    record = load_coco(write_coco())[1]
    sample = DetectionMapper(is_train=False)(record, None)
    assert torch.equal(sample["image"], torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1))
    assert "target" not in sample and sample["video_id"] == "2"


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(VideoDecodeError, match="a.png: cannot identify"):
        read_image(str(tmp_path / "a.png"))
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(VideoDecodeError, match=r"an image of 20x30 \(height x width\), its annotations are for 20x40"):
        read_image(str(tmp_path / "b.png"), (20, 40))
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoDecodeError, match="c.png"):
        read_image(str(tmp_path / "c.png"))


def test_an_image_is_turned_where_its_annotations_are(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert read_image(str(tmp_path / "a.png"), (20, 30)).shape == (3, 20, 30)
    assert read_image(str(tmp_path / "a.png"), (30, 20)).shape == (3, 30, 20)


@pytest.mark.parametrize(("outline", "message"), [
    (None, "an object has no segmentation"),
    ({"size": [1, 2]}, "a segmentation of an unknown form"),
    ({"size": [4, 4], "counts": [16]}, "a segmentation for (4, 4)"),
])  # fmt: skip
def test_wrong_outlines_are_one_line(outline: Any, message: str, write_coco: Callable[..., str]) -> None:
    record = load_coco(write_coco({"annotations": {"segmentation": outline}}))[0]
    with pytest.raises(ValueError) as caught:
        _mapper()(record, np.random.default_rng(0))
    assert f"wide.png: {message}" in str(caught.value)


def _records(wide: int, tall: int) -> list[dict[str, Any]]:
    sizes = [(40, 60)] * wide + [(60, 40)] * tall + [(40, 60)]
    return [
        {"file_name": str(i), "height": h, "width": w, "label": [] if i == wide + tall else [0]}
        for i, (h, w) in enumerate(sizes)
    ]


def test_batches_are_of_one_orientation() -> None:
    records, batch = _records(10, 5), 4
    whole = AspectRatioSampler(records, batch=batch, seed=3)
    steps = 5  # three of wide and two of tall images
    for epoch in range(2):
        indices = [[whole.index_at((epoch * steps + s) * batch + i) for i in range(batch)] for s in range(steps)]
        assert all(len({index < 10 for index in step}) == 1 for step in indices)
        drawn = [index for step in indices for index in step]
        # Every image but the empty one, and a few twice.
        assert set(drawn) == set(range(15)) and max(drawn.count(index) for index in drawn) <= 2
    assert [whole.index_at(p) for p in range(20)] != [whole.index_at(p) for p in range(20, 40)]
    # Two ranks, resumed after three steps, share the same stream.
    ranks = [iter(AspectRatioSampler(records, batch=batch, seed=3, rank=r, world_size=2, start=12)) for r in (0, 1)]
    assert [next(ranks[p % 2]) for p in range(8)] == [(whole.index_at(12 + p), 12 + p) for p in range(8)]


def test_the_sampler_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="no image has an object to train on"):
        AspectRatioSampler(_records(0, 0))
    with pytest.raises(ValueError, match="a.mp4: a record without its width"):
        AspectRatioSampler([{"file_name": "a.mp4", "label": 0}])


def test_shapes_are_made_once_and_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for place in ("one", "two"):
        monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path / place))
        records = load_coco("shapes_tiny_train")
        contents.append(
            (Path(coco_files("shapes_tiny_train")[0]).read_text(), Path(records[3]["file_name"]).read_bytes())
        )
    assert contents[0] == contents[1] and len(records) == 8
    assert {(record["height"], record["width"]) for record in records} == {(128, 192), (192, 128)}
    (tmp_path / "two" / "shapes_tiny" / "train.json").write_text("{}")
    with pytest.raises(ValueError, match="is of another dataset, or of another version of shapes"):
        load_coco("shapes_tiny_train")


def test_the_class_of_a_shape_is_decided_far_away() -> None:
    for index in range(20):
        pixels, lamp, found = shapes.draw_scene(np.random.default_rng(index), index % 2 == 1)
        height, width = pixels.shape[:2]
        margin = shapes._LAMP_RADIUS + 2
        places = [(y, x) for y in (margin, height - margin) for x in (margin, width - margin)]
        corners = [p for p in places if (pixels[p] == shapes._COLOURS[lamp]).all()]
        for shape in found:
            mask = shapes.shape_mask(shape, (height, width))
            rim = mask & ~shapes.shape_mask(shape._replace(radius=shape.radius - 3), (height, width))
            assert (pixels[rim] == 255).all() and rim.sum() > 40
            assert any(np.hypot(shape.x - x, shape.y - y) >= shapes.FAR + shape.radius for y, x in corners)
            note = shapes.annotate(shape, (height, width))
            assert note["area"] == mask.sum() and note["num_keypoints"] == 3


def test_masks_of_shapes_are_their_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    content = json.loads(Path(coco_files("shapes_tiny_val")[0]).read_text())
    mapper = _mapper(short_side_range=(128, 128), max_size=192)
    kinds = set()
    for record in load_coco("shapes_tiny_val"):
        notes = [note for note in content["annotations"] if str(note["image_id"]) == record["video_id"]]
        areas = mapper(record, np.random.default_rng(0))["target"]["masks"].sum(dim=(1, 2)).tolist()
        kinds |= {type(note["segmentation"]) for note in notes}
        assert areas == pytest.approx([note["area"] for note in notes], rel=0.15)
    assert kinds == {dict, list}
