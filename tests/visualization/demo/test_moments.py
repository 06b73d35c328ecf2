"""What is asked of the model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nlvideo.model_zoo import Predictor
from nlvideo.modeling import NONLOCAL
from nlvideo.visualization import attend
from nlvideo.visualization.demo.moments import MAX_MOMENTS, Inspector
from nlvideo.visualization.demo.uploads import Limits, VideoFacts, check_upload


def facts_of(num_frames, fps=10):
    return VideoFacts("a.mp4", num_frames / fps if fps else 0.0, np.arange(num_frames) / (fps or np.inf), 64, 64)


def test_frames_that_come_at_any_rate(inspector):
    """Twelve frames in the first half of a second, then eight in as many seconds: both halves are seen as they are."""
    times = np.array([*np.arange(12) / 24, *np.arange(8) + 0.5])
    windows = inspector.windows(VideoFacts("a.mp4", 8.5, times, 64, 64))
    assert [times.tolist().index(start) for start, _ in windows] == [0, 6, 12]
    assert [end for _, end in windows] == [times[8], times[14], 8.5]


def test_blocks_and_classes_are_those_of_the_model(inspector):
    assert inspector.blocks == ["res2.0"] and len(inspector.predictor.classes) == 8


def test_blocks_without_weights_are_left_to_grad_cam():
    names = ["GlobalReasoning", "CompactGeneralizedNonLocal", "NonLocalBlock", "AxialNonLocal", "RegionNonLocal"]
    model = torch.nn.ModuleDict({name: NONLOCAL.get(name)(16) for name in names})
    shown = Inspector(SimpleNamespace(model=model))
    assert shown.blocks == names[2:] and shown.methods == [*names[2:], "Grad-CAM"]


@pytest.mark.parametrize("num_frames, fps", [(8, 10), (3, 10), (100, 0)])
def test_a_video_of_one_clip_is_one_moment(inspector, num_frames, fps):
    facts = facts_of(num_frames, fps)
    assert inspector.windows(facts) == [(0.0, facts.seconds)]


def test_moments_follow_each_other_to_the_end(inspector):
    windows = inspector.windows(facts_of(40))
    assert [start for start, _ in windows] == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])
    assert [end for _, end in windows] == pytest.approx([0.8, 1.6, 2.4, 3.2, 4.0])


def test_a_rest_makes_the_moments_overlap(inspector):
    windows = inspector.windows(facts_of(12))
    assert [second for window in windows for second in window] == pytest.approx([0.0, 0.8, 0.4, 1.2])


@pytest.mark.parametrize("fps", [10, 25])
def test_moments_by_time_are_the_same_for_every_rate(tmp_path, make_video, clips, fps):
    """Eight frames at 16 a second are half a second of any video, and a moment shows the frames of its half second."""
    predictor = Predictor("quickstart", device="cpu", opts=["INPUT.FPS", "16"])
    path = make_video(tmp_path / "a.mp4", num_frames=2 * fps, fps=fps, height=64, width=64)
    facts = check_upload(path, Limits())
    inspector = Inspector(predictor)
    windows = inspector.windows(facts)
    assert [second for window in windows for second in window] == pytest.approx([0, 0.5, 0.5, 1, 1, 1.5, 1.5, 2])
    for (start, end), moment in zip(windows, inspector.moments(Path(path), facts), strict=True):
        nominal = start + np.arange(8) / 16
        first = facts.frame_seconds[facts.frame_seconds >= start - 1e-6][0]
        assert first == moment.seconds[0] and max(moment.seconds) < end
        assert np.abs(np.array(moment.seconds) - nominal).max() < 1 / fps


def test_a_long_video_has_moments_spread_over_it(inspector):
    windows = inspector.windows(facts_of(10_000))
    assert len(windows) == MAX_MOMENTS and windows[0][0] == 0 and windows[-1][1] == pytest.approx(1000)
    assert all(end - start == pytest.approx(0.8) for start, end in windows)


def test_each_moment_is_scored_for_itself(inspector, clips):
    path = clips[-1]
    moments = list(inspector.moments(path, check_upload(path, Limits())))
    assert [moment.top[0][0] for moment in moments] == [clip.stem for clip in clips[:-1]]
    assert moments[1].seconds == pytest.approx([0.8 + 0.1 * i for i in range(8)])
    for moment in moments:
        assert moment.clip.shape == (3, 8, 64, 64) and moment.clip.dtype == torch.uint8
        scores = [score for _, score in moment.top]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True) and scores[0] > 0.5


def test_what_is_scored_is_what_is_shown(inspector, clips):
    moment = next(inspector.moments(clips[0], check_upload(clips[0], Limits())))
    result = inspector.predictor.model([{"video": moment.clip[None], "video_id": ""}])
    assert inspector.predictor.best(result[0]["scores"]) == moment.top


def test_attention_of_a_position(inspector, clips):
    clip = next(inspector.moments(clips[0], check_upload(clips[0], Limits()))).clip
    position = inspector.strongest_position(clip, "res2.0")
    assert all(0 <= p < n for p, n in zip(position, clip.shape[1:]))
    maps = attend(inspector.predictor.model, clip, "res2.0", [position])
    assert maps.weights.shape[0] == 1 and maps.weights.sum() == pytest.approx(1, abs=1e-4)
    assert (maps.frames == clip.permute(1, 2, 3, 0).numpy()).all()


def test_a_block_that_adds_nothing_is_asked_about_the_middle(clips):
    from nlvideo.config import load_cfg
    from nlvideo.model_zoo import get_config_file
    from nlvideo.modeling import build_model

    class Untrained:
        cfg = load_cfg(get_config_file("quickstart/i3d_nl.yaml"), ["MODEL.DEVICE", "cpu"])
        model = build_model(cfg).eval()  # blocks start as the identity
        classes = tuple(map(str, range(8)))

    inspector = Inspector(Untrained())
    assert inspector.strongest_position(torch.zeros(3, 8, 64, 64, dtype=torch.uint8), "res2.0") == (4, 32, 32)
