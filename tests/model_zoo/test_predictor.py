"""Predictions from Python: the scores of the test, whatever form the video has."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import nlvideo
from nlvideo.config import CfgNode
from nlvideo.data import VideoDecodeError, VideoReader, VideoTooShort, build_test_loader, open_video
from nlvideo.data.datasets.beacon_render import ACTIONS
from nlvideo.model_zoo import Predictor, get_config
from nlvideo.visualization.video_file import LabelledVideo


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor("quickstart", device="cpu", opts=["TEST.NUM_CLIPS", "2"])


def test_scores_are_those_of_the_test(predictor: Predictor, beacon: Path) -> None:
    cfg: CfgNode = predictor.cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    for number, videos in enumerate(build_test_loader(cfg, f"list:{beacon}/val.csv")):
        with torch.no_grad():
            (expected,) = predictor.model(videos)
        scores = predictor.scores(beacon / videos[0]["video_id"])
        assert scores.shape == (8,) and scores.dtype == torch.float32 and not scores.requires_grad
        assert scores.sum().item() == pytest.approx(1, abs=1e-5)
        assert torch.equal(scores, expected["scores"])
        if number == 4:
            break


def test_frames_in_memory_score_like_the_file(predictor: Predictor, clip: str) -> None:
    with VideoReader(clip) as video:
        frames = video.get_frames(range(video.num_frames))
    expected = predictor.scores(clip)
    for given in (frames, torch.from_numpy(frames), Path(clip)):
        assert torch.equal(predictor.scores(given), expected)
    assert not torch.equal(predictor.scores(np.ascontiguousarray(frames[::-1])), expected)


def test_a_folder_of_frames_is_a_video(predictor: Predictor, make_frames, tmp_path: Path) -> None:
    assert predictor.scores(make_frames(tmp_path / "frames", num_frames=8, height=64, width=80)).shape == (8,)


def test_many_videos_have_their_scores_or_errors_in_order(predictor: Predictor, beacon: Path, tmp_path: Path) -> None:
    videos = [str(path) for path in sorted(beacon.rglob("*.mp4"))[:3]]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    given = [videos[0], str(tmp_path / "broken.mp4"), np.zeros((4, 9, 9), np.uint8), videos[1], videos[2], videos[0]]
    first, broken, wrong, *others = predictor.scores_of_each(given)
    for scores, video in zip([first, *others], [videos[0], videos[1], videos[2], videos[0]], strict=True):
        assert torch.equal(scores, predictor.scores(video))
    assert isinstance(broken, VideoDecodeError) and isinstance(wrong, ValueError)
    assert list(predictor.scores_of_each([])) == []


def test_the_next_video_is_read_while_the_network_works(
    predictor: Predictor, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits for the other would never end; and no more than one video waits."""
    read, score, begun = predictor._mapper, predictor._score, [threading.Event() for _ in range(4)]

    def note(record: dict, rng: None) -> dict:
        begun[next(number for number, event in enumerate(begun) if not event.is_set())].set()
        return read(record, rng)

    def wait_for_the_next(sample: dict) -> torch.Tensor:
        number = next(numbers)
        assert number == 3 or begun[number + 1].wait(60), "the next video is not read"
        assert not any(event.is_set() for event in begun[number + 2 :])
        return score(sample)

    numbers = iter(range(4))
    monkeypatch.setattr(predictor, "_mapper", note)
    monkeypatch.setattr(predictor, "_score", wait_for_the_next)
    assert all(isinstance(scores, torch.Tensor) for scores in predictor.scores_of_each([clip] * 4))


def test_views_are_counted_as_they_are_scored(predictor: Predictor, clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor.model, "views_per_forward", 2)
    counts: list[tuple[int, int]] = []
    scores = predictor.scores(clip, lambda done, total: counts.append((done, total)))
    total = counts[0][1]
    assert total > 2 and counts == [(done, total) for done in (*range(0, total, 2), total)]
    assert torch.equal(scores, predictor.scores(clip))
    assert not predictor.model.backbone._forward_hooks
    # Another architecture may have no such part: its views are not counted, and it predicts all the same.
    monkeypatch.setattr(predictor, "model", lambda videos: [{"scores": torch.ones(8)}])
    assert predictor.scores(clip, pytest.fail).tolist() == [1.0] * 8


def test_the_best_come_first_with_their_names(predictor: Predictor, clip: str) -> None:
    scores = predictor.scores(clip)
    best = predictor(clip)
    assert len(best) == 5 and [score for _, score in best] == sorted(scores.tolist(), reverse=True)[:5]
    assert all(score == scores[ACTIONS.index(name)].item() for name, score in best)
    assert predictor(clip, top_k=1) == best[:1] and len(predictor(clip, top_k=99)) == 8
    with pytest.raises(ValueError, match="top_k: got 0, allowed: 1 or more"):
        predictor(clip, top_k=0)


def test_several_labels_have_a_probability_each(clip: str) -> None:
    scores = Predictor("quickstart", device="cpu", opts=["MODEL.HEAD.LOSS", "sigmoid"]).scores(clip)
    assert scores.shape == (8,) and all(0 < score < 1 for score in scores.tolist())
    assert scores.sum().item() != pytest.approx(1, abs=1e-3)


def test_what_is_no_video_says_so(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match="broken.mp4"):
        predictor(tmp_path / "broken.mp4")
    with pytest.raises(VideoDecodeError, match="nowhere.mp4: no such file"):
        predictor("nowhere.mp4")
    for wrong in (np.zeros((8, 64, 64, 3), np.float32), np.zeros((64, 64, 3), np.uint8), np.zeros((0, 4, 4, 3), "u1")):
        with pytest.raises(ValueError, match=r"^frames: got .*, allowed: uint8 \(T, H, W, 3\)"):
            predictor(wrong)


@pytest.mark.parametrize("stride_sec, count", [(None, 3), (0.4, 5)])
def test_a_timeline_has_the_scores_of_the_parts(predictor: Predictor, long_video: str, stride_sec, count: int) -> None:
    timeline = predictor.timeline(long_video, stride_sec=stride_sec)
    assert len(timeline) == count
    for number, (start_sec, end_sec, scores) in enumerate(timeline):
        assert (start_sec, end_sec) == (pytest.approx(number * (stride_sec or 0.8)), pytest.approx(start_sec + 0.8))
        part = {"file_name": long_video, "start_sec": start_sec, "end_sec": end_sec, "label": 0, "video_id": "part"}
        with torch.no_grad():
            (expected,) = predictor.model([predictor._mapper(part, None)])
        assert torch.equal(scores, expected["scores"])
    found = [predictor.best(scores, 1)[0][0] for start_sec, _, scores in timeline if round(start_sec * 10) % 8 == 0]
    assert found == ["left", "clockwise", "shake"]


@pytest.mark.parametrize("fps", [5.0, 30.0])
def test_windows_by_time_hold_a_clip_and_have_the_scores_of_the_parts(long_video: str, fps: float) -> None:
    """Eight frames at 5 a second are 1.6 seconds of a video of any rate; at 30, three of its own frames or two."""
    strict = Predictor("quickstart", device="cpu", opts=["INPUT.FPS", str(fps), "INPUT.SHORT_VIDEO", "error"])
    timeline = strict.timeline(long_video)
    assert len(timeline) == {5.0: 2, 30.0: 9}[fps]
    for start_sec, end_sec, scores in timeline:
        assert end_sec - start_sec == pytest.approx(8 / fps)
        part = {"file_name": long_video, "start_sec": start_sec, "end_sec": end_sec, "label": 0, "video_id": "part"}
        with torch.no_grad():
            (expected,) = strict.model([strict._mapper(part, None)])
        assert torch.equal(scores, expected["scores"])


def test_frames_in_memory_need_their_rate_where_clips_are_by_time(long_video: str) -> None:
    predictor = Predictor("quickstart", device="cpu", opts=["INPUT.FPS", "8"])
    with VideoReader(long_video) as video:
        frames = video.get_frames(range(video.num_frames))
    expected = predictor.scores(long_video)
    assert torch.equal(predictor.scores(open_video(frames, fps=10)), expected)
    assert not torch.equal(predictor.scores(open_video(frames, fps=5)), expected)
    with pytest.raises(VideoDecodeError, match="<frames>: the frame rate is not known, because arrays do not hold it"):
        predictor.scores(frames)


def test_the_last_window_is_a_whole_one(predictor: Predictor, long_video: str) -> None:
    """The rest of 0.1 s is one frame, which says nothing however sure the network is of it."""
    timeline = predictor.timeline(long_video, window_sec=2.3, stride_sec=2.3)
    assert [(start, end) for start, end, _ in timeline] == [(0.0, 2.3), (pytest.approx(0.1), pytest.approx(2.4))]
    part = {"file_name": long_video, "start_sec": 0.1, "label": 0, "video_id": "part"}
    with torch.no_grad():
        (expected,) = predictor.model([predictor._mapper(part, None)])
    assert torch.equal(timeline[1][2], expected["scores"])


def test_windows_too_short_for_a_clip_are_left_out(long_video: str, tmp_path: Path) -> None:
    strict = Predictor("quickstart", device="cpu", opts=["INPUT.SHORT_VIDEO", "error"])
    with LabelledVideo(tmp_path / "gaps.mp4") as video:
        for seconds in (*range(10), 20, 21, *range(30, 40)):
            video.write(np.zeros((64, 64, 3), np.uint8), seconds, [])
    timeline = strict.timeline(tmp_path / "gaps.mp4", window_sec=10.0)
    assert [start for start, _, _ in timeline] == [0.0, 30.0]
    with pytest.raises(VideoTooShort, match="the video has 5 frames, a clip needs 8"):
        strict.timeline(long_video, window_sec=0.5)


def test_a_timeline_of_what_is_no_video(predictor: Predictor, long_video: str) -> None:
    with pytest.raises(VideoDecodeError, match="nowhere.mp4: no such file"):
        predictor.timeline("nowhere.mp4")
    with pytest.raises(ValueError, match="stride_sec: got 2.0, allowed: more than 0 and up to window_sec = 0.8"):
        predictor.timeline(long_video, stride_sec=2.0)


def test_there_must_be_weights() -> None:
    message = "MODEL.WEIGHTS: got '', allowed for a prediction: a checkpoint"
    for model in ("quickstart/i3d_nl", get_config("quickstart/i3d_nl")):
        with pytest.raises(ValueError, match=message):
            Predictor(model)


def test_it_is_a_name_of_the_package() -> None:
    assert nlvideo.Predictor is Predictor
    assert nlvideo.model_zoo.get is not None
    with pytest.raises(AttributeError, match="has no attribute 'Predicter'"):
        nlvideo.Predicter  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'gett'"):
        nlvideo.model_zoo.gett  # noqa: B018
