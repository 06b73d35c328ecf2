"""Paths with a scheme, such as ``s3://``, through fsspec: retries, ranges, and copies in a cache.

fsspec and the package of a store are imported when a path of that store is first used.
"""

import contextlib
import errno
import functools
import hashlib
import io
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import IO, Any

from iopath.common.file_io import NativePathHandler, get_cache_dir

from nlvideo.utils.files.file_io import PathManager, Result, WholeFile, is_remote, try_again
from nlvideo.utils.files.locks import lock_file

logger = logging.getLogger(__name__)

# What one request reads. A connection that breaks costs no more than this.
_BLOCK = 8 << 20
# Of a tar file without an index, a request reads this much: a header or two.
_HEADER_BLOCK = 1 << 15
# What tells an object from a later one of its name, in the words of several stores.
_IDENTITY = (
    "size", "ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified", "last_modified", "updated", "created",
)  # fmt: skip
# Options of stores. One part of an upload is in memory at once, and no layer below multiplies the tries.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"max_concurrency": 1, "config_kwargs": {"retries": {"total_max_attempts": 1}}},
    # Of a disk, such as one of a network: folders are made, as in the other stores.
    "file": {"auto_mkdir": True},
}
# The cache leaves so much of its disk free, or a twentieth of a small one. What was just used stays.
_FREE_BYTES, _FREE_SHARE, _JUST_USED_SEC = 20 << 30, 20, 600.0
# All file systems of this process, kept here, because a forked process that dropped them would close the connections of
# its parent.
_stores: dict[int, Any] = {}
# The next look at the disk, by time.monotonic().
_look_again = 0.0


def with_store(path: str, work: Callable[[Any, str], Result]) -> Result:
    """Return what ``work`` returns for fsspec's file system of a path, and the path in it; failures are tried again.

    Raises:
        FileNotFoundError: there is no such object or bucket.
        PermissionError: the store refuses access, or there are no credentials.
        ImportError: the package of the store is missing.
        ConnectionError: it failed again and again. All are one line, and only this one is tried again before.
        OSError: no package knows the scheme, or the store refuses the request for another reason.
    """
    connect = _connector(path)
    # Not kept: a connection is of one process and one thread. fsspec knows which.
    return try_again(path, lambda: work(*connect()), _final)


def _connector(path: str) -> Callable[[], tuple[Any, str]]:
    scheme = path.partition("://")[0]
    try:
        import fsspec

        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ImportError(f"{path}: needs pip install 'nlvideo[remote]' ({error})") from None
    except ValueError:
        raise OSError(
            f"{path}: no path handler is registered for {scheme}://; a plugin can register one of"
            " iopath with nlvideo.utils.files.file_io.PathManager.register_handler"
        ) from None

    def connect() -> tuple[Any, str]:
        """Listings are not kept: another process may have written since."""
        store, inner = fsspec.core.url_to_fs(path, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
        _stores[id(store)] = store
        return store, inner

    return connect


def _final(path: str, error: Exception, line: str) -> Exception | None:
    """The error to raise for one that another try would repeat; None for others."""
    if isinstance(error, ImportError):
        return error
    if isinstance(error, FileNotFoundError):
        # For a missing object stores only repeat its path. For a missing bucket they say more.
        return FileNotFoundError(f"{path}: not found" + ("" if line in path else f" ({line})"))
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credential" in name or "Authentication" in name or "Forbidden" in line:
        return PermissionError(f"{path}: access denied ({line}): check the credentials of the store in the environment")
    lasting = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.ENOSPC, errno.EXDEV)
    if isinstance(error, (ValueError, TypeError, LookupError, NotImplementedError)) or (
        isinstance(error, OSError) and error.errno in (*lasting, getattr(errno, "EREMCHG", None))
    ):
        return OSError(f"{path}: {line}")
    return None


def info_of(path: str) -> dict[str, Any]:
    """Return what the store says of an object: "size", and "type", "file" or "directory"; raises as `with_store`."""
    return with_store(path, lambda store, inner: store.info(inner))


# The store is asked once per shard, not once per video. Forked workers inherit the answer.
shard_info = functools.lru_cache(maxsize=100_000)(info_of)


def read_range(path: str, start: int, stop: int) -> bytes:
    """Return the bytes of an object from ``start`` to before ``stop``; raises as `with_store`."""

    def read(store: Any, inner: str) -> bytes:
        """Refuse an answer that was cut short."""
        data = store.cat_file(inner, start=start, end=stop)
        if len(data) != stop - start:
            raise EOFError(f"{len(data)} bytes came instead of {stop - start}")
        return data

    return with_store(path, read) if stop > start else b""


def fetch(path: str, part: tuple[int, int] | None = None) -> str:
    """Return the path of a local copy of an object, which is made unless it is there; of a folder the path itself.

    Copies are in ``remote`` of iopath's cache, under names that depend on the version of the object. When the disk is
    nearly full, those that were used longest ago are removed.

    Args:
        path: with a scheme.
        part: offset and size, of a part that is fetched alone: of a shard, which counts as unchanging.

    Raises:
        OSError, ImportError: as `with_store`; or the disk is full.
    """
    info = shard_info(path) if part else info_of(path)
    if info["type"] == "directory":
        return path
    start, size = part or (0, int(info["size"]))
    identity = _identity(info)
    name = hashlib.sha256(f"{path}|{identity}|{start}|{size}".encode(errors="surrogateescape")).hexdigest()[:32]
    base = os.fsdecode(os.fsencode(path.rstrip("/").rpartition("/")[2])[-80:])  # a name may have 255 bytes
    folder = os.path.join(get_cache_dir(), "remote", name[:2])
    local = os.path.join(folder, f"{name}-{base}")
    with contextlib.suppress(FileNotFoundError):
        # For `_make_room`. The time of the content stays: the index of a video depends on it.
        os.utime(local, ns=(time.time_ns(), os.stat(local).st_mtime_ns))
        return local
    os.makedirs(folder, exist_ok=True)
    _make_room(os.path.dirname(folder), size)
    download(path, local, start, size, None if part else identity)
    # A later copy of the same version has the same time, so that an index of the video stays good.
    os.utime(local, ns=(time.time_ns(), int(name[:7], 16) * 10**9))
    return local


def download(path: str, local: str, start: int, size: int, identity: str | None = None) -> None:
    """Write a part of an object to a file, whole or not at all, in the memory of a block.

    Raises:
        OSError, ImportError: as `with_store`; or the object is no longer the one of ``identity``.
    """
    with WholeFile(local) as whole, open(whole.temporary, "wb") as file:
        for begin in range(start, start + size, _BLOCK):
            file.write(read_range(path, begin, min(begin + _BLOCK, start + size)))
        if size > _BLOCK and identity is not None and _identity(info_of(path)) != identity:
            raise ConnectionError(f"{path}: it changed while it was read")


def _identity(info: dict[str, Any]) -> str:
    return "|".join(f"{key}={info[key]}" for key in _IDENTITY if info.get(key) is not None)


def _make_room(cache: str, size: int) -> None:
    """Remove copies that were used longest ago, if the disk is nearly full."""
    global _look_again
    usage = shutil.disk_usage(cache)
    spare = min(_FREE_BYTES, usage.total // _FREE_SHARE)
    if usage.free - size > spare or time.monotonic() < _look_again:
        return
    _look_again = time.monotonic() + 60
    with open(os.path.join(cache, ".lock"), "w") as lock:
        try:
            lock_file(lock, inherited=False)
        except (BlockingIOError, PermissionError):  # another process makes room
            return
        except OSError:  # a file system without locks
            pass
        free, freed, now = shutil.disk_usage(cache).free - size, 0, time.time()
        used: list[tuple[float, int, str]] = []
        for path in (os.path.join(folder, name) for folder, _, names in os.walk(cache) for name in names):
            # Names that start with a dot are of this lock, and of copies that are being written.
            with contextlib.suppress(OSError):
                if not os.path.basename(path).startswith("."):
                    used.append((os.stat(path).st_atime, os.stat(path).st_size, path))
        for when, num_bytes, path in sorted(used):
            # Twice as much as needed, so that it is not done for every copy.
            if free + freed > 2 * spare or now - when < _JUST_USED_SEC:
                break
            with contextlib.suppress(OSError):
                if os.stat(path).st_atime == when:  # not used since
                    os.unlink(path)
                    freed += num_bytes
    logger.info("%s: removed copies of %.1f GiB that were used longest ago", cache, freed / 2**30)


class RemoteFile(io.RawIOBase):
    """An object as a file that can be read anywhere, without a copy.

    Each read is a request of its own that is tried again if it fails. fsspec's own files do not try again.
    """

    def __init__(self, path: str):
        self._path, self._size, self._place = path, int(shard_info(path)["size"]), 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset, and return where that is from the start."""
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or less at the end; raises as `with_store`."""
        data = read_range(self._path, self._place, min(self._place + len(buffer), self._size))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def open_in_place(path: str) -> io.BufferedReader:
    """Open an object to read a little here and there, such as the headers of a tar file; raises as `with_store`."""
    return io.BufferedReader(RemoteFile(path), _HEADER_BLOCK)


class RemoteHandler(NativePathHandler):
    """What iopath does with paths that no other handler takes: local ones as usual, those with a scheme by fsspec."""

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return fetch(path) if is_remote(path) else super()._get_local_path(path, force, **kwargs)

    def _open(self, path: str, mode: str = "r", *args: Any, **kwargs: Any) -> IO:
        if not is_remote(path):
            return super()._open(path, mode, *args, **kwargs)
        if set(mode) & set("wax+"):
            raise ValueError(f"{path}: got the mode {mode!r}, allowed for a remote path: 'r', 'rt', 'rb'")
        return open(fetch(path), mode, *args, **kwargs)

    def _type(self, path: str) -> str:
        try:
            return info_of(path)["type"]
        except FileNotFoundError as error:
            # A bucket that is missing is a mistake, also where a file may be missing.
            if "bucket" in str(error).removeprefix(path):
                raise
            return ""

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return bool(self._type(path)) if is_remote(path) else super()._exists(path, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return self._type(path) == "file" if is_remote(path) else super()._isfile(path, **kwargs)

    def _isdir(self, path: str, **kwargs: Any) -> bool:
        return self._type(path) == "directory" if is_remote(path) else super()._isdir(path, **kwargs)

    def _ls(self, path: str, **kwargs: Any) -> list[str]:
        if not is_remote(path):
            return super()._ls(path, **kwargs)
        found = with_store(path, lambda store, inner: store.ls(inner, detail=False))
        return [name.rstrip("/").rpartition("/")[2] for name in found]


PathManager.register_handler(RemoteHandler())
