"""What an upload may be, and the folder that uploads pass through: private, and deleted when the page ends."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from nlvideo.data import VideoDecodeError, VideoReader
from nlvideo.data.video.pixels import PixelLimits
from nlvideo.utils.console import format_seconds
from nlvideo.utils.files.locks import lock_file

_PREFIX = "nlvideo_demo_"
# Demuxers of real containers. FFmpeg also opens images, subtitles, text and playlists. A playlist would make it read
# other files of this machine and addresses on the net.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif"
KNOWN_AS = "MP4, MOV, MKV, WebM, AVI, MPEG, FLV, WMV, OGG or GIF"
# No camera is faster: a file with more frames in a second is made to keep a decoder busy.
_MAX_FPS = 1000


@dataclass(frozen=True)
class Limits:
    """The largest upload that the page takes.

    Frames may be as large as 4096 x 2304 by default, which holds every kind of 4K. The pixels of all frames together
    are how long a video takes: by default 2 minutes of 1920 x 1080 at 30 frames a second, or 30 seconds of 4K.

    Raises:
        ValueError: a limit is not above 0.
    """

    max_megabytes: float = 100.0  #: size of the file, in 2**20 bytes, as browsers and Gradio count
    max_seconds: float = 120.0
    max_frame_pixels: int = 4096 * 2304
    max_pixels: int = 120 * 30 * 1920 * 1080  #: of all frames together

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, allowed: above 0")

    @property
    def max_bytes(self) -> int:
        """``max_megabytes`` in bytes."""
        return int(self.max_megabytes * 2**20)


@dataclass(frozen=True, eq=False)
class VideoFacts:
    """What the page says about a video."""

    name: str  #: of the file
    seconds: float  #: how long it is; 0 where that is not known
    frame_seconds: np.ndarray  #: when each frame is shown: float64 (num_frames,)
    height: int  #: pixels
    width: int

    @property
    def num_frames(self) -> int:
        """Frames in the file."""
        return len(self.frame_seconds)


def check_upload(path: str | os.PathLike, limits: Limits) -> VideoFacts:
    """Return the facts of a video within the limits; one frame of it is decoded.

    Raises:
        ValueError: it is too large or too long, or not a video; the message is for the visitor who uploaded it.
    """
    name, size = Path(path).name, os.path.getsize(path)
    if size == 0:
        raise ValueError(f"{name}: the file is empty")
    if size > limits.max_bytes:
        raise ValueError(f"{name}: {size / 2**20:.3g} MB, allowed: up to {limits.max_megabytes:g} MB")
    # The header comes first, before anything of the video is decoded.
    try:
        with av.open(os.fspath(path), metadata_errors="replace", options={"format_whitelist": CONTAINERS}) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{name} has no picture: it is not a video")
            _check(name, limits, float(container.duration or 0) / av.time_base, 1, stream.height, stream.width)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{name} is not a video that can be read here: expected {KNOWN_AS}") from error
    try:
        with VideoReader(path, pixels=PixelLimits(limits.max_frame_pixels)) as video:
            # A header may say anything, so the frames are counted.
            seconds, num_frames = video.duration_sec, video.num_frames
            _check(name, limits, max(seconds, num_frames / _MAX_FPS), num_frames, video.height, video.width)
            return VideoFacts(name, seconds, video.frame_seconds, video.height, video.width)
    except VideoDecodeError as error:
        raise ValueError(f"{name} cannot be read: {error.reason}") from error


def _check(name: str, limits: Limits, seconds: float, num_frames: int, height: int, width: int) -> None:
    size, area = f"of {width} x {height}", height * width
    if area > limits.max_frame_pixels:
        allowed = f"{limits.max_frame_pixels / 1e6:.3g} million pixels"
        raise ValueError(f"{name}: frames {size}, allowed: up to {allowed}; make it smaller and try again")
    if seconds > limits.max_seconds:
        most = format_seconds(limits.max_seconds)
        raise ValueError(f"{name}: {format_seconds(seconds)} long, allowed: up to {most}")
    if num_frames * area > limits.max_pixels:
        allowed = f"up to {limits.max_pixels // area} of this size; make it smaller or shorter"
        raise ValueError(f"{name}: {num_frames} frames {size}, allowed: {allowed}")


class UploadFolder(contextlib.AbstractContextManager):
    """A private temporary folder; a context manager that deletes it with all that is in it.

    A request deletes its file (``deleted_afterwards``). A file without a request, such as a piece of an upload that
    broke off, is swept away when it is old, and what a killed server has left when the next one starts.

    Attributes:
        path: the folder; only this user may look into it.
        kept: a folder beside it for what the page needs as long as it runs; the caller makes it.
        keep_sec: age at which a file is swept away, seconds. The default is enough for a long video on a slow machine.
    """

    def __init__(self, keep_sec: float = 600.0, sweep_every_sec: float = 30.0):
        _sweep_abandoned()
        # mkdtemp makes it readable for its owner alone.
        self._root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        self._lock_handle = os.open(self._root, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks
            lock_file(self._lock_handle, wait=True)
        self.path, self.kept = self._root / "uploads", self._root / "kept"
        self.path.mkdir(0o700)
        self.keep_sec = keep_sec
        self._closed = threading.Event()
        # How many requests hold each file: the same video dropped by two visitors is one file.
        self._lent: Counter[Path] = Counter()
        self._lock = threading.Lock()
        self._sweeper = threading.Thread(target=self._sweep_on, args=(sweep_every_sec,), daemon=True)
        self._sweeper.start()

    def close(self) -> None:
        """Delete the folder; may be called more than once."""
        if not self._closed.is_set():
            self._closed.set()
            self._sweeper.join()
            shutil.rmtree(self._root, ignore_errors=True)
            os.close(self._lock_handle)

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextlib.contextmanager
    def deleted_afterwards(self, path: str | os.PathLike) -> Iterator[Path]:
        """Lend a file of the folder and delete it at the end, also after an error.

        It stays while another request holds it, or if it was uploaded again in the meantime.

        Raises:
            ValueError: the file is not in the folder (then it is left alone), or no longer.
        """
        # A request could name any file of this machine, and must neither read nor delete it.
        path = Path(path).resolve()
        if not path.is_relative_to(self.path):
            raise ValueError("only uploaded files can be shown")
        with self._lock:
            if not path.is_file():
                raise ValueError("the upload is no longer there: drop the video again")
            uploaded_ns = path.stat().st_mtime_ns
            self._lent[path] += 1
        try:
            yield path
        finally:
            with self._lock:
                self._lent[path] -= 1
                if not self._lent[path]:
                    del self._lent[path]
                    if path.is_file() and path.stat().st_mtime_ns == uploaded_ns:
                        self._delete(path)

    def num_bytes(self) -> int:
        """Return the size of all uploads that are there."""
        return sum(path.stat().st_size for path in self._files() if path.exists())

    def sweep(self) -> None:
        """Delete what is older than ``keep_sec`` and not lent."""
        limit = time.time() - self.keep_sec
        for path in self._files():
            with self._lock, contextlib.suppress(FileNotFoundError):  # its request was faster
                if path.stat().st_mtime < limit and not self._lent[path]:
                    self._delete(path)

    def _files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if path.is_file()]

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if path.parent != self.path:
            with contextlib.suppress(OSError):  # another upload shares the folder
                path.parent.rmdir()

    def _sweep_on(self, every_sec: float) -> None:
        while not self._closed.wait(every_sec):
            self.sweep()


def _sweep_abandoned() -> None:
    """Delete the folders of servers that no longer live: the lock on each goes with its server."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                lock_file(handle)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)
