"""Shards: written whole, read back as the same records, streamed in an order that nothing but the seed decides."""

import gzip
import io
import itertools
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from nlvideo.config import get_cfg
from nlvideo.data import DatasetCatalog, MetadataCatalog, build_test_loader, build_train_loader, get_dataset, open_video
from nlvideo.data.checks import check_files, fingerprint
from nlvideo.data.records import shard_files
from nlvideo.data.records.records import chain_records
from nlvideo.data.records.shard_files import expand_pattern
from nlvideo.data.samplers import SAMPLER, ShardSampler
from nlvideo.data.video.paths import member_path, split_member_path
from nlvideo.dataset_tools.shard_writing import write_shards
from nlvideo.utils.files.file_io import write_text

COUNT = 11


@pytest.fixture(scope="module")
def records(tmp_path_factory, make_video):
    """Videos of as many frames as their number and 5."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [make_video(folder / f"clip.{i}.mp4", num_frames=5 + i) for i in range(COUNT)]
    return [{"file_name": path, "label": i % 3, "video_id": f"v/{i}.mp4"} for i, path in enumerate(paths)]


@pytest.fixture(scope="module")
def shards(records, tmp_path_factory):
    """The dataset name of three shards."""
    folder = tmp_path_factory.mktemp("shards")
    paths = expand_pattern(f"{folder}/s-{{08..10}}.tar")
    write_shards(records, paths, classes=["a", "b", "c"])
    return f"wds:{folder}/s-{{08..10}}.tar"


def add_member(shard, name, content):
    """Add a file to an open tar file."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def test_patterns(tmp_path, monkeypatch):
    assert expand_pattern("a-{008..011}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert expand_pattern("far://{x,y}/{0..1}.tar") == [f"far://{a}/{b}.tar" for a in "xy" for b in "01"]
    for name in ("b.tar", "a.tar", "c.txt"):
        (tmp_path / name).touch()
    assert expand_pattern(f"{tmp_path}/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_pattern("~/*.tar") == [f"{tmp_path}/a.tar", f"{tmp_path}/b.tar"]
    (tmp_path / "[a].tar").touch()
    assert expand_pattern(f"{tmp_path}/[a].tar") == [f"{tmp_path}/[a].tar"]
    with pytest.raises(ValueError, match="no file matches .*/x-.*.tar"):
        expand_pattern(f"{tmp_path}/x-*.tar")
    with pytest.raises(ValueError, match=r"the range \{3..1\} ends before it begins"):
        expand_pattern("{3..1}.tar")
    for pattern, count in (
        ("{0..999999999}.tar", "1000000000 shards or more"),
        ("{0..9999}/{0..9999}.tar", "100000000 shards"),
    ):
        with pytest.raises(ValueError, match=f"names {count}, allowed: up to 1000000"):
            expand_pattern(pattern)


def test_paths_of_members():
    assert split_member_path(member_path("/a, b:c.tar", 512, 30)) == ("/a, b:c.tar", 512, 30)
    assert split_member_path("/a.mp4") is None


def test_records_come_back(records, shards):
    found = get_dataset(shards)
    assert MetadataCatalog.get(shards).classes == ["a", "b", "c"] and found.shard_sizes.tolist() == [3, 4, 4]
    by_id = {record["video_id"]: record for record in found}
    assert by_id.keys() == {record["video_id"] for record in records}
    assert [r["video_id"] for r in found] != [r["video_id"] for r in records], "not shuffled"
    for i, record in enumerate(records):
        copy = by_id[record["video_id"]]
        assert copy["label"] == record["label"]
        with open_video(copy["file_name"]) as video, open_video(record["file_name"]) as original:
            assert video.num_frames == 5 + i
            assert np.array_equal(video.get_frames([4, 0, 3 + i]), original.get_frames([4, 0, 3 + i]))
    check_files(shards, found)
    assert fingerprint(found) == fingerprint(list(found))


def test_shards_are_plain_tar_files_of_webdataset(records, shards, tmp_path):
    with tarfile.open(get_dataset(shards).shards[0]) as shard:
        names = shard.getnames()
        assert names == [f"{i:09d}.{extension}" for i in range(3) for extension in ("mp4", "json")]
        assert json.load(shard.extractfile(names[1]))["video_id"].startswith("v/")
        for member in shard.getmembers():
            member.name = f"class/{member.name}"
    # Without their indexes they are read through, to the same records.
    for path in get_dataset(shards).shards:
        os.link(path, tmp_path / os.path.basename(path))
    again = get_dataset(f"wds:{tmp_path}/*.tar")
    assert [(r["video_id"], r["label"]) for r in again] == [(r["video_id"], r["label"]) for r in get_dataset(shards)]
    assert [split_member_path(r["file_name"])[1:] for r in again] == [
        split_member_path(r["file_name"])[1:] for r in get_dataset(shards)
    ]


def test_shards_of_others(tmp_path, records):
    video = Path(records[3]["file_name"]).read_bytes()
    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        add_member(shard, f"{'deep/' * 30}one.cls", b"2\n")
        add_member(shard, f"{'deep/' * 30}one.mp4", video)
        add_member(shard, "two.webm", video)
        add_member(shard, "two.json", b'{"label": [0, 2], "start_sec": 0.2, "note": 1}')
        add_member(shard, "three.json", b'{"label": 1}')
        add_member(shard, "three.avi", video)
    one, two, three = get_dataset(f"wds:{tmp_path}/x.tar")
    assert (one["video_id"], one["label"]) == (f"{'deep/' * 30}one", 2) and "start_sec" not in one
    assert (two["video_id"], two["label"], two["start_sec"]) == ("two", [0, 2], 0.2) and "note" not in two
    assert (three["video_id"], three["label"]) == ("three", 1)
    assert MetadataCatalog.get(f"wds:{tmp_path}/x.tar").evaluator_type == "multilabel"
    with open_video(two["file_name"]) as opened:
        assert opened.num_frames == 8


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a.mp4": b"x"}, "x.tar: the sample a has 1 videos, no label, allowed: one video and a .cls or .json file"),
        ({"a.cls": b"1"}, "the sample a has 0 videos, a label"),
        ({"a.cls": b"1", "a.mp4": b"x", "a.avi": b"x"}, "the sample a has 2 videos, a label"),
        ({"a.cls": b"one", "a.mp4": b"x"}, "the sample a has no label, an integer or a list of them, in b'one'"),
        ({"a.json": b'{"label": 1.5}', "a.mp4": b"x"}, "the sample a has no label"),
        ({"a.json": b'{"class": 1}', "a.mp4": b"x"}, "the sample a has no label"),
        ({"a.json": b'{"label": 10000000000}', "a.mp4": b"x"}, "the sample a has no label, .* in 10000000000"),
        ({"a.json": b'{"label": [0, true]}', "a.mp4": b"x"}, "the sample a has no label"),
        ({"a.json": b"[" * 100_000, "a.mp4": b"x"}, "the sample a has no label"),
        (
            {"a.json": b'{"label": 0, "label_spans": [[0, 1]]}', "a.mp4": b"x"},
            "sample a has .'label_spans': .*, allowed bes",
        ),
        ({"a.json": b'{"label": 0, "label_spans": [[0, 1, NaN]]}', "a.mp4": b"x"}, "sample a has .'label_spans'"),
        ({"a.json": b'{"label": 0, "label_spans": [["run", 1, 2]]}', "a.mp4": b"x"}, "sample a has .'label_spans'"),
        ({"a.json": b'{"label": 0, "start_sec": "1"}', "a.mp4": b"x"}, "sample a has .'start_sec': '1'"),
        (
            {"a.v1.mp4": b"x", "a.v1.cls": b"0"},
            "a has 0 videos, no label, .*; the name of a sample ends at the first dot, so a.v1.cls is ignored",
        ),
        (None, "x.tar: not a whole tar file"),
        ("gzip", r"x.tar: not a whole tar file \(gzip data, such as a .tar.gz; videos are read in place, from .tar\)"),
        ("index", "x.tar.index: not the index of a shard"),
        ("other", r"x.tar.index: this index is for a shard of 3 bytes, but .*/x.tar has 10240"),
    ],
)
def test_errors_name_shard_and_sample(tmp_path, files, message):
    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        for name, content in files.items() if isinstance(files, dict) else ():
            add_member(shard, name, content)
    if files is None:
        (tmp_path / "x.tar").write_bytes(b"nonsense" * 200)
    if files == "gzip":
        (tmp_path / "x.tar").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    if files == "index":
        (tmp_path / "x.tar.index").write_text("[]")
    if files == "other":
        (tmp_path / "x.tar.index").write_text('{"format": "nlvideo-shard-1", "bytes": 3, "samples": []}')
    with pytest.raises(ValueError, match=message) as caught:
        get_dataset(f"wds:{tmp_path}/x.tar")
    assert "\n" not in str(caught.value)


def test_members_that_are_no_videos_are_passed_over(tmp_path, records):
    video = Path(records[0]["file_name"]).read_bytes()
    with tarfile.open(tmp_path / "x.tar", "w") as shard:
        for name in (
            "README",
            "./._a.mp4",
            "._a.cls",
            "a.jpg",
            "a.npy",
            "__MACOSX/._a.mp4",
            "a.mask.mp4",
            "a.pose.json",
        ):
            add_member(shard, name, b"x")
        add_member(shard, "a.mp4", video)
        add_member(shard, "a.cls", b"1")
    (record,) = get_dataset(f"wds:{tmp_path}/x.tar")
    assert (record["video_id"], record["label"]) == ("a", 1)
    with open_video(record["file_name"]) as opened:
        assert opened.num_frames == 5


def test_videos_of_any_extension_come_back_without_an_index(tmp_path, records):
    odd = f"{tmp_path}/odd.xyz"
    os.link(records[0]["file_name"], odd)
    write_shards([records[0] | {"file_name": odd}], [f"{tmp_path}/x.tar"])
    os.unlink(f"{tmp_path}/x.tar.index")
    (record,) = get_dataset(f"wds:{tmp_path}/x.tar")
    assert record["video_id"] == "v/0.mp4"


@pytest.mark.parametrize(
    "sample, message",
    [
        (["a", 512, 9728, 0, {}], None),
        (["a", 512, 9729, 0, {}], "the sample a lies at 512, 9729 bytes, outside of its shard of 10240"),
        (["a", -512, 10, 0, {}], "the sample a lies at -512, 10 bytes"),
        (["a", "0", 10, 0, {}], "the sample a lies at 0, 10 bytes"),
        (
            ["a", 512, 10, 0, {"file_name": "/etc/passwd"}],
            "the sample a has .'file_name': '/etc/passwd'., allowed beside",
        ),
        (["a", 512, 10, 0, {"fps": 3}], "the sample a has .'fps': 3"),
        (["a", 512, 10, 0, []], "the sample a has .., allowed beside"),
        (["a", 512, 10, "0", {}], "the sample a has no label"),
        ([7, 512, 10, 0, {}], "the sample 7 has"),
        (["\ud800", 512, 10, 0, {}], "the sample .* has"),
        (["a", 512, 10, 0], "not the index of a shard"),
    ],
)
def test_an_index_names_nothing_but_members_of_its_shard(tmp_path, sample, message):
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    index = {"format": "nlvideo-shard-1", "bytes": 10240, "samples": [sample]}
    (tmp_path / "x.tar.index").write_text(json.dumps(index))
    if message is None:
        assert len(get_dataset(f"wds:{tmp_path}/x.tar")) == 1
        return
    with pytest.raises(ValueError, match=f"x.tar.index: {message}") as caught:
        get_dataset(f"wds:{tmp_path}/x.tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pipe", ["x.tar", "x.tar.index", "classes.txt"])
def test_pipes_are_not_waited_for(tmp_path, records, pipe):
    write_shards(records[:1], [f"{tmp_path}/x.tar"], classes=["a"])
    os.unlink(tmp_path / pipe)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(ValueError, match=f"{tmp_path}/{pipe}: expected a file, found a pipe"):
        get_dataset(f"wds:{tmp_path}/x.tar")


def test_missing_shards(tmp_path):
    with pytest.raises(ValueError, match=f"5 of 5 shards do not exist: {tmp_path}/0.tar, .*/3.tar and 1 more$"):
        get_dataset(f"wds:{tmp_path}/{{0..4}}.tar")


def test_writing_goes_on_where_it_was(records, tmp_path, monkeypatch):
    paths = expand_pattern(f"{tmp_path}/out/{{0..3}}.tar")
    broken = [record | ({"file_name": "/nothing.mp4"} if i == 9 else {}) for i, record in enumerate(records)]
    with pytest.raises(FileNotFoundError):
        write_shards(broken, paths, shuffle_seed=None)
    there = sorted(os.listdir(tmp_path / "out"))
    assert there == ["0.tar", "0.tar.index", "1.tar", "1.tar.index", "2.tar", "2.tar.index"], "no rests"
    before = {name: os.stat(tmp_path / "out" / name).st_mtime_ns for name in there}
    os.unlink(tmp_path / "out/1.tar.index")  # such as one that is not of this program
    with pytest.raises(ValueError, match="without an index: .*/1.tar; --overwrite replaces them"):
        write_shards(records, paths, shuffle_seed=None)
    os.unlink(tmp_path / "out/1.tar")
    made = write_shards(records, paths, shuffle_seed=None, num_workers=2)
    assert (made.written, made.kept) == ([paths[1], paths[3]], [paths[0], paths[2]])
    assert os.stat(paths[0]).st_mtime_ns == before["0.tar"]
    assert [r["video_id"] for r in get_dataset(f"wds:{tmp_path}/out/{{0..3}}.tar")] == [r["video_id"] for r in records]
    with pytest.raises(ValueError, match="shards with other videos or without an index: .*/0.tar, .*/3.tar; "):
        write_shards(records, paths)
    assert len(write_shards(records, paths, overwrite=True).written) == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_between_a_shard_and_its_index_leaves_no_shard(records, tmp_path, monkeypatch, overwrite):
    if overwrite:
        write_shards(records[::-1], [f"{tmp_path}/0.tar"], shuffle_seed=None)

    def killed(path, text):
        write_text(path, text)
        raise OSError("killed")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(shard_files, "write_text", killed)
        write_shards(records, [f"{tmp_path}/0.tar"], shuffle_seed=None, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["0.tar.index"]
    assert len(write_shards(records, [f"{tmp_path}/0.tar"], shuffle_seed=None).written) == 1
    assert [r["video_id"] for r in get_dataset(f"wds:{tmp_path}/0.tar")] == [r["video_id"] for r in records]


def test_a_video_may_have_more_than_8_gib(tmp_path, monkeypatch):
    with open(tmp_path / "a.mp4", "wb") as file:
        file.truncate(9 << 30)  # no disk is used
    monkeypatch.setattr(tarfile, "copyfileobj", lambda *arguments, **options: None)
    record = {"file_name": f"{tmp_path}/a.mp4", "label": 0, "video_id": "a"}
    shard_files.write_shard(f"{tmp_path}/a.tar", [record], 0)
    header = (tmp_path / "a.tar").read_bytes()[: tarfile.BLOCKSIZE]
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == 9 << 30


def test_a_shard_whose_video_has_changed_is_not_kept(tmp_path, make_video):
    records = [{"file_name": f"{tmp_path}/{i}.mp4", "label": 0, "video_id": str(i)} for i in range(2)]
    for record in records:
        make_video(Path(record["file_name"]), num_frames=3)
    paths = [f"{tmp_path}/out/0.tar", f"{tmp_path}/out/1.tar"]
    write_shards(records, paths, shuffle_seed=None)
    make_video(tmp_path / "1.mp4", num_frames=9)
    os.unlink(tmp_path / "0.mp4")  # what is gone has not changed
    with pytest.raises(ValueError, match="without an index: .*/out/1.tar; "):
        write_shards(records, paths, shuffle_seed=None)
    assert write_shards(records, paths, shuffle_seed=None, overwrite=True).written == paths[1:]


def test_writing_refuses_what_cannot_be(records, tmp_path, make_frames):
    with pytest.raises(ValueError, match="got 12 shards for 11 videos, allowed: 1 to 11 shards"):
        write_shards(records, expand_pattern(f"{tmp_path}/{{00..11}}.tar"))
    with pytest.raises(ValueError, match="shards: got 's3://bucket/x-0.tar', allowed: a local path"):
        write_shards(records, expand_pattern("s3://bucket/x-{0..9}.tar"))
    with pytest.raises(ValueError, match="shards: got a.tar twice, allowed: each name once"):
        write_shards(records, expand_pattern("{b,a,a}.tar"))
    frames = {"file_name": make_frames(tmp_path / "frames"), "label": 0, "video_id": "f"}
    with pytest.raises(ValueError, match="f: .*/frames is a folder; shards hold video files"):
        write_shards([frames], [f"{tmp_path}/a.tar"])
    (tmp_path / "classes.txt").write_text("other\n")
    with pytest.raises(ValueError, match="classes.txt names other classes; --overwrite replaces it"):
        write_shards(records, [f"{tmp_path}/a.tar"], classes=["x"])


class Sized(list):
    """Records that come in shards."""

    def __init__(self, sizes):
        super().__init__({"label": 0} for _ in range(sum(sizes)))
        self.shard_sizes = np.array(sizes)


def epoch_of(sampler, epoch, size):
    """The indices of an epoch."""
    return [sampler.index_at(epoch * size + i) for i in range(size)]


def test_shards_are_read_one_after_the_other():
    sizes = [50, 0, 30, 120]
    shard_of = np.repeat(range(4), sizes)
    ordered = epoch_of(ShardSampler(Sized(sizes), buffer=1), 0, 200)
    assert sorted(ordered) == list(range(200))
    runs = [(shard, list(run)) for shard, run in itertools.groupby(ordered, key=lambda index: shard_of[index])]
    assert len(runs) == 3 and all(run == sorted(run) for _, run in runs)
    shuffled = ShardSampler(Sized(sizes), buffer=20)
    for epoch in range(3):
        indices = epoch_of(shuffled, epoch, 200)
        place = {index: i for i, index in enumerate(epoch_of(ShardSampler(Sized(sizes), buffer=1), epoch, 200))}
        distances = [abs(i - place[index]) for i, index in enumerate(indices)]
        assert sorted(indices) == list(range(200)) and 5 < max(distances) < 20
    assert epoch_of(shuffled, 0, 200) != epoch_of(shuffled, 1, 200)
    assert sorted(epoch_of(ShardSampler([{"label": 0}] * 9), 0, 9)) == list(range(9)), "no shards are one"


def test_the_sampler_is_chosen_for_shards(shards, records):
    DatasetCatalog.register("plain_beside_shards", lambda: records)
    cfg = make_cfg(shards)
    assert isinstance(build_train_loader(cfg).loader.sampler, ShardSampler)
    assert build_train_loader(cfg).loader.sampler.buffer == 4
    cfg.DATASETS.TRAIN = [shards, "plain_beside_shards"]
    assert not isinstance(build_train_loader(cfg).loader.sampler, ShardSampler)
    cfg.DATALOADER.SAMPLER = "ShardSampler"
    assert build_train_loader(cfg).loader.sampler.shard_sizes.tolist() == [3, 4, 4, 11]
    assert SAMPLER.get("ShardSampler")(chain_records([records, records])).shard_sizes.tolist() == [11, 11]


def make_cfg(name, *options):
    """A config of clips of 4 x 1 frames, crop 24, four clips per batch."""
    cfg = get_cfg()
    cfg.merge_from_list([
        "DATASETS.TRAIN", [name], "DATASETS.TEST", [name], "MODEL.HEAD.NUM_CLASSES", 3, "SOLVER.CLIPS_PER_BATCH", 4,
        "INPUT.NUM_FRAMES", 4, "INPUT.FRAME_STRIDE", 1, "INPUT.SHORT_SIDE_RANGE", [24, 32], "INPUT.CROP_SIZE", 24,
        "TEST.SHORT_SIDE", 32, "TEST.CROP_SIZE", 32, "TEST.NUM_CLIPS", 2, "DATALOADER.NUM_WORKERS", 0,
        "DATALOADER.SHUFFLE_BUFFER", 4, *options,
    ])  # fmt: skip
    return cfg


def test_the_stream_depends_on_the_seed_alone(shards):
    whole = list(itertools.islice(build_train_loader(make_cfg(shards)), 8))
    assert sorted([name for batch in whole for name in batch["video_id"]][:11]) == sorted(
        f"v/{i}.mp4" for i in range(11)
    )
    for cfg, start in [(make_cfg(shards, "DATALOADER.NUM_WORKERS", 2), 0), (make_cfg(shards), 5)]:
        for batch, expected in zip(itertools.islice(build_train_loader(cfg, start), 8 - start), whole[start:]):
            assert batch["video_id"] == expected["video_id"] and torch.equal(batch["video"], expected["video"])


def test_testing_takes_every_video_once(shards):
    batches = list(build_test_loader(make_cfg(shards, "DATALOADER.NUM_WORKERS", 1), shards))
    assert sorted(batch[0]["video_id"] for batch in batches) == sorted(f"v/{i}.mp4" for i in range(11))
    assert not any(batch[0]["failed"] for batch in batches)


def test_broken_videos_in_shards_fail_like_others(tmp_path, records):
    (tmp_path / "bad.mp4").write_bytes(b"nonsense" * 100)
    some = [*records[:3], {"file_name": f"{tmp_path}/bad.mp4", "label": 0, "video_id": "bad"}]
    write_shards(some, [f"{tmp_path}/x.tar"], shuffle_seed=None)
    batches = list(build_test_loader(make_cfg(f"wds:{tmp_path}/x.tar"), f"wds:{tmp_path}/x.tar"))
    assert [batch[0]["failed"] for batch in batches] == [False, False, False, True]
    assert f"{tmp_path}/x.tar" in batches[3][0]["file_name"]
