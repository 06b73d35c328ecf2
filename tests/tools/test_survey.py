"""What a survey finds in a dataset, and the advice it gives."""

import av
import pytest

from nlvideo.data import FrameStream, VideoReader
from nlvideo.dataset_tools.transcode import TranscodeOptions, transcode_video
from nlvideo.tools.lib import survey as surveys
from nlvideo.tools.lib.survey import VideoFacts, advise, format_survey, speed_up, survey_dataset, survey_video, to_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_video, make_frames):
    """A long and a short video, a folder of frames and a broken file."""
    root = tmp_path_factory.mktemp("survey")
    make_video(root / "long.mp4", num_frames=30, height=64, width=48, fps=10, gop=12)
    make_video(root / "short.mkv", num_frames=5, gop=1, codec="ffv1")
    make_frames(root / "frames", num_frames=3)
    (root / "bad.mp4").write_bytes(b"nonsense" * 100)
    return root


def test_facts_of_a_video(folder):
    facts = survey_video([{"file_name": f"{folder}/long.mp4", "video_id": "a", "fps": None}])
    assert facts.error is None and facts.num_bytes == (folder / "long.mp4").stat().st_size
    assert (facts.num_frames, facts.fps, facts.duration_sec, facts.height, facts.width) == (30, 10, 3, 64, 48)
    assert (facts.codec, facts.key_frame_distance) == ("h264", 12)
    # Waits of 0 to 11, 0 to 11 and 0 to 5 frames.
    assert facts.mean_wait == pytest.approx((66 + 66 + 15) / 30)
    short = survey_video([{"file_name": f"{folder}/short.mkv", "video_id": "a", "fps": None}])
    assert (short.codec, short.key_frame_distance, short.mean_wait) == ("ffv1", 1, 0)


def test_a_title_in_no_known_encoding(make_video, tmp_path):
    """What is never read does not keep the rest from being read."""
    title, path = "a title of twenty-four..", tmp_path / "titled.mp4"
    with av.open(make_video(tmp_path / "plain.mp4")) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = title
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.read_bytes()
    assert title.encode() in data
    path.write_bytes(data.replace(title.encode(), b"\xff\xfe" * 12))
    with VideoReader(path) as video, FrameStream(path) as stream:
        assert video.num_frames == len(list(stream))
    assert survey_video([{"file_name": str(path), "video_id": "a"}]).error is None
    assert (
        transcode_video((str(path), str(tmp_path / "small.mp4"), TranscodeOptions(preset="ultrafast"), False)).error
        is None
    )


def test_facts_of_frames_and_of_what_is_broken(folder):
    frames = survey_video([{"file_name": f"{folder}/frames", "video_id": "a", "fps": 4.0}])
    assert (frames.codec, frames.num_frames, frames.duration_sec, frames.width) == ("images", 3, 0.75, 48)
    assert frames.num_bytes == sum(path.stat().st_size for path in (folder / "frames").iterdir())
    assert survey_video([{"file_name": f"{folder}/bad.mp4", "video_id": "a", "fps": None}]).error
    assert survey_video([{"file_name": f"{folder}/nothing.mp4", "video_id": "a", "fps": None}]).error == "no such file"


def test_a_dataset_in_its_order(folder):
    names = ["long.mp4", "bad.mp4", "frames", "nothing.mp4", "short.mkv", "bad.mp4"]
    records = [{"file_name": f"{folder}/{name}", "label": 0, "video_id": name} for name in names]
    for num_workers in (1, 3):
        survey, complete = survey_dataset(records, num_workers)
        assert complete and survey.num_files == 5
        assert [facts.path for facts in survey.files] == [f"{folder}/{name}" for name in names[:5]]
        assert [facts.path for facts in survey.bad] == [f"{folder}/bad.mp4", f"{folder}/nothing.mp4"]
    text = format_survey(survey)
    assert "codecs: h264 1, images 1, ffv1 1" in text and "48x32 2" in text and "frames" in text
    found = to_json(survey)
    assert (found["num_files"], found["num_checked"], found["num_bad"]) == (5, 5, 2)
    assert found["files"][0]["duration_sec"] == 3.0


def test_an_interrupted_survey_keeps_what_it_found(folder, monkeypatch):
    def interrupted(function, items, num_workers):
        yield 1, function(items[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(surveys, "map_in_processes", interrupted)
    records = [{"file_name": f"{folder}/{name}", "video_id": name} for name in ("long.mp4", "bad.mp4", "frames")]
    survey, complete = survey_dataset(records, 1)
    assert not complete and survey.num_files == 3 and [f.path for f in survey.files] == [f"{folder}/bad.mp4"]
    assert format_survey(survey) == "no video can be decoded"


def make_facts(distance, side, num_frames=300, codec="h264"):
    """Facts of a video with a key-frame every so many frames."""
    return VideoFacts("a.mp4", None, 10, num_frames, 30.0, side, 2 * side, codec, distance, (distance - 1) / 2)


@pytest.mark.parametrize(
    "distance, side, clip_frames, fewer, smaller",
    [(30, 256, 64, 1, 1), (250, 256, 64, (64 + 124.5) / (64 + 14.5), 1), (30, 512, 64, 1, 4), (12, 128, 64, 1, 1)],
)
def test_estimated_gain(distance, side, clip_frames, fewer, smaller):
    assert speed_up([make_facts(distance, side)] * 3, clip_frames) == pytest.approx((fewer, smaller))


def test_advice_is_given_where_it_pays():
    assert advise([make_facts(30, 256)], 64) is None and advise([make_facts(1, 512, codec="images")], 64) is None
    assert advise([], 64) is None
    text = advise([make_facts(250, 512)], 64)
    assert (
        "clips of 64 frames would be about 9.6 times faster after tools/transcode_dataset.py --short-side 256" in text
    )
    assert "2.4 times by a key-frame every 30 frames (now 250)" in text
    assert "4.0 times by a short side of 256 pixels (now 512)" in text
    text = advise([make_facts(30, 256)], 64, short_side=64)
    assert (
        "16.0 times faster after tools/transcode_dataset.py --short-side 64: 16.0 times by a short side of 64 pixels"
        in text
    )


def test_parts_without_a_frame(folder):
    times = [(0, 0.5), (5, 6), (0.6, 0.2), (2.9, 9)]
    records = [
        {"file_name": f"{folder}/long.mp4", "video_id": str(i), "start_sec": start, "end_sec": end}
        for i, (start, end) in enumerate(times)
    ]
    survey, _ = survey_dataset(records, 1)
    assert not survey.bad and survey.num_files == 1 and survey.bad_parts.keys() == {"1", "2"}
    assert survey.bad_parts["1"] == "no frames from 5 s to 6 s among 30 at 10 fps"


def test_a_sample_is_spread_evenly(folder):
    names = ["long.mp4", "bad.mp4", "frames", "short.mkv", "nothing.mp4"]
    records = [{"file_name": f"{folder}/{name}", "video_id": name} for name in names]
    for sample, indices in ((2, [0, 2]), (3, [0, 1, 3]), (9, range(5))):
        survey, complete = survey_dataset(records, 1, sample)
        assert complete and survey.num_files == 5
        assert [facts.path for facts in survey.files] == [f"{folder}/{names[index]}" for index in indices]
