"""What happens when a visitor drops or clicks, without a browser: answers, messages, and that uploads are deleted."""

import logging
from pathlib import Path

import numpy as np
import pytest

from nlvideo.config import load_cfg
from nlvideo.model_zoo import get_config_file
from nlvideo.modeling import build_model
from nlvideo.visualization import grad_cam, heated_frames
from nlvideo.visualization.demo import handlers
from nlvideo.visualization.demo.handlers import EXPIRED, FAILED, Demo
from nlvideo.visualization.demo.moments import Inspector


def left_in(demo):
    """Files that are left where uploads arrive."""
    return [path for path in demo.uploads.path.rglob("*") if path.is_file()]


def shown(demo, index=0):
    """What a visitor looks at after a click on an example."""
    return list(demo.open_example(index))[-1].shown


def test_an_upload_is_shown_and_deleted(demo, upload, clips):
    path = upload(clips[1], "mine.mp4")
    *before, view = demo.open_upload(str(path))
    assert view.kind == "result" and {earlier.kind for earlier in before} == {"busy"}
    assert "mine.mp4: 0.8 s, 8 frames of 64 x 64" in view.message
    assert next(iter(view.scores)) == "right" and len(view.scores) == 5
    assert len(view.shown.moments) == 1 and view.frames.size == view.shown.rows.size and view.strip.width > 500
    assert view.shown.block == "res2.0" and left_in(demo) == []


def test_progress_is_said_for_each_moment(demo):
    said = [view.message for view in demo.open_example(3)]
    assert ["moment 2 of 3" in text for text in said] == [False, False, True, False, False]


def test_a_video_that_takes_long_shows_what_there_is_by_then(demo, monkeypatch):
    monkeypatch.setattr("nlvideo.visualization.demo.handlers.PATIENCE_SEC", 0.0)
    *_, view = demo.open_example(3)
    assert len(view.shown.moments) == 1 and view.scores
    assert "the first 1 of 3 moments, as this video takes long to decode" in view.message


@pytest.mark.parametrize(
    "name, content",
    [("a.mp4", b""), ("notes.txt", b"no video"), ("<b>.mp4", bytes(range(256)) * 8)],
    ids=["empty", "text", "noise"],
)
def test_bad_files_get_a_message_and_are_deleted(demo, upload, tmp_path, clips, name, content):
    (tmp_path / name).write_bytes(content)
    path = upload(tmp_path / name)
    view = list(demo.open_upload(str(path)))[-1]
    assert view.kind == "failed" and name in view.message
    assert str(demo.uploads.path) not in view.message
    # What was shown before is not the answer to this.
    assert view.scores is view.frames is view.shown is None
    assert left_in(demo) == []
    assert list(demo.open_upload(str(upload(clips[0]))))[-1].scores is not None


def test_ten_hours_are_refused_before_they_are_decoded(demo, upload, ten_hours, monkeypatch):
    monkeypatch.setattr("nlvideo.visualization.demo.uploads.VideoReader", None)
    view = list(demo.open_upload(str(upload(ten_hours))))[-1]
    assert "ten_hours.mp4: 10 h long, allowed: up to 20 s" in view.message and left_in(demo) == []


def test_a_large_file_is_refused(demo, upload, tmp_path):
    (tmp_path / "large.mp4").write_bytes(bytes(2 * 2**20))
    view = list(demo.open_upload(str(upload(tmp_path / "large.mp4"))))[-1]
    assert "large.mp4: 2 MB, allowed: up to 1 MB" in view.message and left_in(demo) == []


def test_damage_after_the_first_frame_is_said_without_paths(demo, upload, make_video, tmp_path):
    path = make_video(tmp_path / "whole.mp4", num_frames=40, gop=1)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 3 : 2 * len(data) // 3] = bytes(len(data) // 3)
    (tmp_path / "damaged.mp4").write_bytes(data)
    view = list(demo.open_upload(str(upload(tmp_path / "damaged.mp4"))))[-1]
    assert view.kind != "busy" and str(demo.uploads.path) not in view.message and left_in(demo) == []


def test_an_unexpected_error_is_logged_and_the_upload_is_deleted(demo, upload, clips, monkeypatch, caplog):
    monkeypatch.setattr(demo.inspector, "moments", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR):
        view = list(demo.open_upload(str(upload(clips[0]))))[-1]
    assert FAILED in view.message and "ZeroDivisionError" in caplog.text and left_in(demo) == []
    assert str(demo.uploads.path) not in view.message


def test_a_visitor_who_leaves_in_between(demo, upload, clips):
    views = demo.open_upload(str(upload(clips[-1])))
    next(views), next(views)
    assert len(left_in(demo)) == 1
    views.close()
    assert left_in(demo) == []


def test_files_of_the_machine_are_not_shown(demo, clips):
    view = list(demo.open_upload(str(clips[0])))[-1]
    assert "only uploaded files can be shown" in view.message and clips[0].is_file()


def test_examples_stay(demo, clips):
    assert shown(demo, 0).facts.name == "left.mp4" and clips[0].is_file()
    for index in (-1, 4, None, "0"):
        (view,) = demo.open_example(index)
        assert "there is no example" in view.message and view.kind == "mistake"


def test_another_moment_has_other_frames(demo):
    first = list(demo.open_example(3))[-1]
    assert first.shown.index == 1
    view = demo.choose_moment(first.shown, 2)
    assert view.shown.index == 2 and view.shown.moment.seconds[0] == pytest.approx(1.6)
    assert not same(view.frames, first.frames)


def same(one, other):
    """Whether two pictures are the same."""
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_click_asks_about_that_position(demo):
    start = shown(demo)
    view = demo.choose_position(start, 5, 32, 16)
    assert view.shown.position == (5, 32, 16)
    other = demo.choose_position(start, 5, 6, 57)
    assert other.shown.position == (5, 6, 57)
    assert not same(other.frames, view.frames) and not same(other.strip, view.strip)


def test_the_mark_is_at_the_position_and_a_click_on_it_means_this_position(demo):
    view = demo.choose_position(shown(demo), 5, 32, 16)
    x, y = view.shown.rows.point(5, 32.5, 16.5)
    assert np.asarray(view.frames)[int(y), int(x)].tolist() == [255, 255, 255]
    assert view.shown.rows.place(x, y) == (5, 32, 16)


def test_a_block_is_chosen_by_name(demo):
    start = shown(demo)
    assert demo.choose_block(start, "res2.0").shown == start
    view = demo.choose_block(start, "res9.0")
    assert "there is no block" in view.message and view.kind == "mistake"


@pytest.mark.parametrize(
    "t, y, x", [(8, 0, 0), (-1, 0, 0), (None, 0, 0), (0, None, 0), (0, 64, 0), (0, 0, "a"), (0, 0.5, 0)]
)
def test_positions_that_are_none(demo, t, y, x):
    view = demo.choose_position(shown(demo), t, y, x)
    assert "there is no position" in view.message and view.kind == "mistake"


def test_moments_that_are_none(demo):
    view = demo.choose_moment(shown(demo), 1)
    assert "there is no moment 1" in view.message and view.kind == "mistake"


def test_clicks_after_the_video_was_forgotten(demo):
    for view in (demo.choose_moment(None, 0), demo.choose_position(None, 0, 0, 0), demo.choose_block(None, "res2.0")):
        assert EXPIRED in view.message and view.kind == "mistake"


@pytest.fixture()
def untrained(demo, clips):
    """``untrained(config, opts) -> Demo``: the page of a network that was not trained."""

    def build(config, opts=()):
        class Untrained:
            cfg = load_cfg(get_config_file(config), ["MODEL.DEVICE", "cpu", *opts])
            model = build_model(cfg).eval()
            classes = demo.inspector.predictor.classes
            best = demo.inspector.predictor.best

            def __call__(self, video, top_k=5):
                return [("left", 1.0)]

        return Demo(Inspector(Untrained()), demo.uploads, demo.limits, clips)

    return build


def test_a_network_without_blocks_has_grad_cam(untrained):
    plain = untrained("quickstart/i3d")
    view = list(plain.open_example(0))[-1]
    assert plain.inspector.methods == ["Grad-CAM"] and view.kind == "result"
    assert view.scores == {"left": 1.0} and view.frames.size == view.shown.rows.size and view.strip.width > 500
    assert view.shown.block == "Grad-CAM" and plain.choose_moment(view.shown, 0).frames is not None
    click = plain.choose_position(view.shown, 0, 32, 32)
    assert click.kind == "mistake" and "there is no position to ask about" in click.message


def test_grad_cam_beside_the_blocks(demo):
    start = list(demo.open_example(0))[-1]
    assert demo.inspector.methods == ["res2.0", "Grad-CAM"]
    view = demo.choose_block(start.shown, "Grad-CAM")
    assert view.kind == "result" and not same(view.frames, start.frames) and not same(view.strip, start.strip)
    # It is the heat of the best class, without a mark.
    maps = grad_cam(demo.inspector.predictor.model, start.shown.moment.clip)
    assert demo.inspector.predictor.classes[maps.target] == "left"
    seconds = [f"{second:.2f} s" for second in start.shown.moment.seconds]
    assert same(view.frames, view.shown.rows.picture(heated_frames(maps, 0), seconds))
    assert same(demo.choose_block(view.shown, "res2.0").frames, start.frames)


def test_a_network_that_grad_cam_cannot_show_still_has_classes(untrained, monkeypatch):
    plain = untrained("quickstart/i3d")

    def fail(model, clip):
        raise ValueError("no layer gives a map")

    monkeypatch.setattr(handlers, "grad_cam", fail)
    view = list(plain.open_example(0))[-1]
    assert view.kind == "failed" and view.scores == {"left": 1.0} and view.frames is None
    assert view.message.startswith("left.mp4: ") and view.message.endswith("; no layer gives a map")


def test_each_block_has_attention_of_its_own(untrained):
    two = untrained("quickstart/i3d_nl", ["MODEL.NONLOCAL.BLOCKS", ["res2.0", "res3.0"]])
    view = list(two.open_example(0))[-1]
    assert two.inspector.blocks == ["res2.0", "res3.0"] and view.shown.block == "res2.0"
    other = two.choose_block(view.shown, "res3.0")
    assert other.shown.block == "res3.0" and other.shown.position == view.shown.position
    assert not same(other.frames, view.frames) and other.scores is None
    # The block stays when another point is asked about.
    assert two.choose_position(other.shown, 0, 32, 32).shown.block == "res3.0"


def test_a_video_shorter_than_a_clip_where_that_is_an_error(untrained, upload, make_video, tmp_path):
    strict = untrained("quickstart/i3d_nl", ["INPUT.SHORT_VIDEO", "error"])
    path = make_video(tmp_path / "short.mp4", num_frames=3, height=64, width=64)
    view = list(strict.open_upload(str(upload(path))))[-1]
    assert view.kind == "failed" and "3" in view.message and str(strict.uploads.path) not in view.message
    assert left_in(strict) == []
