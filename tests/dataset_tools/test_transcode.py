"""Transcoded videos: every frame, when it was shown, upright, small and quick to enter."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nlvideo.data import VideoReader, get_dataset
from nlvideo.dataset_tools import transcode as module
from nlvideo.dataset_tools.transcode import TranscodeOptions, new_paths, output_size, transcode_dataset, transcode_video
from nlvideo.errors import ProcessDied

FAST = TranscodeOptions(preset="ultrafast", crf=1)


def transcode(source, out, options=FAST, overwrite=False):
    """Transcode one video."""
    return transcode_video((str(source), str(out), options, overwrite))


def key_frames(path):
    """Numbers of the key-frames."""
    with av.open(str(path)) as container:
        times = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    return [i for i, (_, is_key) in enumerate(sorted(times)) if is_key]


def show_times(path):
    """Seconds at which the frames are shown."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [float(frame.pts * stream.time_base) for frame in container.decode(stream)]


@pytest.mark.parametrize(
    "size, short_side, expected",
    [((240, 320), 256, (240, 320)), ((512, 1024), 256, (256, 512)), ((1080, 1920), 256, (256, 456)),
     ((640, 360), 256, (456, 256)), ((97, 131), 256, (96, 130)), ((1, 9), 256, (2, 8)), ((300, 301), 256, (256, 256))],
)  # fmt: skip
def test_sizes_are_even_and_never_larger(size, short_side, expected):
    assert output_size(*size, short_side) == expected


@pytest.mark.parametrize(
    "container, codec", [("mp4", "libx264rgb"), ("mkv", "ffv1"), ("avi", "mpeg4"), ("ts", "mpeg2video")]
)
def test_every_frame_is_there(tmp_path, make_video, frame_index, container, codec):
    quality = {"qmin": 1, "qmax": 1} if "mpeg" in codec else {}
    source = make_video(tmp_path / f"a.{container}", num_frames=70, height=64, width=96, fps=25, codec=codec, **quality)
    result = transcode(source, tmp_path / "out/b.mp4", TranscodeOptions(48, 30, 1, "ultrafast"))
    assert result.error is None and not result.kept
    assert (result.bytes_before, result.bytes_after) == (os.path.getsize(source), os.path.getsize(result.out))
    with VideoReader(result.out) as video:
        assert (video.num_frames, video.height, video.width) == (70, 48, 72)
        assert [frame_index(frame) for frame in video.get_frames(range(70))] == list(range(70))
    assert key_frames(result.out) == [0, 30, 60]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.mp4"]


def test_sound_goes_and_a_variable_rate_stays(tmp_path, make_video, frame_index):
    ticks = [100, 101, 105, 106, 120, 121, 160, 161]
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        video, sound = container.add_stream("ffv1", rate=100), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt = 32, 32, "bgr0"
        video.codec_context.time_base = Fraction(1, 100)
        with VideoReader(make_video(tmp_path / "frames.mp4", num_frames=8, width=32)) as frames:
            for tick, image in zip(ticks, frames.get_frames(range(8))):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
                frame.pts, frame.time_base = tick, Fraction(1, 100)
                container.mux(video.encode(frame))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        noise.sample_rate = 8000
        container.mux(sound.encode(noise))
        container.mux([*video.encode(None), *sound.encode(None)])
    assert transcode(tmp_path / "a.mkv", tmp_path / "b.mp4").error is None
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert show_times(tmp_path / "b.mp4") == pytest.approx([(tick - 100) / 100 for tick in ticks], abs=1e-3)


def test_failures_leave_nothing(tmp_path, make_video, make_frames):
    (tmp_path / "bad.mp4").write_bytes(b"nonsense" * 100)
    for source in ("bad.mp4", "nothing.mp4"):
        assert transcode(tmp_path / source, tmp_path / "out/a.mp4").error
    assert transcode(make_frames(tmp_path / "f"), tmp_path / "out/a.mp4").error.startswith("a folder of frames")
    assert not any((tmp_path / "out").iterdir())


def test_a_video_does_not_replace_itself(tmp_path, make_video):
    path = Path(make_video(tmp_path / "a.mp4"))
    before = path.read_bytes()
    (tmp_path / "link.mp4").symlink_to(path)
    for out in (path, tmp_path / "link.mp4"):
        assert "is the video itself" in transcode(path, out, overwrite=True).error
    assert path.read_bytes() == before


def test_what_is_there_is_kept_and_what_is_not_ours_stays(tmp_path, make_video):
    source, out = make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4"
    assert not transcode(source, out).kept
    written = out.stat().st_mtime_ns
    assert transcode(source, out).kept and out.stat().st_mtime_ns == written
    other = transcode(source, out, TranscodeOptions(16, preset="ultrafast"))
    expected = "exists, and was made from another file or with other options. Name another folder, or replace it with"
    assert expected in other.error
    assert out.stat().st_mtime_ns == written
    make_video(source, num_frames=9)  # another video of the same name
    assert transcode(source, out).error
    assert transcode(source, out, overwrite=True).error is None
    out.write_text("mine")
    assert transcode(source, out).error and out.read_text() == "mine"


@pytest.mark.parametrize("name", ["decord_video_180.mov", "decord_video_270.mov", "torchcodec_bt709_full_range.mp4",
                                  "torchcodec_h265_10bits.mp4", "gen_mpegts.ts"])  # fmt: skip
def test_real_videos_look_the_same(test_data, tmp_path, name):
    assert transcode(test_data / "videos" / name, tmp_path / "a.mp4").error is None
    with VideoReader(test_data / "videos" / name) as before, VideoReader(tmp_path / "a.mp4") as after:
        assert before.num_frames == after.num_frames and after.rotation == 0
        indices = [0, before.num_frames - 1]
        for one, other in zip(before.get_frames(indices), after.get_frames(indices)):
            # Averages over a grid of 4 x 4 fields.
            grids = [[[part.mean() for part in np.array_split(row, 4, axis=1)] for row in np.array_split(image, 4)]
                     for image in (one, other)]  # fmt: skip
            assert np.abs(np.subtract(*grids)).max() < 6


def test_names_of_new_files():
    folder = Path("/out")
    paths = new_paths(["/v/x/a.avi", "/v/x/b.mp4", "/v/y/a.webm", "/v/x/a.mov"], folder)
    expected = ["x/a.avi.mp4", "x/b.mp4", "y/a.mp4", "x/a.mov.mp4"]
    assert list(paths.values()) == [folder / path for path in expected]
    assert new_paths(["far://v/x/a.avi", "far://v/b.avi"], folder)["far://v/x/a.avi"] == folder / "x/a.mp4"
    assert new_paths(["/v/a.avi"], folder)["/v/a.avi"] == folder / "a.mp4"


@pytest.fixture()
def dataset(tmp_path, make_video):
    """A list of two good videos, one of them cut in two, and a bad one."""
    for name in ("x/a.mp4", "y/b.mkv"):
        make_video(tmp_path / "videos" / name, num_frames=20, fps=10)
    (tmp_path / "videos/bad.mp4").write_bytes(b"nonsense" * 100)
    text = "path,label,start_sec\nx/a.mp4,0,\nbad.mp4,1,\ny/b.mkv,1,0.5\ny/b.mkv,0,1\n"
    (tmp_path / "videos/train.csv").write_text(text)
    (tmp_path / "videos/classes.txt").write_text("one\ntwo\n")
    return f"list:{tmp_path}/videos/train.csv"


def test_a_dataset_goes_on_where_it_was(dataset, tmp_path):
    def run(**arguments):
        return transcode_dataset(dataset, get_dataset(dataset), str(tmp_path / "out"), FAST, **arguments)

    done, listed = run(num_workers=2)
    assert [(Path(result.source).name, result.error is None) for result in done] == [
        ("a.mp4", True), ("bad.mp4", False), ("b.mkv", True)
    ]  # fmt: skip
    assert listed == f"{tmp_path}/out/train.csv"
    records = get_dataset(f"list:{listed}")
    assert [(r["video_id"], r["label"], r.get("start_sec")) for r in records] == [
        ("x/a.mp4", 0, None), ("y/b.mp4", 1, 0.5), ("y/b.mp4#2", 0, 1.0)
    ]  # fmt: skip
    assert all(os.path.exists(record["file_name"]) for record in records)
    assert (tmp_path / "out/train.classes.txt").read_text() == "one\ntwo\n"
    assert (
        (tmp_path / "out/train.csv")
        .read_text()
        .startswith("path,label,start_sec\n# made by tools/transcode_dataset.py")
    )
    (tmp_path / "out/y/b.mp4").unlink()
    assert [(result.kept, result.error is None) for result in run()[0]] == [(True, True), (False, False), (False, True)]
    (tmp_path / "out/train.csv").write_text("my list\n")
    with pytest.raises(ValueError, match="out/train.csv exists and was not made from list:.*/videos/train.csv"):
        run()


def test_what_a_dataset_refuses(dataset, tmp_path):
    with pytest.raises(ValueError, match="videos/train.csv is the list itself, which is not replaced"):
        transcode_dataset(dataset, get_dataset(dataset), f"{tmp_path}/videos", FAST, overwrite=True)
    with pytest.raises(ValueError, match="out: got 's3://bucket/out', allowed: a local path"):
        transcode_dataset(dataset, get_dataset(dataset), "s3://bucket/out", FAST)
    with pytest.raises(ValueError, match="wds:x.tar: shards hold videos as they are"):
        transcode_dataset("wds:x.tar", [], f"{tmp_path}/out", FAST)
    records = [*get_dataset(dataset), {"file_name": f"{tmp_path}/a\nb.mp4", "label": 0, "video_id": "a"}]
    with pytest.raises(ValueError, match=r"a list cannot hold the name 'a.nb.mp4', which has a line break in it"):
        transcode_dataset(dataset, records, f"{tmp_path}/out", FAST)
    assert not (tmp_path / "out").exists(), "refused after the work"


def test_a_list_of_another_dataset_stays(tmp_path, make_video):
    for name in ("one", "two"):
        make_video(tmp_path / f"{name}/{name}.mp4", num_frames=3)
        (tmp_path / f"{name}/train.csv").write_text(f"{name}.mp4 0\n")

    def run(name, **arguments):
        name = f"list:{tmp_path}/{name}/train.csv"
        return transcode_dataset(name, get_dataset(name), f"{tmp_path}/out", FAST, **arguments)

    run("one")
    run("one")
    with pytest.raises(ValueError, match="out/train.csv exists and was not made from list:.*/two/train.csv. Name anot"):
        run("two")
    assert not (tmp_path / "out/two.mp4").exists() and "one.mp4" in (tmp_path / "out/train.csv").read_text()
    run("two", overwrite=True)
    assert "two.mp4" in (tmp_path / "out/train.csv").read_text()


def test_a_new_file_replaces_no_other_file_of_the_dataset(tmp_path, make_video):
    def run(*names, out):
        records = [{"file_name": f"{tmp_path}/{name}", "label": 0, "video_id": name} for name in names]
        return transcode_dataset("any", records, f"{tmp_path}/{out}", FAST, overwrite=True)

    with pytest.raises(ValueError, match="a/b/x.mp4: its new file .*/a/b/b/x.mp4 would replace .*/a/b/b/x.mp4"):
        run("a/b/x.mp4", "a/y.mp4", "a/b/b/x.mp4", out="a/b")
    with pytest.raises(ValueError, match="a.avi.mp4: its new file .*/out/a.avi.mp4 would replace .*/a.avi or its"):
        run("a.avi", "a.mp4", "a.avi.mp4", out="out")


def test_a_process_that_dies_is_a_failure(dataset, tmp_path, monkeypatch):
    def deadly(function, items, num_workers):
        yield 0, ProcessDied("the process died")
        for index in (2, 1):
            yield index, function(items[index])

    monkeypatch.setattr(module, "map_in_processes", deadly)
    done, listed = transcode_dataset(dataset, get_dataset(dataset), f"{tmp_path}/out", FAST)
    assert [result.error is None for result in done] == [False, False, True] and done[0].error == "the process died"
    assert len(get_dataset(f"list:{listed}")) == 2
