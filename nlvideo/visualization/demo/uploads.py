"""The folder that uploads pass through: private, swept while the page runs, deleted when it ends."""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nlvideo.utils.files.locks import lock_file

_PREFIX = "nlvideo_demo_"


class UploadFolder(contextlib.AbstractContextManager):
    """A private temporary folder; a context manager that deletes it with all that is in it.

    A request deletes its file, also after an error (``deleted_afterwards``). A file without a request, such as a piece
    of an upload that broke off, is swept away when it is old. What a killed server has left is swept away when the
    next one starts.

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

    def sweep(self) -> int:
        """Delete what is older than ``keep_sec`` and not lent, and return how many files that were."""
        limit, swept = time.time() - self.keep_sec, 0
        for path in self._files():
            with self._lock, contextlib.suppress(FileNotFoundError):  # its request was faster
                if path.stat().st_mtime < limit and not self._lent[path]:
                    self._delete(path)
                    swept += 1
        return swept

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
