"""Networks of the authors' release by name, and the names of the classes of weights from elsewhere.

Files are written in the form of their source. They are narrow, and as many classes as the real ones.
"""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nlvideo import model_zoo
from nlvideo.checkpoint.conversion import convert_checkpoint, write_conversion
from nlvideo.checkpoint.convert import Converted
from nlvideo.checkpoint.convert.release import RELEASES, dataset_of, licence_of, release_config, release_url
from nlvideo.checkpoint.weights import find_weights
from nlvideo.data.datasets.kinetics_names import kinetics400_classes
from nlvideo.tools.lib.ledger import read_ledger

NAME = "i3d_nonlocal_32x2_IN_pretrain_400k"
KINETICS = list(kinetics400_classes())
NARROW = ["MODEL.BACKBONE.WIDTH", "0.125", "MODEL.DEVICE", "cpu"]
SMALL = ["INPUT.CROP_SIZE", "32", "TEST.SHORT_SIDE", "32", "TEST.CROP_SIZE", "32", "TEST.NUM_CLIPS", "1"]
LICENCE = "licence of these weights: CC-BY-NC 4.0 (not for commercial use)"


@pytest.fixture
def released(authors: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``released(name, classes=400)`` puts a network of the release into the cache, eight times narrower than it is."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))

    def write(name: str, classes: int = 400) -> Path:
        path = tmp_path / "cache" / release_url(name).removeprefix("https://")
        path.parent.mkdir(parents=True, exist_ok=True)
        affine = "I3D_pretrain" in name
        shapes = authors.blob_shapes(
            i3d=name.startswith("i3d"), blocks="nonlocal" in name, base=8, classes=classes, affine=affine,
            block_norm=not affine,
        )  # fmt: skip
        path.write_bytes(pickle.dumps({"blobs": authors.random_blobs(shapes)}, protocol=2))
        return path

    return write


def test_a_name_has_the_config_that_the_ledger_lists() -> None:
    entries = {name: entry for name, entry in read_ledger().items() if name.startswith("kinetics/authors/")}
    listed = {entry["release"]["model"]: name for name, entry in entries.items() if "release" in entry}
    assert {name: release_config(name) for name in RELEASES} == listed
    assert release_config(f"/data/{NAME}.pkl") == "kinetics/authors/i3d_r50_32x2_nl5"
    assert release_config("i3d") is release_config(f"{NAME}.pth") is release_config(f"{NAME}.yaml") is None


@pytest.mark.parametrize(
    "name",
    ["c2d_baseline_32x2_IN_pretrain_400k", "c2d_nonlocal_8x8_IN_pretrain_400k", "i3d_baseline_8x8_IN_pretrain_300k",
     NAME, "i3d_baseline_32x4_I3D_pretrain_400k", "i3d_nonlocal_128x1_I3D_pretrain_400k"],
)  # fmt: skip
def test_a_released_network_by_name(name: str, released: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    """Whole, from the cache, with the names of its classes; the file in another place stands for the same."""
    path = released(name)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        model = model_zoo.get(name, opts=NARROW)
    assert model.classes == KINETICS and model.cfg.MODEL.WEIGHTS == name
    assert f"{name}: {LICENCE}" in caplog.text and "those of Kinetics-400, in alphabetical order" in caplog.text
    assert "x".join(map(str, (model.cfg.INPUT.NUM_FRAMES, model.cfg.INPUT.FRAME_STRIDE))) in name
    other = model_zoo.get(str(path), opts=NARROW)
    assert other.classes == KINETICS
    assert torch.equal(other.head.classifier.weight, model.head.classifier.weight)


def test_predictions_have_names(released: Callable[..., Path], call_tool: Callable, make_video, tmp_path: Path) -> None:
    released(NAME)
    clip = make_video(tmp_path / "clip.mp4", num_frames=64, height=32)
    status, text, err = call_tool("predict", "--model", NAME, clip, *NARROW, *SMALL)
    assert status == 0, err
    rows = [line.rsplit(maxsplit=2)[0].strip() for line in text.splitlines()[2:]]
    assert len(rows) == 5 and set(rows) <= set(KINETICS)
    best = model_zoo.Predictor(NAME, opts=[*NARROW, *SMALL])(clip)
    assert rows == [name for name, _ in best]
    # Every --model takes the name, and the names of the classes travel on.
    status, text, err = call_tool("pack_model", "--model", NAME, "--output", str(tmp_path / "packed"), *NARROW)
    assert status == 0 and "400 classes" in text, err
    assert model_zoo.Predictor(tmp_path / "packed", device="cpu").classes == KINETICS


def test_without_a_network_one_line_says_where_to_put_the_file(
    call_tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nlvideo.checkpoint.convert import release
    from nlvideo.utils.files import file_io

    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(file_io, "_WAITS", ())
    monkeypatch.setattr(release, "BASE_URL", "http://127.0.0.1:9/nl/")
    (tmp_path / "a.mp4").touch()
    status, text, err = call_tool("predict", "--model", NAME, str(tmp_path / "a.mp4"), *NARROW)
    advice = f"without a network, put http://127.0.0.1:9/nl/{NAME}.pkl at {tmp_path}/127.0.0.1:9/nl/{NAME}.pkl\n"
    assert (status, text) == (2, "") and err.endswith(advice) and f"{NAME}: cannot be downloaded: " in err
    status, _, err = call_tool("predict", "--model", NAME[:-5], str(tmp_path / "a.mp4"))
    assert status == 2 and f"unknown model '{NAME[:-5]}': did you mean '{NAME}'" in err


@pytest.mark.parametrize(
    ("path", "config", "is_kinetics"),
    [
        (NAME, "", True),
        ("/data/I3D_NLN_8x8_R50.pkl", "", True),
        ("SLOW_8x8_R50.pyth", "", True),
        ("i3d_nl_dot_product_r50_32x2x1_100e_kinetics400_rgb_20200814-7c30d5bb.pth", "", True),
        ("https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/OTHER.pkl", "", True),
        ("torchvision://r2plus1d_18", "", True),
        ("/data/swin3d_t-7615ae03.pth", "", True),
        ("my_swin3d_t-7615ae03.pth", "", False),
        ("/data/kinetics/mine.pkl", "", False),
        ("mine.pyth", "TRAIN:\n  CHECKPOINT_FILE_PATH: kinetics400/I3D.pkl\n  DATASET: kinetics\n", True),
        ("mine.pyth", "TRAIN:\n  CHECKPOINT_FILE_PATH: kinetics400/I3D.pkl\n  DATASET: ssv2\n", False),
        ("mine.pth", "ann_file_train = 'data/kinetics400/kinetics400_train_list_videos.txt'", True),
        ("mine.pth", "train = dict(ann_file='lists/kinetics400_train.txt')\nload_from = 'x.pth'", True),
        ("mine.pth", "ann_file_train = 'data/mine.txt'\nload_from = 'i3d_kinetics400.pth'", False),
        ("c2_model_iter400000.pkl", "", False),
    ],
)
def test_what_says_that_classes_are_those_of_kinetics(path: str, config: str, is_kinetics: bool) -> None:
    assert dataset_of(path, config) == ("kinetics400" if is_kinetics else "")


@pytest.mark.parametrize(
    ("path", "licence"),
    [(NAME, "CC-BY-NC 4.0 "), (f"/data/{NAME}.pkl", "CC-BY-NC 4.0 "), ("torchvision://resnet50", "BSD 3-Clause "),
     ("I3D_NLN_8x8_R50.pkl", ""), ("mine.pth", "")],
)  # fmt: skip
def test_a_licence_is_said_where_it_is_known(path: str, licence: str) -> None:
    assert licence_of(path).startswith(licence) and bool(licence_of(path)) == bool(licence)


def test_no_names_are_invented(released: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 400 classes that nothing calls Kinetics', and of a network of the release with another classifier."""
    file = released(NAME).rename(tmp_path / "mine.pkl")
    opts = [*NARROW, "DATASETS.TRAIN", "[]"]
    config = model_zoo.get_config_file("kinetics/authors/i3d_r50_32x2_nl5")
    model = model_zoo.get(config, file, opts=opts)
    assert model.classes == [str(label) for label in range(400)]
    assert "licence" not in caplog.text
    # The data of the training have names.
    assert model_zoo.get(config, file, opts=NARROW).classes == KINETICS
    (tmp_path / "mine.classes.txt").write_text("".join(f"act {label}\n" for label in range(400)))
    (tmp_path / "classes.txt").write_text("of other weights in this folder\n")
    assert model_zoo.get(config, file, opts=NARROW).classes[:2] == ["act 0", "act 1"]
    caplog.clear()
    (tmp_path / "mine.classes.txt").write_text("".join(f"act {label}\n" for label in range(401)))
    assert model_zoo.get(config, file, opts=opts).classes[1] == "1"
    assert "mine.pkl: 401 classes are named, the model has 400: the names are not used" in caplog.text


def test_another_classifier_has_other_classes(released: Callable[..., Path]) -> None:
    path = str(released(NAME, classes=10))
    assert find_weights(pickle.loads(Path(path).read_bytes()), path, []).classes == []


def test_names_beside_a_file_of_the_release_count_where_they_are_as_many(released: Callable[..., Path]) -> None:
    path = released(NAME)
    (path.parent / "classes.txt").write_text("left\nright\n")
    assert model_zoo.get(str(path), opts=NARROW).classes == KINETICS
    mine = [f"act {label}" for label in range(400)]
    (path.parent / "classes.txt").write_text("\n".join(mine))
    assert model_zoo.get(str(path), opts=NARROW).classes == mine


def test_a_converted_file_keeps_names_and_licence(
    released: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conversion = convert_checkpoint(str(released(NAME)), opts=NARROW)
    assert LICENCE in conversion.report()
    config = write_conversion(conversion, str(tmp_path / "ours.pth"))
    assert torch.load(tmp_path / "ours.pth", weights_only=True)["classes"] == KINETICS
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        model = model_zoo.get(config, tmp_path / "ours.pth", "cpu")
    assert model.classes == KINETICS and LICENCE in caplog.text
    # Files that were converted before classes were written.
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    del content["classes"]
    torch.save(content, tmp_path / "old.pth")
    assert model_zoo.get(config, tmp_path / "old.pth", "cpu").classes == KINETICS


def test_a_class_is_named_once_by_whoever_knows_it() -> None:
    converted = Converted({"head.classifier.weight": torch.zeros(400, 2)}, dataset="kinetics400")
    converted.name_classes(["a", "b"])
    assert converted.classes == KINETICS and len(converted.notes) == 1
    converted.name_classes([str(number) for number in np.arange(400)])
    assert converted.classes[399] == "399"
