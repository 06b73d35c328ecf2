"""The stream of training clips with every augmentation on: the same bytes whatever reads it, and wherever it begins."""

import itertools

import numpy as np
import pytest
import torch

from nlvideo.config import load_cfg
from nlvideo.data import VideoReader, build_train_loader
from nlvideo.data.clip_sampling import RandomClip
from nlvideo.data.dataset_mapper import VideoMapper
from nlvideo.data.loaders import TrainDataset
from nlvideo.data.transforms.augmentation import flip
from nlvideo.data.transforms.clip_augmentations import augment_clip, build_clip_augmentations
from nlvideo.utils import comm

NUM_VIDEOS = 9
EVERYTHING = [
    "INPUT.FPS", "7", "INPUT.REPEATED_CLIPS", "2", "INPUT.CROP_AREA_RANGE", "[0.3, 1.0]",
    "INPUT.COLOR_JITTER.BRIGHTNESS", "0.4", "INPUT.COLOR_JITTER.CONTRAST", "0.4",
    "INPUT.COLOR_JITTER.SATURATION", "0.4", "INPUT.COLOR_JITTER.HUE", "0.1",
    "INPUT.RAND_AUGMENT.NUM_OPS", "2", "INPUT.RANDOM_ERASING.PROB", "0.5",
    "INPUT.RANDOM_ERASING.LENGTH_RANGE", "[0.5, 1.0]", "SOLVER.MIX.MIXUP_ALPHA", "0.8",
    "SOLVER.MIX.CUTMIX_ALPHA", "1.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory, make_video):
    """A list of eight videos of noise of three classes, and one that is broken."""
    root = tmp_path_factory.mktemp("videos")
    lines = [f"{i}.mp4 {i % 3}\n" for i in range(NUM_VIDEOS)]
    for i in range(NUM_VIDEOS - 1):
        make_video(root / f"{i}.mp4", num_frames=10 + i)
    (root / f"{NUM_VIDEOS - 1}.mp4").write_bytes(b"nonsense")
    (root / "train.txt").write_text("".join(lines))
    return f"list:{root / 'train.txt'}"


@pytest.fixture
def cfg_of(videos):
    """``cfg_of("KEY", "VALUE", ...)``: clips of 4 x 2 frames at 24 px, four to a batch."""

    def build(*opts):
        """Load it."""
        return load_cfg(None, [
            "DATASETS.TRAIN", str([videos]), "MODEL.HEAD.NUM_CLASSES", "3", "SOLVER.CLIPS_PER_BATCH", "4",
            "INPUT.NUM_FRAMES", "4", "INPUT.SHORT_SIDE_RANGE", "[24, 32]", "INPUT.CROP_SIZE", "24",
            "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu", *opts,
        ])  # fmt: skip

    return build


def take(cfg, count, start_iter=0):
    """The first batches of the stream, as bytes and plain lists."""
    batches = itertools.islice(build_train_loader(cfg, start_iter), count)
    return [(b["video"].numpy().tobytes(), b["label"].tolist(), b["video_id"], b["failed"]) for b in batches]


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_change_nothing(cfg_of, num_workers):
    expected = take(cfg_of(*EVERYTHING), 6)
    assert take(cfg_of(*EVERYTHING, "DATALOADER.NUM_WORKERS", str(num_workers)), 6) == expected
    assert any(failed for *_, failed in expected), "the broken video is among them"
    assert any(0 < share < 1 for _, label, *_ in expected for row in label for share in row), "batches are mixed"


def test_threads_change_nothing(cfg_of):
    threads = torch.get_num_threads()
    streams = []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            streams.append(take(cfg_of(*EVERYTHING), 3))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert streams[0] == streams[1]


def test_augmentations_run_on_one_thread(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    assert augment_clip(frames, [lambda frames, rng: seen.append("augment") or frames], None) is frames
    assert seen == [1, "augment", 7]
    assert augment_clip(frames, [], None) is frames and len(seen) == 3


@pytest.mark.parametrize("more", [[], ["SOLVER.ACCUMULATE", "2"], ["DATALOADER.SAMPLER", "ClassBalancedSampler"]])
@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_resuming_continues_the_stream(cfg_of, more, num_workers):
    more = ["SOLVER.CLIPS_PER_BATCH", "8", *more] if "SOLVER.ACCUMULATE" in more else more
    per_iteration = 2 if "SOLVER.ACCUMULATE" in more else 1
    cfg = cfg_of(*EVERYTHING, *more, "DATALOADER.NUM_WORKERS", num_workers)
    whole = take(cfg, 8 * per_iteration)
    assert take(cfg, 3 * per_iteration, start_iter=5) == whole[5 * per_iteration :]


def test_repeated_clips_are_neighbours_and_clips_per_batch_counts_them(cfg_of):
    for repeated in (1, 2, 4):
        for _, label, ids, _ in take(cfg_of("INPUT.REPEATED_CLIPS", str(repeated)), 4):
            assert len(ids) == len(label) == 4
            groups = [ids[i : i + repeated] for i in range(0, 4, repeated)]
            assert all(len(set(group)) == 1 for group in groups)
    batches = take(cfg_of("INPUT.REPEATED_CLIPS", "2"), 9)
    videos = [video for *_, ids, _ in batches for video in ids[::2]]
    # An epoch is every video once, but for the broken one, whose place another takes.
    assert {f"{i}.mp4" for i in range(NUM_VIDEOS - 1)} == set(videos[:9]) == set(videos[9:])


def test_ranks_share_the_stream_of_repeated_clips(cfg_of, monkeypatch):
    # Labels come from mixing within a rank; the clips themselves are shared out.
    cfg = cfg_of(*EVERYTHING[:-4])
    whole = [pair for b in itertools.islice(build_train_loader(cfg), 2) for pair in b["video"].split(2)]
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ranks = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        ranks.append([b["video"] for b in itertools.islice(build_train_loader(cfg), 2)])
    assert all(torch.equal(one, other) for one, other in zip(whole, [v for step in zip(*ranks) for v in step]))


def test_the_clips_of_a_video_differ_and_cost_one_decode(make_video, tmp_path, frame_index, monkeypatch):
    record = {"file_name": make_video(tmp_path / "a.mp4", num_frames=60), "label": 2, "video_id": "a"}
    asked, read = [], VideoReader.get_frames
    monkeypatch.setattr(VideoReader, "get_frames", lambda self, wanted: asked.append(wanted) or read(self, wanted))
    sampler = RandomClip(4, 2, num_clips=3)
    mapper = VideoMapper(is_train=True, clip_sampler=sampler, short_side_range=(24, 40), crop_size=24)
    samples = mapper(record, np.random.default_rng(0))
    assert len(asked) == 1 and asked[0] == sorted(set(asked[0]))
    assert [(s["label"], s["video_id"], tuple(s["video"].shape)) for s in samples] == [(2, "a", (3, 4, 24, 24))] * 3
    starts = [frame_index(s["video"][:, 0].permute(1, 2, 0).numpy()) for s in samples]
    assert starts == [clip[0] for clip in sampler(60, np.random.default_rng(0))] and len(set(starts)) == 3


def test_each_repeated_clip_has_the_labels_that_are_active_in_it(make_video, tmp_path, frame_index):
    record = {"file_name": make_video(tmp_path / "a.mp4", num_frames=40), "label": [0, 1], "video_id": "a",
              "label_spans": [(0, 0.0, 1.95), (1, 2.0, 4.0)]}  # fmt: skip
    sampler = RandomClip(2, 1, num_clips=6)
    mapper = VideoMapper(is_train=True, clip_sampler=sampler, short_side_range=(24, 24), crop_size=24, num_classes=2)
    samples = mapper(record, np.random.default_rng(1))
    for sample in samples:
        first, last = (frame_index(frame) for frame in sample["video"].permute(1, 2, 3, 0).numpy())
        assert sample["label"].tolist() == [float(first < 20), float(last >= 20)]
    assert len({tuple(sample["label"].tolist()) for sample in samples}) > 1


def test_a_mapper_that_knows_nothing_of_repeated_clips_is_told():
    def mapper(record, rng):
        return {"video": torch.zeros(3, 1, 2, 2), "label": 0, "video_id": "a"}

    error = TrainDataset([{"file_name": "a"}], mapper, 0, repeated_clips=2)[(0, 0)]
    expected = "INPUT.REPEATED_CLIPS: got 2, allowed: 1, because the mapper function makes 1 of each video"
    assert isinstance(error, ValueError) and str(error) == expected


def test_the_order_is_fixed_and_drawn_from_one_generator(make_video, tmp_path):
    log = []

    def step(name):
        def augment(frames, rng):
            log.append((name, tuple(frames.shape), rng.random()))
            return frames

        return augment

    record = {"file_name": make_video(tmp_path / "a.mp4", num_frames=9), "label": 2, "video_id": "a"}
    sampler = RandomClip(4, 2)
    mapper = VideoMapper(is_train=True, clip_sampler=sampler, short_side_range=(24, 40), crop_size=24,
                         augmentations=[step("a"), step("b")])  # fmt: skip
    mapper(record, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    # Clip, short side, top, left, flip: what a clip without further augmentations draws, in this order.
    sampler(9, rng)
    short_side = rng.integers(24, 40, endpoint=True)
    rng.integers(0, short_side - 24, endpoint=True)
    rng.integers(0, 48 * short_side // 32 - 24, endpoint=True)
    rng.random()
    assert log == [(name, (4, 24, 24, 3), rng.random()) for name in "ab"]


def test_nothing_is_on_by_default(cfg_of):
    cfg = cfg_of()
    assert build_clip_augmentations(cfg) == []
    mapper = VideoMapper(cfg, True)
    assert (mapper.crop_area_range, mapper.augmentations, mapper.clip_sampler.num_clips) == (None, [], 1)
    label = next(build_train_loader(cfg))["label"]
    assert label.dtype == torch.int64


def test_what_a_config_switches_on(cfg_of):
    cfg = cfg_of(*EVERYTHING, "MODEL.PIXEL_MEAN", "[10.0, 20.4, 30.0]")
    kinds = build_clip_augmentations(cfg)
    assert [type(kind).__name__ for kind in kinds] == ["ColorJitter", "RandAugment", "RandomErasing"]
    assert len(kinds[0].steps) == 4 and kinds[1].fill == [10, 20, 30] and kinds[1].magnitude == 9
    assert (kinds[2].prob, list(kinds[2].length_range)) == (0.5, [0.5, 1.0])
    train, test = VideoMapper(cfg, True), VideoMapper(cfg, False)
    assert train.crop_area_range == [0.3, 1.0] and train.clip_sampler.num_clips == 2
    assert test.augmentations == [] and test.clip_sampler.num_clips == 10


def test_flip_is_before_what_follows(make_video, tmp_path):
    record = {"file_name": make_video(tmp_path / "a.mp4", num_frames=9), "label": 2, "video_id": "a"}
    seen = []
    options = {"is_train": True, "clip_sampler": RandomClip(4, 2), "short_side_range": (24, 24), "crop_size": 24}
    for prob in (0.0, 1.0):
        mapper = VideoMapper(
            **options, flip_prob=prob, augmentations=[lambda frames, rng: seen.append(frames) or frames]
        )
        mapper(record, np.random.default_rng(0))
    assert torch.equal(flip(seen[0]), seen[1]) and not torch.equal(seen[0], seen[1])
