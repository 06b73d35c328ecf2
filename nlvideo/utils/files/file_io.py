"""Paths and URLs through iopath, and files that other processes see whole or not at all."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import posixpath
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO, TypeVar
from urllib.error import URLError
from urllib.parse import quote, urlparse
from urllib.request import urlopen

from iopath.common.file_io import HTTPURLHandler, file_lock, get_cache_dir
from iopath.common.file_io import PathManager as _PathManager

from nlvideo.utils.console import progress_bar
from nlvideo.utils.files.locks import lock_file

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
# Seconds before each further try, 90 in all.
_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
# An HTTP server that sends nothing for so long has failed.
_SILENT_SEC = 60.0
# In bytes. A temporary name is longer, and 255 are allowed.
_LONGEST_NAME = 230
# What stays as it is in a URL. A "#" is part of a name, and a "%" begins a letter that is quoted already.
_SAFE = "%/:?=&+,;@~!$'()*[]"
# Errors of the disk. A library that writes may hide them in an error of its own.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)
# The answers of an HTTP server that does not have a file; storage in the cloud says "forbidden".
_NOT_THERE = (403, 404, 410)
# Of so many files in a remote folder, one listing is cheaper than questions: a request lists 1000.
_MANY = 20
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")


def try_again(
    path: str, work: Callable[[], Result], final: Callable[[str, Exception, str], Exception | None]
) -> Result:
    """Return what ``work`` returns; failures are tried again.

    Args:
        path: for errors and the log.
        work: reads from a store or a server.
        final: gets the path, an error and its text in one line. It returns the error to raise if another try would
            fail in the same way, and otherwise None.

    Raises:
        ConnectionError: it failed again and again; one line.
        Exception: what ``final`` returns.
    """
    for wait in (*_WAITS, None):
        try:
            return work()
        except Exception as error:
            line = " ".join(str(error).split()) or type(error).__name__
            if known := final(path, error, line):
                raise known from None
            if wait is None:
                raise ConnectionError(f"{path}: no success in {len(_WAITS) + 1} tries: {line}") from None
            logger.warning("%s: %s; trying again in %g s", path, line, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")


class _HTTPHandler(HTTPURLHandler):
    """Downloads into a folder of the cache for each server: two servers may have files with the same path."""

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        local = place_in_cache(path, cache_dir)
        if not os.path.isfile(local):
            try_again(path, lambda: _download(path, local), _final)
        return local


def _download(url: str, local: str) -> None:
    # Other processes wait, and find the file.
    with file_lock(local):
        if os.path.isfile(local):
            return
        quoted = quote(url, _SAFE, errors="surrogateescape")
        with (
            urlopen(quoted, timeout=_SILENT_SEC) as answer,
            WholeFile(local) as whole,
            open(whole.temporary, "wb") as file,
        ):
            size = int(answer.headers["Content-Length"] or 0)
            with progress_bar(total=size or None, desc=os.path.basename(local), unit="B", unit_scale=True) as bar:
                while block := answer.read(1 << 20):
                    bar.update(file.write(block))
            if size > file.tell():
                raise ConnectionError(f"{file.tell()} bytes came instead of {size}")


def _final(path: str, error: Exception, line: str) -> Exception | None:
    if getattr(error, "code", None) in _NOT_THERE:
        return FileNotFoundError(f"{path}: {line}")
    return None if isinstance(error, (URLError, HTTPException, ConnectionError, TimeoutError)) else error


# Opens local paths, http(s) URLs through a local cache, and other schemes as `remote` does. Projects may register more.
PathManager = _PathManager()
PathManager.register_handler(_HTTPHandler())


def place_in_cache(url: str, cache_dir: str | None = None) -> str:
    """Return the local path to which an http(s) URL is downloaded. A file that is there already is taken.

    Its name is what follows the last slash, with a query, as iopath has it. ``cache_dir`` is another folder of copies.
    """
    parts, name = urlparse(url, allow_fragments=False), url.rpartition("/")[2]
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(get_cache_dir(cache_dir), parts.netloc, os.path.dirname(parts.path).lstrip("/"), name)


def is_remote(path: str | os.PathLike) -> bool:
    """Return whether a path starts with a scheme such as ``s3://``, so that a path handler opens it."""
    return _SCHEME.match(os.fspath(path)) is not None


def must_be_local(what: str, path: str | os.PathLike) -> None:
    """Raise ``ValueError``, which names ``what`` was given, where a path is remote but only local files are written."""
    if is_remote(path):
        raise ValueError(f"{what}: got {os.fspath(path)!r}, allowed: a local path")


def join_path(folder: str, path: str) -> str:
    """Return a path that is relative to a folder; absolute and remote paths stay as they are."""
    if is_remote(path) or (is_remote(folder) and path.startswith("/")):
        return path
    if not is_remote(folder):
        return str(Path(folder, path))
    folder = folder.rstrip("/")
    if {".", ".."} & set(path.split("/")):  # no store has such names
        scheme, _, rest = folder.partition("://")
        bucket, _, inner = rest.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', inner, path))}"
    return f"{folder}/{path}"


def absolute_path(path: str) -> str:
    """Return a local path absolute, with ``~`` expanded, and a remote one as it is."""
    return path if is_remote(path) else str(Path(path).expanduser().absolute())


def local_path(path: str) -> str:
    """Return the local path of a file. A remote one is fetched, usually into a cache; a remote folder stays there.

    Raises:
        FileNotFoundError: it is not there.
        ConnectionError: its store or server failed again and again.
        OSError: it cannot be fetched for another reason, or no handler is registered for its scheme.
        ImportError: the package for its scheme is missing.
    """
    return PathManager.get_local_path(path) if is_remote(path) else path


def file_exists(path: str) -> bool:
    """Return whether a file or folder exists. A remote one whose handler cannot tell counts as there.

    A pipe or a device is neither: reading one waits for ever.

    Raises:
        OSError: no handler is registered for the scheme of a remote path, or its store cannot be asked.
    """
    if not is_remote(path):
        return os.path.isfile(path) or os.path.isdir(path)
    try:
        return PathManager.exists(path)
    except NotImplementedError:
        return True


def missing_files(paths: Sequence[str]) -> list[str]:
    """Return the paths that do not exist, as `file_exists` says. A remote folder of many of them is listed once."""
    folders = Counter(path.rpartition("/")[0] for path in paths if is_remote(path))
    listed: dict[str, set[str]] = {}
    for folder in [folder for folder, count in folders.items() if count >= _MANY]:
        with contextlib.suppress(NotImplementedError, FileNotFoundError):
            listed[folder] = set(PathManager.ls(folder))
    split = ((path, *path.rpartition("/")[::2]) for path in paths)
    return [
        path for path, folder, name in split if not (name in listed[folder] if folder in listed else file_exists(path))
    ]


def has_own_handler(path: str) -> bool:
    """Return whether a handler is registered for the scheme of a remote path; fsspec has the others."""
    return any(path.startswith(prefix) for prefix in PathManager._path_handlers)


def fetch_file(path: str) -> str | None:
    """Return the local path of a file that may not exist, and None if it does not.

    Raises:
        ValueError: the path is no file but a folder, a pipe or a device; reading a pipe would wait for ever.
        OSError: it cannot be fetched, or no handler is registered for its scheme.
    """
    if is_remote(path):
        try:
            return local_path(path) if PathManager.isfile(path) else None
        except NotImplementedError:  # http: try to fetch it
            pass
        try:
            return local_path(path)
        except FileNotFoundError:
            return None
    if not os.path.exists(path):
        return None
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise ValueError(f"{path}: expected a file, found {found}")
    return path


class WholeFile(contextlib.AbstractContextManager["WholeFile"]):
    """A file that is written under a temporary name and gets its own once it is complete; a context manager.

    Other processes see it either whole or not at all, even if this one is killed. The writer holds a lock on the
    temporary file. When a process first writes into a folder, it removes temporary files that no one holds a lock on.

    Args:
        path: the local file to create or replace; its folder must exist.

    Attributes:
        path: absolute.
        temporary: the path to write to.

    Raises:
        OSError: the folder is missing or full; it names ``path``. An earlier file of that name is then untouched.
    """

    def __init__(self, path: str):
        self.path = os.path.abspath(path)
        folder, name = os.path.split(self.path)
        # In the same folder, because a rename is atomic only within one file system.
        self.temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
        _sweep(folder)
        with naming(self.path, self.temporary):
            self._handle = _open_locked(self.temporary)

    def finish(self) -> None:
        """Give the file its name, once it is on disk."""
        try:
            with naming(self.path, self.temporary):
                os.fsync(self._handle)
                os.replace(self.temporary, self.path)
        except BaseException:
            self.discard()
            raise
        os.close(self._handle)
        # The rename itself survives a power failure only once the folder is on disk.
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.temporary)
        os.close(self._handle)

    def __exit__(self, kind: type | None, error: BaseException | None, *rest: object) -> None:
        if error is None:
            self.finish()
            return
        self.discard()
        with naming(self.path, self.temporary):
            raise error


def _open_locked(path: str) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a file system without locks
            lock_file(handle, wait=True)
        # Before this lock, another process may have removed the file, or given it its final name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


@functools.cache
def _sweep(folder: str) -> None:
    """Remove the temporary files of killed writers from a folder, if its file system has locks."""
    with contextlib.suppress(OSError):
        for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError), open(os.path.join(folder, name), "rb+") as file:
                lock_file(file)
                os.unlink(file.name)


@contextlib.contextmanager
def naming(path: str | os.PathLike, temporary: str | None = None) -> Iterator[None]:
    """Name the file that is written in this block in errors of the system that do not name it.

    ``temporary`` is the name under which it is written.

    Raises:
        OSError: with the path, even if the library that writes hides a full disk in an error of its own.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None or cause.errno is None or cause.filename not in (None, temporary):
            raise
        if cause is not error and cause.errno not in _DISK_ERRORS:
            raise
        raise OSError(cause.errno, os.strerror(cause.errno), os.fspath(path)) from error


def atomic_write(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a local file, whole or not at all, see `WholeFile`; ``write`` is called with an open binary file.

    Raises:
        OSError: the folder is missing or full. An earlier file of that name is then untouched.
    """
    with WholeFile(path) as whole, open(whole.temporary, "wb") as file:
        write(file)


def make_writable(folder: str, key: str) -> None:
    """Make a folder; raise ``ValueError``, which names the argument or config ``key``, where it cannot be written."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{key}: got {folder!r}, allowed: a folder that can be written ({error})") from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8 as `atomic_write` does. Names of files keep their bytes."""
    atomic_write(os.fspath(path), lambda file: file.write(text.encode(errors="surrogateescape")))


def write_json(path: str, content: Any) -> None:
    """Write plain data as indented JSON, whole or not at all; folders are made.

    Raises:
        OSError, TypeError: the file cannot be written; the content is no plain data.
    """
    text = json.dumps(content, indent=1) + "\n"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_text(path, text)


class FileFormat(NamedTuple):
    """The first entries of our JSON files: the name of the format, and its version."""

    name: str
    version: int
    key: str = "format"  #: of the entry that holds the name

    def header(self) -> dict[str, Any]:
        """Return the first entries of a file."""
        return {self.key: self.name, "version": self.version}

    def read(self, path: str, file: TextIO, hook: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
        """Return the content of an open file, without the header; ``path`` is for errors.

        A ``hook`` gets each JSON object as a dict as soon as it is read, and returns what takes its place.

        Raises:
            ValueError: the file is of another format or version; one line.
        """
        wrong = f"{path}: not a {self.name.removeprefix('nlvideo ')} file"
        try:
            content = json.load(file, object_hook=hook)
        except ValueError as error:
            raise ValueError(f"{wrong}: {error}") from None
        if not isinstance(content, dict) or content.pop(self.key, None) != self.name:
            raise ValueError(f"{wrong}: {self.key!r} is not {self.name!r}")
        version = content.pop("version", None)
        if version != self.version:
            raise ValueError(f"{path}: version: got {version!r}, allowed: {self.version}")
        return content
