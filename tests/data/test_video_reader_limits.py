"""Files that hang, readers in forked processes, and files damaged at random."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch.multiprocessing as multiprocessing

from nlvideo.config import load_cfg
from nlvideo.data import VideoDecodeError, VideoReader, build_test_loader, open_video
from nlvideo.utils.system.time_limit import given_up


@pytest.fixture
def hanging(tmp_path):
    """A named pipe that nothing writes to: opening it blocks inside the operating system."""
    path = tmp_path / "hangs.mp4"
    os.mkfifo(path)
    yield str(path)
    # Lets the thread that was left alone go.
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def release(path):
    """Open and close the other end of a pipe, so that a blocked reader finds it empty."""
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_a_file_that_hangs_is_given_up(hanging):
    start = time.monotonic()
    with pytest.raises(VideoDecodeError, match=r"no progress in 0.3 s, given up") as caught:
        VideoReader(hanging, timeout_sec=0.3)
    assert caught.value.path == hanging and time.monotonic() - start < 10
    # Each further draw costs neither the time nor a thread.
    threads, start = threading.active_count(), time.monotonic()
    for _ in range(100):
        with pytest.raises(VideoDecodeError, match=r"no progress in 0.3 s, given up"):
            VideoReader(hanging, timeout_sec=0.3)
    assert threading.active_count() == threads and time.monotonic() - start < 2
    release(hanging)


def test_a_decoder_that_spins_is_given_up(tmp_path, make_video):
    video = VideoReader(make_video(tmp_path / "a.mp4", codec="libx264", pix_fmt="yuv420p", crf="5"), timeout_sec=0.3)
    stuck, closed, close = threading.Event(), threading.Event(), video._decoder.close
    video._decoder._decode = lambda *rest: stuck.wait() and []
    video._decoder.close = lambda: (close(), closed.set())
    with pytest.raises(VideoDecodeError, match="no progress"):
        video.get_frames([3])
    with pytest.raises(VideoDecodeError, match="given up before"):
        video.get_frames([0])
    video.close()
    assert not closed.is_set()  # its thread still uses it
    stuck.set()
    assert closed.wait(10)


def test_a_demuxer_that_spins_is_given_up(tmp_path, make_video):
    with VideoReader(make_video(tmp_path / "a.mp4"), timeout_sec=0.3) as video:
        decoder = video._decoder
        decoder._decode = lambda *rest: []

        def forever():
            while True:
                decoder._next = 0
                yield next(iter(decoder._container.demux(decoder._stream)))
                time.sleep(0.001)

        real = decoder._start_run

        def start(target):
            real(target)
            decoder._packets = forever()

        decoder._start_run = start
        decoder._step = lambda *rest: decoder._limit.check() or []
        with pytest.raises(VideoDecodeError, match="no progress"):
            video.get_frames([3])


def test_a_hanging_file_in_the_loader(tmp_path, make_video, hanging, monkeypatch):
    # A pipe, which no video is, stands for a file on a disk that does not answer.
    monkeypatch.setattr("nlvideo.data.checks.file_exists", os.path.exists)
    make_video(tmp_path / "a.mp4", num_frames=20)
    (tmp_path / "list.txt").write_text("a.mp4 0\nhangs.mp4 1\n")
    for workers, seconds in (("1", 0.5), ("1", 60), ("0", 60)):
        options = ["DATASETS.TEST", f"['list:{tmp_path / 'list.txt'}']", "DATALOADER.VIDEO_TIMEOUT_SEC", str(seconds)]
        options += ["DATALOADER.NUM_WORKERS", workers, "MODEL.HEAD.NUM_CLASSES", "2", "TEST.NUM_CLIPS", "1"]
        options += ["INPUT.NUM_FRAMES", "4", "TEST.SHORT_SIDE", "32", "TEST.CROP_SIZE", "32", "TEST.NUM_CROPS", "1"]
        cfg, start = load_cfg(None, options), time.monotonic()
        batches = list(build_test_loader(cfg, cfg.DATASETS.TEST[0]))
        samples = [sample for batch in batches for sample in batch]
        assert [sample["failed"] for sample in samples] == [False, True]
        assert f"no progress in {seconds:g} s" in str(samples[1]["error"]) and "given_up" not in samples[1]
        # This process learns from its workers, and those of the next test from it.
        assert given_up[hanging] == seconds and time.monotonic() - start < 30
        given_up[hanging] = 60


def _read_in_child(video, queue):
    queue.put([video.get_frames([k])[0].tobytes() for k in (9, 30, 2)])


def test_a_reader_opened_before_a_fork_serves_both_processes(tmp_path, make_video):
    with VideoReader(make_video(tmp_path / "a.mp4", num_frames=40, gop=5)) as video:
        expected = [video.get_frames([k])[0].tobytes() for k in (9, 30, 2)]
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        child = context.Process(target=_read_in_child, args=(video, queue))
        child.start()
        mine = [video.get_frames([k])[0].tobytes() for k in (9, 30, 2)]
        theirs = queue.get()
        child.join()
    assert mine == theirs == expected


def test_unknown_reader(tmp_path, make_video):
    with pytest.raises(ValueError, match="reader: got 'decord', allowed: 'pyav', 'torchcodec'"):
        open_video(make_video(tmp_path / "a.mp4"), reader="decord")


def test_damaged_files_give_the_right_number_of_frames_or_an_error(tmp_path, make_video, load_tool):
    fuzz_reader = load_tool("fuzz_reader", "benchmarks")
    options = {"num_frames": 20, "height": 64, "width": 64}
    sources = [
        make_video(tmp_path / "a.mp4", **options),
        make_video(tmp_path / "b.mkv", codec="libx264", bf="2", gop=7, preset="medium", **options),
        make_video(tmp_path / "c.ts", codec="libx264", gop=7, **options),
        make_video(tmp_path / "d.avi", codec="mpeg4", bf="2", **options),
        make_video(tmp_path / "e.mpg", codec="mpeg2video", fps=25, bf="2", **options),
    ]
    result = fuzz_reader.fuzz([Path(source) for source in sources], num=60, seed=1)
    assert result["wrong"] == [] and result["slowest_sec"] < 10
    assert result["read"] >= 15 and result["errors"] >= 5 and len(result["memory_mb"]) == 2
