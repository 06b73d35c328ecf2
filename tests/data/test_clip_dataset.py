"""Records in shared memory, replacement of failures, collation."""

import pytest
import torch

from nlvideo.data.catalog import source_of
from nlvideo.data.loaders import TestDataset, TrainDataset, collate_train
from nlvideo.errors import VideoDecodeError, VideoTooShort

RECORDS = [{"file_name": f"/{i}.mp4", "label": i % 3, "video_id": str(i)} for i in range(6)]


class FakeMapper:
    """Makes a tiny sample of a record, or fails for the files named."""

    def __init__(self, bad=(), short=()):
        self.bad, self.short = bad, short

    def __call__(self, record, rng):
        if record["file_name"] in self.bad:
            raise VideoDecodeError(record["file_name"], "broken")
        if record["file_name"] in self.short:
            raise VideoTooShort(5 + int(record["video_id"]), 20)
        value = int(rng.integers(256)) if rng is not None else 0
        return {"video": torch.full((3, 1, 2, 2), value), "label": record["label"], "video_id": record["video_id"]}


def test_chance_comes_from_seed_and_position():
    def video(seed, position):
        return TrainDataset(RECORDS, FakeMapper(), seed)[(2, position)][0]["video"][0, 0, 0, 0].item()

    assert video(0, 5) == video(0, 5)
    assert len({video(0, position) for position in range(20)}) > 10
    assert [video(0, position) for position in range(5)] != [video(1, position) for position in range(5)]


def test_a_failure_is_replaced_and_reported():
    dataset = TrainDataset(RECORDS, FakeMapper(bad=("/2.mp4", "/3.mp4"), short=("/4.mp4",)), seed=0)
    replaced = set()
    for position in range(30):
        (sample,), (again,) = dataset[(2, position)], dataset[(2, position)]
        assert sample["video_id"] == again["video_id"] and torch.equal(sample["video"], again["video"])
        assert sample["failed"][0] == ("/2.mp4", "broken")
        assert all(path in ("/2.mp4", "/3.mp4", "/4.mp4") for path, _ in sample["failed"])
        replaced.add(sample["video_id"])
    assert replaced == {"0", "1", "5"}
    assert dataset[(0, 0)][0]["failed"] == []


def test_what_a_failed_video_drew_changes_nothing():
    class DrawsFirst(FakeMapper):
        def __call__(self, record, rng):
            if record["file_name"] in self.bad:
                rng.integers(256, size=3)
            return super().__call__(record, rng)

    for position in range(10):
        (one,), (other,) = (
            TrainDataset(RECORDS, mapper(bad=("/2.mp4",)), 0)[(2, position)] for mapper in (FakeMapper, DrawsFirst)
        )
        assert one["video_id"] == other["video_id"] and torch.equal(one["video"], other["video"])


def test_nothing_usable_is_one_line():
    paths = [record["file_name"] for record in RECORDS]
    error = TrainDataset(RECORDS, FakeMapper(bad=paths), 0)[(0, 0)]
    assert isinstance(error, ValueError) and "\n" not in str(error)
    assert str(error).startswith("none of 6 videos tried in a row could be used; the last: /")
    assert str(error).endswith("mp4: broken")
    error = TrainDataset(RECORDS, FakeMapper(short=paths), 0)[(0, 0)]
    assert str(error).startswith("every video tried (6) is shorter than a clip: a clip needs 20 frames")
    assert (
        "(INPUT.NUM_FRAMES, INPUT.FRAME_STRIDE), the longest" in str(error)
        and "INPUT.SHORT_VIDEO" in str(error)
        and "\n" not in str(error)
    )


def test_other_errors_are_not_swallowed():
    class Buggy(FakeMapper):
        def __call__(self, record, rng):
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        TrainDataset(RECORDS, Buggy(), 0)[(0, 0)]
    with pytest.raises(TypeError, match="a bug"):
        TestDataset(RECORDS, Buggy())[0]


def test_at_test_a_failure_keeps_its_place():
    dataset = TestDataset(RECORDS, FakeMapper(bad=("/2.mp4",), short=("/4.mp4",)))
    assert [dataset[i]["failed"] for i in range(6)] == [False, False, True, False, True, False]
    failed = dataset[2]
    assert failed["video"] is None and failed["label"] == 2 and failed["video_id"] == "2"
    assert str(failed["error"]) == "/2.mp4: broken" and str(dataset[4]["error"]).startswith("the video has 9 frames")


def test_at_test_a_sample_says_where_its_video_is():
    records = [{**RECORDS[0], "start_sec": 0.0, "end_sec": 4.5, "label_spans": []}, RECORDS[2]]
    first, second = (TestDataset(records, FakeMapper(bad=("/2.mp4",)))[i] for i in range(2))
    assert source_of(first) == {"file_name": "/0.mp4", "start_sec": 0.0, "end_sec": 4.5}
    assert second["failed"] and source_of(second) == {"file_name": "/2.mp4"}


def test_collation():
    dataset = TrainDataset(RECORDS, FakeMapper(bad=("/2.mp4",)), 0)
    batch = collate_train([dataset[(index, index)] for index in (0, 1, 2)])
    assert batch["video"].shape == (3, 3, 1, 2, 2) and batch["label"].dtype == torch.int64
    assert batch["video_id"][:2] == ["0", "1"] and batch["label"][:2].tolist() == [0, 1]
    assert batch["num_failed"] == 1 and batch["failed"] == [("/2.mp4", "broken")]
    error = ValueError("nothing works")
    assert collate_train([dataset[(0, 0)], error]) is error


def test_collation_of_label_vectors():
    samples = [{"video": torch.zeros(1), "label": torch.eye(3)[i], "video_id": str(i), "failed": []} for i in range(2)]
    assert torch.equal(collate_train([samples])["label"], torch.eye(3)[:2])
