"""What the training data decides: the number of classes and a schedule in epochs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.config import CfgNode
from nlvideo.data import DatasetCatalog, build, build_test_loader, build_train_loader
from nlvideo.data.datasets import get_dataset
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.engine import DefaultTrainer, resolve_from_data
from nlvideo.modeling import build_model

CLASSES = ("MODEL.HEAD.NUM_CLASSES", "0")


def make_folder(root: Path, **counts: int) -> str:
    """``folder:ROOT`` with this many videos of each class; the files are empty, because only names are looked at."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{name}{number}.mp4").write_bytes(f"{name}{number}".encode())
    return f"folder:{root}"


def make_list(path: Path, *labels: str, classes: str = "") -> str:
    """``list:PATH`` with a video of each label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, label in enumerate(labels):
        (path.parent / f"{path.stem}{number}.mp4").write_bytes(f"{path.stem}{number}".encode())
        rows.append(f'{path.stem}{number}.mp4,"{label}"\n')
    path.write_text("path,label\n" + "".join(rows))
    if classes:
        path.with_suffix(".classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return f"list:{path}"


def trained_on(tiny_cfg: Callable[..., CfgNode], *names: str, opts: tuple[str, ...] = CLASSES) -> CfgNode:
    return tiny_cfg("DATASETS.TRAIN", str(list(names)), "DATASETS.TEST", "[]", *opts)


def test_the_number_of_classes_is_that_of_the_data(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "videos", a=3, b=2, c=2)
    numbers = make_list(tmp_path / "numbers" / "n.csv", "0", "4", "1", "0", "2", "3")
    names = make_list(tmp_path / "names" / "n.csv", "run", "walk", "run", "walk")
    more_names = make_list(tmp_path / "more" / "n.csv", "0", "1", "0", "1", classes="abcdef")
    write_shards(get_dataset(folder), [f"{tmp_path}/t.tar"], classes=["a", "b", "c"])
    for datasets, expected in (
        ([folder], 3),
        ([numbers], 5),
        ([names], 2),
        ([more_names], 6),
        ([numbers, names], 5),
        ([f"wds:{tmp_path}/t.tar"], 3),
        (["beacon_tiny_train"], 8),
    ):
        cfg = trained_on(tiny_cfg, *datasets)
        resolved = resolve_from_data(cfg)
        assert resolved == cfg.with_overrides(["MODEL.HEAD.NUM_CLASSES", expected]) and resolved.is_frozen()
        assert resolve_from_data(resolved) == resolved


def test_several_labels_and_their_spans_count(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    several = make_list(tmp_path / "s.csv", "0,3", "1")
    (tmp_path / "spans.csv").write_text("path,label,label_spans\ns0.mp4,0,0 0 1;6 1 2\ns1.mp4,,\n")
    opts = (*CLASSES, "MODEL.HEAD.LOSS", "sigmoid")
    assert resolve_from_data(trained_on(tiny_cfg, several, opts=opts)).MODEL.HEAD.NUM_CLASSES == 4
    spans = f"list:{tmp_path}/spans.csv"
    assert resolve_from_data(trained_on(tiny_cfg, spans, opts=opts)).MODEL.HEAD.NUM_CLASSES == 7


def test_what_needs_the_number_says_who_knows_it(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg(*CLASSES)
    message = r"^MODEL.HEAD.NUM_CLASSES: got 0, allowed: 1 or more; nlvideo.engine.resolve_from_data\(cfg\) returns a "
    for build_something in (build_model, build_train_loader, lambda cfg: build_test_loader(cfg, cfg.DATASETS.TEST[0])):
        with pytest.raises(ValueError, match=message):
            build_something(cfg)
    with pytest.raises(ValueError, match=r"^SOLVER.MAX_EPOCHS: got 2.0, allowed: 0; nlvideo.engine.resolve_from_data"):
        DefaultTrainer(tiny_cfg("SOLVER.MAX_EPOCHS", "2"))


def test_the_records_are_read_once(tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, reads = tiny_cfg(*CLASSES, "SOLVER.MAX_EPOCHS", "2"), []
    monkeypatch.setattr(build, "get_dataset", lambda name: reads.append(name) or get_dataset(name))
    cfg = resolve_from_data(cfg)
    assert reads == [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    expected = next(iter(build_train_loader(cfg)))["video"]
    assert len(reads) == 2
    # The next loader is of another time: the data may have changed.
    assert next(iter(build_train_loader(cfg)))["video"].equal(expected) and len(reads) == 4


def test_a_dataset_that_is_registered_later_is_left_to_the_loader(tiny_cfg: Callable[..., CfgNode]) -> None:
    assert "registered_later" not in DatasetCatalog
    cfg = trained_on(tiny_cfg, "registered_later", opts=())
    assert resolve_from_data(cfg) == cfg
    with pytest.raises(KeyError, match="DATASETS.TRAIN: unknown dataset 'registered_later'"):
        resolve_from_data(cfg.with_overrides(["MODEL.HEAD.NUM_CLASSES", 0]))
