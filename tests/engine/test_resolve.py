"""What the training data decides: the number of classes and a schedule in epochs."""

import argparse
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from nlvideo.config import CfgNode, load_cfg
from nlvideo.data import DatasetCatalog, build, build_test_loader, build_train_loader
from nlvideo.data.datasets import get_dataset
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.engine import DefaultTrainer, HookBase, default_setup, resolve_from_data
from nlvideo.engine.resolve import resolve_split
from nlvideo.modeling import build_model
from nlvideo.solver import scale_to_world_size

TRAIN, RESUME = (argparse.Namespace(resume=resume, eval_only=False) for resume in (False, True))
SCHEDULE = ("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "TEST.EVAL_PERIOD", "SOLVER.CHECKPOINT_PERIOD")
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
    split = ("DATASETS.SPLIT.FRACTION", "0.5")
    DefaultTrainer(tiny_cfg(*split))
    with pytest.raises(
        ValueError, match="^DATASETS.SPLIT.FRACTION: got 0.5, allowed: 0; nlvideo.engine.resolve_from_d"
    ):
        DefaultTrainer(tiny_cfg(*split, "DATASETS.TEST", "[]"))


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
    own_loader = tiny_cfg("DATASETS.TRAIN", "[]")
    assert resolve_from_data(own_loader) == own_loader
    assert "registered_later" not in DatasetCatalog
    cfg = trained_on(tiny_cfg, "registered_later", opts=())
    assert resolve_from_data(cfg) == cfg
    with pytest.raises(KeyError, match="DATASETS.TRAIN: unknown dataset 'registered_later'"):
        resolve_from_data(cfg.with_overrides(["MODEL.HEAD.NUM_CLASSES", 0]))


def schedule_of(cfg: CfgNode) -> list:
    return [cfg.value_at(key) for key in SCHEDULE]


def in_epochs(tiny_cfg: Callable[..., CfgNode], *opts: str) -> CfgNode:
    """Eight videos, four clips in a batch: two iterations are an epoch."""
    return tiny_cfg("SOLVER.MAX_ITER", "400000", "SOLVER.STEPS", "[150000]", *opts)


@pytest.mark.parametrize(
    ("opts", "expected"),
    [
        ("SOLVER.MAX_EPOCHS 10", [20, [8, 15], 0, 0, 5000]),
        ("SOLVER.MAX_EPOCHS 10 SOLVER.WARMUP_FRACTION 0.1 TEST.EVAL_FRACTION 0.25", [20, [8, 15], 2, 5, 5]),
        ("SOLVER.MAX_EPOCHS 10 SOLVER.STEP_FRACTIONS [0.5]", [20, [10], 0, 0, 5000]),
        ("SOLVER.MAX_EPOCHS 2.1", [5, [2, 4], 0, 0, 5000]),
        ("SOLVER.MAX_EPOCHS 2 SOLVER.MIN_ITER 40", [40, [15, 30], 0, 0, 5000]),
        ("SOLVER.MAX_EPOCHS 30 SOLVER.MIN_ITER 40", [60, [22, 45], 0, 0, 5000]),
        # What does not fit into a short run is left out.
        ("SOLVER.MAX_EPOCHS 0.5 SOLVER.WARMUP_FRACTION 0.9 TEST.EVAL_FRACTION 0.1", [1, [], 0, 1, 1]),
        ("SOLVER.MAX_EPOCHS 10 SOLVER.LR_SCHEDULE cosine SOLVER.ACCUMULATE 2", [20, [8, 15], 0, 0, 5000]),
        ("SOLVER.MAX_EPOCHS 0 SOLVER.MIN_ITER 7 TEST.EVAL_FRACTION 0.5", [400000, [150000], 0, 0, 5000]),
    ],
)
def test_epochs_become_iterations(tiny_cfg: Callable[..., CfgNode], opts: str, expected: list) -> None:
    cfg = in_epochs(tiny_cfg, *opts.split())
    resolved = resolve_from_data(cfg)
    assert schedule_of(resolved) == expected and resolved.SOLVER.MAX_EPOCHS == 0
    assert resolve_from_data(resolved) == resolved


def test_iterations_beside_epochs_are_not_passed_over_in_silence(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    resolve_from_data(in_epochs(tiny_cfg, "SOLVER.MAX_EPOCHS", "10"))
    assert "is ignored" not in caplog.text
    resolve_from_data(tiny_cfg("SOLVER.MAX_EPOCHS", "10"))
    assert (
        "SOLVER.MAX_ITER 3 is ignored, because SOLVER.MAX_EPOCHS is set; to use it, set SOLVER.MAX_EPOCHS 0"
        in caplog.text
    )


def test_epochs_are_the_same_on_another_number_of_ranks(tiny_cfg: Callable[..., CfgNode]) -> None:
    opts = ("SOLVER.MAX_EPOCHS", "10", "TEST.EVAL_FRACTION", "0.5", "SOLVER.REFERENCE_WORLD_SIZE", "2")
    cfg = resolve_from_data(in_epochs(tiny_cfg, *opts))
    assert schedule_of(cfg) == [20, [8, 15], 0, 10, 10]
    # Half the clips in a batch: as many clips in all.
    one = scale_to_world_size(cfg, 1)
    assert schedule_of(one) == [40, [16, 30], 0, 20, 20] and one.SOLVER.CLIPS_PER_BATCH == 2
    assert schedule_of(scale_to_world_size(cfg, 4)) == [10, [4, 8], 0, 5, 5]


def test_steps_that_many_ranks_would_make_equal_are_left_out(
    tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlvideo.utils.comm.get_world_size", lambda: 4)
    opts = ("SOLVER.MAX_EPOCHS", "4", "SOLVER.WARMUP_FRACTION", "0.2", "SOLVER.REFERENCE_WORLD_SIZE", "1")
    cfg = resolve_from_data(in_epochs(tiny_cfg, *opts))
    assert schedule_of(cfg)[:3] == [8, [3], 2]
    assert schedule_of(scale_to_world_size(cfg, 4))[:3] == [2, [1], 1]


def test_a_run_says_and_writes_what_was_resolved(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = default_setup(in_epochs(tiny_cfg, *CLASSES, "SOLVER.MAX_EPOCHS", "10"), TRAIN)
    assert load_cfg(f"{cfg.OUTPUT_DIR}/config.yaml") == cfg and cfg.MODEL.HEAD.NUM_CLASSES == 4
    lines = [line for line in Path(cfg.OUTPUT_DIR, "log.txt").read_text().splitlines() if "MAX_EPOCHS" in line]
    assert len(lines) == 1 and "From the 8 videos of the training data: MODEL.HEAD.NUM_CLASSES 0 -> 4, " in lines[0]
    assert "SOLVER.MAX_EPOCHS 10.0 -> 0.0, SOLVER.MAX_ITER 400000 -> 20, SOLVER.STEPS [150000] -> [8, 15]" in lines[0]


class Killed(Exception):
    """Ends a training as a signal that cannot be caught would."""


class Kill(HookBase):
    def before_step(self) -> None:
        if self.trainer.iter == 5:
            raise Killed


def train(cfg: CfgNode, args: argparse.Namespace = TRAIN, hooks: Sequence[HookBase] = ()) -> dict[str, torch.Tensor]:
    """Train as tools/train_net.py does."""
    trainer = DefaultTrainer(default_setup(cfg, args))
    trainer.register_hooks(hooks)
    trainer.resume_or_load(args.resume)
    trainer.train()
    return trainer.bare_model.state_dict()


def test_a_resumed_run_equals_one_that_was_not_stopped(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = (*CLASSES, "SOLVER.MAX_EPOCHS", "3", "TEST.EVAL_FRACTION", "0.34", "DATASETS.TEST", "[]")
    expected = train(tiny_cfg(*opts))
    stopped = tiny_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "stopped"))
    with pytest.raises(Killed):
        train(stopped, hooks=[Kill()])
    assert Path(stopped.OUTPUT_DIR, "last_checkpoint").read_text() == "model_0000004.pth\n"
    resumed = train(stopped, RESUME)
    assert all(torch.equal(expected[name], tensor) for name, tensor in resumed.items())


def test_the_schedule_of_a_run_holds_where_its_data_has_changed(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, make_video: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4")
    rows = [f"{number}.mp4 {number % 2}\n" for number in range(3)]
    data = tmp_path / "data.txt"
    data.write_text("".join(rows[:2]))
    cfg = trained_on(tiny_cfg, f"list:{data}", opts=(*CLASSES, "SOLVER.CLIPS_PER_BATCH", "2", "SOLVER.MAX_EPOCHS", "2"))
    train(cfg)
    # Other epochs of the same data are what the user asks for.
    longer = cfg.with_overrides(["SOLVER.MAX_EPOCHS", 4])
    assert resolve_from_data(longer, resume=True).SOLVER.MAX_ITER == 4 and "has changed" not in caplog.text
    data.write_text("".join(rows))
    assert resolve_from_data(longer, resume=True).SOLVER.MAX_ITER == 2
    text = "schedule of 2 iterations; with the data of now, SOLVER.MAX_EPOCHS gives 6. To choose the number, set SO"
    assert text in caplog.text
    # A fresh start in the folder takes the data as it is.
    assert resolve_from_data(longer).SOLVER.MAX_ITER == 6
    # The number of classes is that of the checkpoint.
    data.write_text("".join([*rows, "2.mp4 2\n"]))
    with pytest.raises(ValueError, match=r"2.mp4#2 has the label 2, allowed: 0 to 1 \(MODEL.HEAD.NUM_CLASSES = 2\)"):
        resolve_from_data(cfg, resume=True)
    assert resolve_from_data(cfg).MODEL.HEAD.NUM_CLASSES == 3


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ("SOLVER.MAX_EPOCHS -1", "SOLVER.MAX_EPOCHS: got -1.0, allowed: 0 to 1000000"),
        ("SOLVER.STEP_FRACTIONS [0.5,1.0]", r"SOLVER.STEP_FRACTIONS: got \[0.5, 1.0\], allowed: increasing parts of "),
        ("SOLVER.STEP_FRACTIONS [0.5,0.4]", "SOLVER.STEP_FRACTIONS: got .*, allowed: increasing parts of the training"),
        ("SOLVER.WARMUP_FRACTION 2", "SOLVER.WARMUP_FRACTION: got 2.0, allowed: 0 to 1"),
        ("TEST.EVAL_FRACTION 2", "TEST.EVAL_FRACTION: got 2.0, allowed: 0 to 1"),
    ],
)
def test_wrong_values_are_refused_before_the_data_is_read(opts: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load_cfg(None, opts.split())


@pytest.mark.parametrize(
    ("counts", "opts", "message"),
    [
        ({"train": 2}, CLASSES, r"DATASETS.TRAIN: got one class, 'train', in folder:.*, allowed: two or more \(in "),
        ({"a": 2, "b": 2, "c": 2}, ("MODEL.HEAD.NUM_CLASSES", "2"), "DATASETS.TRAIN: .* has the label 2, allowed: 0 t"),
    ],
)
def test_data_that_cannot_be_trained_on(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, counts: dict, opts: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        default_setup(trained_on(tiny_cfg, make_folder(tmp_path / "videos", **counts), opts=opts), TRAIN)
    assert "\n" not in str(caught.value)


def test_a_validation_class_that_training_lacks(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    train, val = make_folder(tmp_path / "t", a=2, c=2), make_folder(tmp_path / "v", a=2, b=2, c=2)
    numbers, more = make_list(tmp_path / "n.csv", "0", "1", "0"), make_list(tmp_path / "m.csv", "0", "5")
    for datasets, message in (
        ((train, val), "DATASETS.TEST: folder:.*/v: class 1 is 'b', but 'c' in folder:.*/t, which lacks 'b'$"),
        ((numbers, more), "DATASETS.TEST: list:.*/m.csv: m1.mp4 has the label 5, which no video of list:.*/n.csv has$"),
    ):
        cfg = trained_on(tiny_cfg, datasets[0]).with_overrides(["DATASETS.TEST", [datasets[1]]])
        with pytest.raises(ValueError, match=f"^{message}"):
            default_setup(cfg, TRAIN)


def test_labels_that_do_not_count_classes(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    cfg = trained_on(tiny_cfg, make_list(tmp_path / "ids.csv", "17", "123456", "17"))
    with pytest.raises(
        ValueError, match="NUM_CLASSES: got 0, but the largest label of the 3 videos is 123456, allowed"
    ):
        resolve_from_data(cfg)
    cfg = trained_on(
        tiny_cfg, make_list(tmp_path / "m.csv", "1,2000000000"), opts=(*CLASSES, "MODEL.HEAD.LOSS", "sigmoid")
    )
    with pytest.raises(
        ValueError, match="but the largest label of the 1 videos is 2000000000, allowed: labels that nu"
    ):
        resolve_from_data(cfg)


def test_classes_that_can_hardly_be_learned_are_named(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = make_list(tmp_path / "n.csv", "0", "0", "2", classes="abc")
    resolve_from_data(trained_on(tiny_cfg, named, opts=("MODEL.HEAD.NUM_CLASSES", "5")))
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "MODEL.HEAD.NUM_CLASSES is 5, but the training data has 3 classes",
        "1 of the 3 classes have no video in the training data: b",
        "1 of the 3 classes have only one video in the training data: c",
    ]


BALANCED = (*CLASSES, "MODEL.HEAD.CLASS_WEIGHTS", "balanced")


def test_balanced_weights_become_numbers(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = trained_on(tiny_cfg, make_folder(tmp_path / "v", a=6, b=3, c=1), opts=BALANCED)
    resolved = resolve_from_data(cfg)
    # The mean count, 10 / 3, over each.
    assert resolved.MODEL.HEAD.CLASS_WEIGHTS == [0.555556, 1.11111, 3.33333]
    assert "NUM_CLASSES 0 -> 3, MODEL.HEAD.CLASS_WEIGHTS balanced -> 0.555556 to 3.33333" in caplog.text
    assert resolve_from_data(resolved) == resolved and resolved.is_frozen()
    several = make_list(tmp_path / "s.csv", "0,1", "0", "0,1")
    opts = (*BALANCED, "MODEL.HEAD.LOSS", "sigmoid")
    resolved = resolve_from_data(trained_on(tiny_cfg, several, opts=opts))
    assert resolved.MODEL.HEAD.CLASS_WEIGHTS == [0.833333, 1.25]
    # They can be overridden by anything.
    assert resolved.with_overrides(["MODEL.HEAD.CLASS_WEIGHTS", "balanced"]).MODEL.HEAD.CLASS_WEIGHTS == "balanced"


def test_balanced_weights_need_a_video_of_each_class(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    named = make_list(tmp_path / "n.csv", "0", "0", "2", classes="abc")
    for number, message in (
        (0, "1 of the 3 classes have no video in the training data: b;"),
        (5, "3 of the 5 .*b, 3, 4;"),
    ):
        cfg = trained_on(tiny_cfg, named, opts=BALANCED).with_overrides(["MODEL.HEAD.NUM_CLASSES", number])
        with pytest.raises(ValueError, match=f"^MODEL.HEAD.CLASS_WEIGHTS: got 'balanced', but {message} allowed: a vi"):
            resolve_from_data(cfg)
    with pytest.raises(ValueError, match="^DATASETS.TRAIN: got an empty list"):
        resolve_from_data(tiny_cfg("DATASETS.TRAIN", "[]", "MODEL.HEAD.CLASS_WEIGHTS", "balanced"))


def test_balanced_weights_of_a_run_stay(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, make_video: Callable) -> None:
    """They are in its config, in the config that trains it again, and on a resume, whatever the data is by then."""
    names = [make_video(tmp_path / f"{number}.mp4") for number in range(4)]
    data = tmp_path / "data.txt"
    data.write_text("".join(f"{name} {label}\n" for name, label in zip(names, (0, 0, 0, 1), strict=True)))
    cfg = trained_on(tiny_cfg, f"list:{data}", opts=BALANCED)
    train(cfg)
    dumped = load_cfg(f"{cfg.OUTPUT_DIR}/config.yaml")
    assert dumped.MODEL.HEAD.CLASS_WEIGHTS == [0.666667, 2.0]
    data.write_text("".join(f"{name} {label}\n" for name, label in zip(names, (0, 0, 1, 1), strict=True)))
    assert resolve_from_data(cfg, resume=True).MODEL.HEAD.CLASS_WEIGHTS == [0.666667, 2.0]
    assert resolve_from_data(cfg).MODEL.HEAD.CLASS_WEIGHTS == [1.0, 1.0]
    # A test of it needs no weights.
    tested = default_setup(cfg, argparse.Namespace(resume=True, eval_only=True))
    assert tested.MODEL.HEAD.CLASS_WEIGHTS == "balanced" and build_model(tested) is not None


def split_cfg(tiny_cfg: Callable[..., CfgNode], root: Path, *opts: str) -> CfgNode:
    return trained_on(tiny_cfg, f"folder:{root}", opts=(*CLASSES, "DATASETS.SPLIT.FRACTION", "0.25", *opts))


def test_a_split_takes_videos_for_the_test(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    make_folder(tmp_path / "videos", run=8, walk=4)
    cfg = split_cfg(tiny_cfg, tmp_path / "videos", "SOLVER.MAX_EPOCHS", "2", "SOLVER.CLIPS_PER_BATCH", "3")
    resolved = resolve_from_data(cfg)
    root = Path(cfg.OUTPUT_DIR) / "split"
    assert list(resolved.DATASETS.TRAIN) == [f"list:{root}/train.csv"]
    assert list(resolved.DATASETS.TEST) == [f"list:{root}/val.csv"] and resolved.DATASETS.SPLIT.FRACTION == 0
    assert [len(get_dataset(f"list:{root}/{side}.csv")) for side in ("train", "val")] == [9, 3]
    assert resolved.MODEL.HEAD.NUM_CLASSES == 2 and resolved.SOLVER.MAX_ITER == 6  # of the nine that are trained on
    assert resolve_from_data(resolved) == resolved
    # A test set that is given counts, and nothing is split.
    given = resolve_from_data(cfg.with_overrides(["DATASETS.TEST", [f"folder:{tmp_path}/videos"]]))
    assert list(given.DATASETS.TRAIN) == [f"folder:{tmp_path}/videos"]


def test_a_resumed_run_keeps_its_split(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path / "videos", run=8, walk=4)
    first = resolve_from_data(split_cfg(tiny_cfg, tmp_path / "videos"))
    texts = [Path(name.removeprefix("list:")).read_text() for name in (*first.DATASETS.TRAIN, *first.DATASETS.TEST)]
    for number in range(8, 20):
        (tmp_path / "videos/run" / f"run{number}.mp4").write_bytes(b"")
    changed = split_cfg(tiny_cfg, tmp_path / "videos", "DATASETS.SPLIT.SEED", "5")
    assert resolve_from_data(changed, resume=True) == first.with_overrides(["DATASETS.SPLIT.SEED", 5])
    # Another run in the folder takes nothing away from the one that may still be resumed: it has saved its config.
    output = Path(changed.OUTPUT_DIR)
    other = resolve_from_data(changed)
    assert list(other.DATASETS.TEST) == [f"list:{output}/split_2/val.csv"]
    assert len(get_dataset(other.DATASETS.TEST[0])) == 6
    again = [Path(name.removeprefix("list:")).read_text() for name in (*first.DATASETS.TRAIN, *first.DATASETS.TEST)]
    assert again == texts
    (output / "config.yaml").write_text(other.dump())
    (output / "model_0000001.pth").write_bytes(b"x")
    (output / "last_checkpoint").write_text("model_0000001.pth")
    assert list(resolve_from_data(changed, resume=True).DATASETS.TEST) == list(other.DATASETS.TEST)
    # A test in another folder makes a list of its own, and says so.
    for cfg, warns in ((changed, False), (changed.with_overrides(["OUTPUT_DIR", str(tmp_path / "test")]), True)):
        caplog.clear()
        tested = resolve_split(cfg, resume=True, eval_only=True)
        assert (f"now ['list:{tmp_path}/test/split/val.csv']: OUTPUT_DIR holds no run" in caplog.text) is warns
        assert list(tested.DATASETS.TEST) == [f"list:{cfg.OUTPUT_DIR}/split{'' if warns else '_2'}/val.csv"]
    # Also when the folder moves: split/val.csv has videos that this run has trained on.
    moved = output.rename(tmp_path / "moved")
    resumed = resolve_from_data(changed.with_overrides(["OUTPUT_DIR", str(moved)]), resume=True)
    assert list(resumed.DATASETS.TEST) == [f"list:{moved}/split_2/val.csv"]


TWO_RANKS = """
import os
from nlvideo.config import load_cfg
from nlvideo.engine.launch import launch
from nlvideo.engine.resolve import resolve_split

def main(opts):
    for train in (opts["good"], opts["bad"]):
        cfg = load_cfg(None, ["OUTPUT_DIR", opts["out"], "DATASETS.TRAIN", [train], "DATASETS.SPLIT.FRACTION", 0.5])
        try:
            text = resolve_split(cfg).DATASETS.TEST[0]
        except ValueError as error:
            text = str(error)
        os.write(1, f"{text}\\n".encode())

if __name__ == "__main__":
    launch(main, num_gpus=2, device="cpu", args=(OPTS,), timeout_minutes=2)
"""


def test_every_rank_has_the_split_or_the_error(tmp_path: Path) -> None:
    opts = {"good": make_folder(tmp_path / "v", a=4, b=4), "bad": f"folder:{tmp_path}/no", "out": f"{tmp_path}/out"}
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS.replace("OPTS", repr(opts)))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=500)
    made, error = (
        f"list:{tmp_path}/out/split/val.csv",
        f"DATASETS.TRAIN: {opts['bad']}: there is no folder {tmp_path}/no",
    )
    assert sorted(done.stdout.splitlines()) == sorted([made, made, error, error]), done.stderr


def test_a_run_says_what_a_clip_covers_once(tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        resolve_from_data(tiny_cfg())
    (line,) = [record.message for record in caplog.records if "Survey" in record.message]
    assert line.startswith(
        "Survey of 8 of 8 videos: a clip: 4 frames, stride 1 = 0.4 s; videos: 0.95 s (median; 0.6 to"
    )
    caplog.clear()
    resolve_from_data(tiny_cfg(), resume=True)
    assert "Survey" not in caplog.text
