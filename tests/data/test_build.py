"""Loaders: one stream whatever the workers, ranks and resumptions, and clear errors at the start."""

import itertools
import logging

import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.data import build, build_test_loader, build_train_loader
from nlvideo.utils import comm

NUM_VIDEOS, NUM_FRAMES = 10, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_video):
    """Ten videos of three classes in a list, train.csv, and broken ones in other lists."""
    root = tmp_path_factory.mktemp("videos")
    lines = []
    for i in range(NUM_VIDEOS):
        make_video(root / f"{i}.mp4", num_frames=NUM_FRAMES)
        lines.append(f"{i}.mp4 {i % 3}\n")
    (root / "train.csv").write_text("".join(lines))
    (root / "bad.mp4").write_bytes(b"nonsense" * 100)
    (root / "with_bad.csv").write_text("".join(lines[:5]) + "bad.mp4 1\n")
    (root / "all_bad.csv").write_text("bad.mp4 1\n")
    (root / "several.csv").write_text("0.mp4 0,2\n1.mp4 1\n")
    return root


def make_cfg(folder, *options, data="train.csv"):
    """A config of clips of 4 x 2 frames, crop 24, four clips per batch."""
    cfg = get_cfg()
    name = [f"list:{folder / data}"]
    cfg.merge_from_list(
        [
            "DATASETS.TRAIN",
            name,
            "DATASETS.TEST",
            name,
            "MODEL.HEAD.NUM_CLASSES",
            3,
            "SOLVER.CLIPS_PER_BATCH",
            4,
            "INPUT.NUM_FRAMES",
            4,
            "INPUT.FRAME_STRIDE",
            2,
            "INPUT.SHORT_SIDE_RANGE",
            [24, 32],
            "INPUT.CROP_SIZE",
            24,
            "TEST.SHORT_SIDE",
            32,
            "TEST.CROP_SIZE",
            32,
            "TEST.NUM_CLIPS",
            2,
            "DATALOADER.NUM_WORKERS",
            0,
            *options,
        ]
    )
    return cfg


def take(loader, count):
    """The first batches of a loader."""
    return list(itertools.islice(loader, count))


def assert_same(batches, others):
    """Byte for byte the same batches."""
    assert len(batches) == len(others)
    for one, other in zip(batches, others):
        assert one["video_id"] == other["video_id"] and torch.equal(one["video"], other["video"])
        assert torch.equal(one["label"], other["label"]) and one["failed"] == other["failed"]


def test_batches(folder):
    loader = build_train_loader(make_cfg(folder))
    batch = next(loader)
    assert loader.dataset_size == NUM_VIDEOS and iter(loader) is loader
    assert batch["video"].shape == (4, 3, 4, 24, 24) and batch["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [int(video_id[0]) % 3 for video_id in batch["video_id"]]
    assert (batch["num_failed"], batch["failed"]) == (0, [])
    ids = batch["video_id"] + [video_id for batch in take(loader, 4) for video_id in batch["video_id"]]
    assert sorted(ids[:10]) == sorted(ids[10:20]) == [f"{i}.mp4" for i in range(10)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(folder, num_workers):
    expected = take(build_train_loader(make_cfg(folder, data="with_bad.csv")), 6)
    cfg = make_cfg(folder, "DATALOADER.NUM_WORKERS", num_workers, data="with_bad.csv")
    assert_same(take(build_train_loader(cfg), 6), expected)


def test_spawned_workers_change_nothing(folder):
    expected = take(build_train_loader(make_cfg(folder)), 2)
    loader = build_train_loader(make_cfg(folder, "DATALOADER.NUM_WORKERS", 1))
    loader.loader.multiprocessing_context = "spawn"
    assert_same(take(loader, 2), expected)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "ClassBalancedSampler"])
def test_resuming_continues_the_stream(folder, sampler):
    options = ("DATALOADER.SAMPLER", sampler, "SOLVER.ACCUMULATE", 2)
    whole = take(build_train_loader(make_cfg(folder, *options)), 16)
    assert len(whole[0]["video_id"]) == 2, "an iteration is two batches of two clips"
    assert_same(take(build_train_loader(make_cfg(folder, *options), start_iter=5), 6), whole[10:])


def test_seeds_change_the_stream(folder):
    videos = [next(build_train_loader(make_cfg(folder, "SEED", seed)))["video"] for seed in (0, 0, 1)]
    assert torch.equal(videos[0], videos[1]) and not torch.equal(videos[0], videos[2])
    next(build_train_loader(make_cfg(folder, "SEED", -1)))


def test_ranks_share_the_stream(folder, monkeypatch):
    whole = take(build_train_loader(make_cfg(folder)), 3)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append(take(build_train_loader(make_cfg(folder)), 3))
    for batch, first, second in zip(whole, *ranks):
        assert torch.equal(batch["video"][0::2], first["video"]) and torch.equal(batch["video"][1::2], second["video"])


def test_test_shards_cover_every_video_once(folder, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    ids = []
    for rank in range(3):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = build_test_loader(make_cfg(folder), f"list:{folder}/train.csv")
        shard = [batch[0]["video_id"] for batch in loader]
        assert len(shard) == len(loader) and loader.dataset_size == NUM_VIDEOS
        ids += shard
    assert ids == [f"{i}.mp4" for i in range(10)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_can_be_iterated_again(folder, num_workers):
    loader = build_test_loader(make_cfg(folder, "DATALOADER.NUM_WORKERS", num_workers), f"list:{folder}/train.csv")
    first, second = list(loader), list(loader)
    assert [len(batch) for batch in first] == [1] * NUM_VIDEOS
    assert first[0][0]["video"].shape == (6, 3, 4, 32, 32) and first[4][0]["label"] == 1 and not first[4][0]["failed"]
    assert all(torch.equal(a[0]["video"], b[0]["video"]) for a, b in zip(first, second))


def test_failures_in_training_are_replaced_and_counted(folder):
    batches = take(build_train_loader(make_cfg(folder, data="with_bad.csv")), 6)
    failed = [failure for batch in batches for failure in batch["failed"]]
    assert {path for path, _ in failed} == {str(folder / "bad.mp4")} and len(failed) >= 4
    assert sum(batch["num_failed"] for batch in batches) == len(failed)
    assert "bad.mp4" not in {video_id for batch in batches for video_id in batch["video_id"]}


def test_failures_at_test_are_marked(folder, caplog):
    with caplog.at_level(logging.WARNING):
        batches = list(build_test_loader(make_cfg(folder), f"list:{folder}/with_bad.csv"))
    assert [batch[0]["failed"] for batch in batches] == [False] * 5 + [True]
    assert batches[5][0]["video"] is None and batches[5][0]["label"] == 1
    assert "bad.mp4" in caplog.text and "it counts as wrong" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_but_bad_videos(folder, num_workers):
    cfg = make_cfg(folder, "DATALOADER.NUM_WORKERS", num_workers, data="all_bad.csv")
    message = "none of 1 videos tried in a row could be used; the last: .*bad.mp4: "
    with pytest.raises(ValueError, match=message) as caught:
        next(build_train_loader(cfg))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_video_too_short(folder, num_workers):
    cfg = make_cfg(folder, "DATALOADER.NUM_WORKERS", num_workers, "INPUT.NUM_FRAMES", 16, "INPUT.SHORT_VIDEO", "error")
    message = (
        r"every video tried \(10\) is shorter than a clip: a clip needs 31 frames"
        r" \(INPUT.NUM_FRAMES, INPUT.FRAME_STRIDE\), the longest video has 12;"
    )
    with pytest.raises(ValueError, match=message):
        next(build_train_loader(cfg))
    with pytest.raises(ValueError, match=message):
        list(build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    # A rank does not know of the videos of others.
    records = build.get_dataset(cfg.DATASETS.TEST[0])
    assert [batch[0]["failed"] for batch in build.loader_of_records(cfg, records, range(3))] == [True] * 3


def test_several_labels(folder):
    cfg = make_cfg(folder, "MODEL.HEAD.LOSS", "sigmoid", "SOLVER.CLIPS_PER_BATCH", 2, data="several.csv")
    batch = next(build_train_loader(cfg))
    assert sorted(batch["label"].tolist()) == [[0, 1, 0], [1, 0, 1]] and batch["label"].dtype == torch.float32
    sample = next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0])))[0]
    assert sample["label"].tolist() == [1, 0, 1]


def test_several_datasets_are_joined(folder):
    names = [f"list:{folder}/train.csv", f"list:{folder}/with_bad.csv"]
    assert build_train_loader(make_cfg(folder, "DATASETS.TRAIN", names)).dataset_size == 16


def test_the_test_list_must_suit_the_training_list(folder, tmp_path):
    (tmp_path / "val.csv").write_text(f"{folder}/0.mp4 0\n{folder}/1.mp4 1\n{folder}/2.mp4 2\n")
    name = f"list:{tmp_path}/val.csv"
    build_train_loader(make_cfg(folder, "DATASETS.TEST", [name]))
    (tmp_path / "train.csv").write_text(f"{folder}/0.mp4 0\n{folder}/1.mp4 1\n")
    cfg = make_cfg(tmp_path, "DATASETS.TEST", [name])
    with pytest.raises(
        ValueError, match="DATASETS.TEST: .*val.csv: .*/2.mp4 has the label 2, which no video of list:.*/train.csv has$"
    ):
        build_train_loader(cfg)
    # A test alone needs no training videos.
    assert len(build_test_loader(cfg, name)) == 3


def test_labels_that_change_within_a_video(tmp_path, make_frames):
    for video in "ab":
        make_frames(tmp_path / video, num_frames=20)
    spans = "0 0.0 0.9;2 1.0 3.0"
    (tmp_path / "train.csv").write_text(f'path,label,fps,label_spans\na,"0,2",10,{spans}\nb,,10,\n')
    cfg = make_cfg(tmp_path, "MODEL.HEAD.LOSS", "sigmoid", "INPUT.FRAME_STRIDE", 1, "SEED", 1)
    batches = take(build_train_loader(cfg), 20)
    targets = {(v, *label.tolist()) for batch in batches for v, label in zip(batch["video_id"], batch["label"])}
    assert targets == {("b", 0, 0, 0), ("a", 1, 0, 0), ("a", 0, 0, 1), ("a", 1, 0, 1)}
    tested = [sample[0] for sample in build_test_loader(cfg, cfg.DATASETS.TEST[0])]
    assert [sample["label"].tolist() for sample in tested] == [[1, 0, 1], [0, 0, 0]]


def test_datasets_must_agree_on_their_classes(folder, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(f"{folder}/0.mp4 0\n")
        (tmp_path / name / "classes.txt").write_text(f"{name}\n")
    names = [f"list:{tmp_path}/{name}/train.csv" for name in ("x", "y")]
    with pytest.raises(
        ValueError,
        match="TRAIN: .*y/train.csv: class . is .* but .* in .*x/train.csv, which lacks .*; a classes.txt beside",
    ):
        build_train_loader(make_cfg(folder, "DATASETS.TRAIN", names))


@pytest.mark.parametrize(
    "train, test, options, message",
    [
        (
            "0.mp4 run\n1.mp4 sit\n",
            "2.mp4 sit\n",
            [],
            "TEST: .*class 0 is 'sit' .named by the labels of the list., but 'run' in list:.*train.csv; a classes.txt",
        ),
        ("0.mp4 0\n", "1.mp4 3\n", [], "TEST: .*1.mp4 has the label 3, which no video of .* has"),
        ("0.mp4 0\n", "gone.mp4 0\n", [], "TEST: .*1 of 1 videos do not exist"),
        (
            "path,label,label_spans\n0.mp4,0,0 0 1\n",
            "path,label,label_spans\n1.mp4,,\n",
            ["MODEL.HEAD.LOSS", "sigmoid"],
            "TEST: .*no video has a label, allowed: at least one",
        ),
        # A training may have its labels in spans alone, a test may not.
        (
            "path,label,label_spans\n0.mp4,,0 0 1\n",
            "path,label,label_spans\n1.mp4,,0 0 1\n",
            ["MODEL.HEAD.LOSS", "sigmoid"],
            "TEST: .*no video has a label, allowed: at least one",
        ),
        (
            "path,label,label_spans\n0.mp4,,\n",
            "1.mp4 0\n",
            ["MODEL.HEAD.LOSS", "sigmoid"],
            "TRAIN: .*no video has a label, allowed: at least one",
        ),
        (
            "path,label,label_spans\n0.mp4,0,0 0 1;7 1 2\n",
            "1.mp4 0\n",
            ["MODEL.HEAD.LOSS", "sigmoid"],
            "TRAIN: .*0.mp4 has label_spans with the label 7, allowed: 0 to 2",
        ),
    ],
)
def test_mistakes_in_a_test_set_are_found_before_training(folder, tmp_path, train, test, options, message):
    for i in range(3):
        (tmp_path / f"{i}.mp4").symlink_to(folder / f"{i}.mp4")
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "val.csv").write_text(test)
    with pytest.raises(ValueError, match=message) as caught:
        build_train_loader(make_cfg(tmp_path, "DATASETS.TEST", [f"list:{tmp_path}/val.csv"], *options))
    assert "\n" not in str(caught.value)


def test_names_as_labels_train(folder, tmp_path, caplog):
    (tmp_path / "train.csv").write_text(f"path,label\n{folder}/0.mp4,stand up\n{folder}/1.mp4,run\n")
    batch = next(build_train_loader(make_cfg(tmp_path)))
    assert {(video[-5], label) for video, label in zip(batch["video_id"], batch["label"].tolist())} == {
        ("0", 1),
        ("1", 0),
    }
    assert "2 of 2 videos are in the training data" in caplog.text


def test_errors_that_take_other_arguments_become_a_line(folder, monkeypatch):
    def fail(name):
        b"\xe9".decode()

    monkeypatch.setattr(build, "get_dataset", fail)
    with pytest.raises(ValueError, match="DATASETS.TRAIN: 'utf-8' codec can't decode byte 0xe9"):
        build_train_loader(make_cfg(folder))


@pytest.mark.parametrize(
    "options, error, message",
    [
        (["DATASETS.TRAIN", []], ValueError, "DATASETS.TRAIN: got an empty list"),
        (
            ["DATASETS.TRAIN", ["beacon_tain"]],
            KeyError,
            "DATASETS.TRAIN: unknown dataset 'beacon_tain': did you mean 'beacon_train'",
        ),
        (["MODEL.HEAD.NUM_CLASSES", 2], ValueError, r"DATASETS.TRAIN: list:.*2.mp4 has the label 2, allowed: 0 to 1"),
        (["SOLVER.CLIPS_PER_BATCH", 5, "SOLVER.ACCUMULATE", 2], ValueError, "BATCH: got 5, allowed: a multiple of 2"),
        (
            ["DATALOADER.SAMPLER", "TrainSampler"],
            KeyError,
            "DATALOADER.SAMPLER: unknown SAMPLER 'TrainSampler': did you mean",
        ),
        (["DATALOADER.MAPPER", "Videomapper"], KeyError, "DATALOADER.MAPPER: unknown MAPPER"),
        (["INPUT.CLIP_SAMPLER", "Random"], KeyError, "INPUT.CLIP_SAMPLER: unknown CLIP_SAMPLER"),
    ],
)
def test_errors_at_the_start(folder, options, error, message):
    with pytest.raises(error, match=message) as caught:
        build_train_loader(make_cfg(folder, *options))
    assert "\n" not in str(caught.value)


def test_errors_of_a_dataset_begin_with_its_key(folder, tmp_path):
    (tmp_path / "empty.csv").write_text("path,label\n")
    (tmp_path / "missing.csv").write_text("no.mp4 0\n")
    (tmp_path / "malformed.csv").write_text(f"{folder}/0.mp4 0\n{folder}/1.mp4 one\n")
    for name, message in [
        ("empty", "the dataset is empty, allowed: at least one video"),
        ("missing", f"1 of 1 videos do not exist: {tmp_path}/no.mp4"),
        ("malformed", "malformed.csv:2"),
        ("nowhere", f"there is no file {tmp_path}/nowhere.csv"),
    ]:
        name = f"list:{tmp_path}/{name}.csv"
        with pytest.raises(ValueError, match=message) as caught:
            build_train_loader(make_cfg(folder, "DATASETS.TRAIN", [name]))
        assert str(caught.value).startswith("DATASETS.TRAIN: ") and "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=f"^DATASETS.TEST: .*{message}"):
            build_test_loader(make_cfg(folder), name)


def test_a_random_sampler_at_test_fails_at_the_start(folder):
    with pytest.raises(ValueError, match="RandomClip .* is for training"):
        build_test_loader(make_cfg(folder, "TEST.CLIP_SAMPLER", "RandomClip"), f"list:{folder}/train.csv")


def test_workers_run_on_one_thread(folder):
    cfg = make_cfg(folder, "DATALOADER.NUM_WORKERS", 1)
    loader = build_train_loader(cfg)
    loader.loader.dataset.mapper = ThreadCounter()
    assert next(loader)["label"].tolist() == [1, 1, 1, 1]


class ThreadCounter:
    """A mapper whose label is the number of torch's threads in its process."""

    def __call__(self, record, rng):
        return {"video": torch.zeros(1), "label": torch.get_num_threads(), "video_id": record["video_id"]}
