"""Files: paths and URLs through iopath, and writes that are whole or not there."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from iopath.common.file_io import HTTPURLHandler
from iopath.common.file_io import PathManager as _PathManager

# Opens local paths, and http(s) URLs through a local cache. Projects may register more handlers.
PathManager = _PathManager()
PathManager.register_handler(HTTPURLHandler())

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")


def is_remote(path: str) -> bool:
    """Return whether a path starts with a scheme such as ``s3://``, and so is the business of a path handler."""
    return _SCHEME.match(path) is not None


def join_path(folder: str, path: str) -> str:
    """Return a path that is relative to a folder; absolute and remote paths stay as they are."""
    if is_remote(path):
        return path
    if is_remote(folder):
        return path if path.startswith("/") else f"{folder.rstrip('/')}/{path}"
    return str(Path(folder, path))


def absolute_path(path: str) -> str:
    """Return a local path absolute, with ``~`` expanded, and a remote one as it is."""
    return path if is_remote(path) else str(Path(path).expanduser().absolute())


def local_path(path: str) -> str:
    """Return the local path of a file; its handler fetches a remote one, usually into a cache.

    Raises:
        OSError: it cannot be fetched, or no handler is registered for its scheme.
    """
    if not is_remote(path):
        return path
    local = PathManager.get_local_path(path)
    if local == path:  # the handler of last resort takes it for a local path
        raise FileNotFoundError(f"{path}: no path handler is registered for {path.partition('://')[0]}://")
    return local


def file_exists(path: str) -> bool:
    """Return whether a file or folder exists; a remote one whose handler cannot tell is taken to."""
    if not is_remote(path):
        return os.path.exists(path)
    try:
        return PathManager.exists(path)
    except NotImplementedError:
        return True


def atomic_write(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that other processes, and a run that is killed meanwhile, see either whole or not at all.

    Args:
        path: the local file to create or replace; its folder must exist.
        write: called with an open binary file.

    Raises:
        OSError: the folder is missing or full. An earlier file of that name is then untouched.
    """
    folder, name = os.path.split(os.path.abspath(path))
    # In the same folder, because a rename is atomic only inside a file system.
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; its folder must exist. Names of files keep their bytes.

    Raises:
        OSError: the file cannot be written.
    """
    atomic_write(os.fspath(path), lambda file: file.write(text.encode(errors="surrogateescape")))


def write_json(path: str, content: Any) -> None:
    """Write plain data as indented JSON, whole or not at all; folders are made.

    Raises:
        OSError: the file cannot be written.
        TypeError: the content is more than dicts, lists, texts, numbers, booleans and None.
    """
    text = json.dumps(content, indent=1) + "\n"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_text(path, text)


def _sync_folder(folder: str) -> None:
    # The rename itself survives a power failure only once the folder is on disk.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
