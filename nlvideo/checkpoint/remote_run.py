"""A run whose OUTPUT_DIR is in object storage: it writes to a local folder, which a thread uploads."""

import base64
import contextlib
import hashlib
import logging
import math
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from nlvideo.checkpoint.earlier_run import TAG, EarlierRun, checkpoints_in, is_own
from nlvideo.errors import UploadFailed
from nlvideo.utils.files.remote import download, read_range, with_store
from nlvideo.utils.system.env import INVOCATIONS

logger = logging.getLogger(__name__)

# How often the thread looks whether there is a new checkpoint, and how often it uploads other files.
_LOOK_SEC, _FULL_SEC = 2.0, 60.0
# s3fs uploads large files in parts of this size.
_PART = 50 << 20
# Bytes that are read at once.
_BLOCK = 8 << 20
_EARLIER = "earlier_"
_NUMBERED = re.compile(r"model_(\d+)\.pth")
# The runs whose uploads `finish_uploads` waits for.
_running: list["RemoteRun"] = []


class RemoteRun:
    """The folder of a run in object storage, and the local folder that holds the same files.

    Args:
        url: OUTPUT_DIR, with a scheme.

    Attributes:
        folder: ``output/SCHEME/BUCKET/...``, below the current folder.

    Raises:
        ValueError: the address names no bucket, or contains . or ..
    """

    def __init__(self, url: str):
        scheme, _, place = url.partition("://")
        self.url, parts = url.rstrip("/"), [part for part in place.split("/") if part]
        if not parts or {".", ".."} & set(parts):
            raise ValueError(f"OUTPUT_DIR: got {url!r}, allowed: {scheme}://BUCKET/FOLDER, without . and ..")
        self.folder = os.path.join("output", scheme, *parts)
        self._found: dict[str, dict[str, Any]] = {}
        # Size and time that each local file had when it was last uploaded or downloaded.
        self._sent: dict[str, tuple[int, int]] = {}
        self._sent_tag = b""
        self._checksums = True
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._upload_on, name="uploads", daemon=True)

    def fetch(self, resume: bool, eval_only: bool, keep: int) -> None:
        """Download the run if the store has a later checkpoint than the local folder.

        Args:
            resume: a training continues the run.
            eval_only: a test of the run, and no training.
            keep: SOLVER.CHECKPOINT_KEEP. If it is not 0, older checkpoints are downloaded, too, so that this run can
                remove them.

        Raises:
            ValueError: a new run would replace one that is not on this machine.
            OSError, ImportError: the store cannot be read, see ``nlvideo.utils.files.remote.with_store``.
        """
        os.makedirs(self.folder, exist_ok=True)
        self._found = with_store(self.url, _find)
        # Make the folders earlier_N of the store here. A run that is set aside later then gets a free name.
        for name in {name.partition("/")[0] for name in self._found if name.startswith(_EARLIER)}:
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        if INVOCATIONS in self._found and not os.path.exists(os.path.join(self.folder, INVOCATIONS)):
            self._download(INVOCATIONS)
        size = int(self._found[TAG]["size"]) if TAG in self._found else 0
        named = read_range(f"{self.url}/{TAG}", 0, size).decode().strip()
        if _progress(named) <= _progress(self._tag().decode().strip()):
            return
        if not (resume or eval_only or is_own(self.folder)):
            what = f"OUTPUT_DIR: got {self.url!r}, which holds a run that this machine does not have"
            raise ValueError(f"{what}, allowed: --resume to go on with it, or another folder")
        if checkpoints_in(Path(self.folder)):
            EarlierRun(self.folder).set_aside()
        logger.info("Downloading the run in %s to %s", self.url, self.folder)
        # TAG is downloaded after all other files: without it, half of a run does not count as a run.
        for name in sorted(self._found, key=lambda name: name == TAG):
            is_skipped = _NUMBERED.fullmatch(name) and name != named and not keep
            if not name.startswith(_EARLIER) and not is_skipped:
                self._download(name)

    def start(self) -> None:
        """Start the thread that uploads. First upload one file here: a store that cannot be written is an error now.

        Raises:
            OSError: the store cannot be written.
        """
        self._put(INVOCATIONS, _stat(os.path.join(self.folder, INVOCATIONS)))
        _running.append(self)
        self._thread.start()

    def finish(self) -> None:
        """Upload what is left, and end the thread.

        Raises:
            UploadFailed: something could not be uploaded. The message is one line.
        """
        self._ending.set()
        self._thread.join()
        try:
            logger.info("Uploading what is left of %s to %s", self.folder, self.url)
            self._upload()
        except OSError as error:
            files = self._local_files()
            left = sum(self._sent.get(name) != status for name, status in files.items() if name != TAG)
            left += self._tag() != self._sent_tag
            what = f"{left} of {len(files)} files are not uploaded" if left else "removed files are still in the store"
            raise UploadFailed(
                f"OUTPUT_DIR: {what}: {error}. The files are in {self.folder}. To upload them, run again from the same"
                " working folder with --resume and the same OUTPUT_DIR"
            ) from None

    def _upload_on(self) -> None:
        due, failures = 0.0, 0
        while not self._ending.wait(_LOOK_SEC):
            try:
                has_new_checkpoint = self._tag() != self._sent_tag
                if time.monotonic() < due and (failures or not has_new_checkpoint):
                    continue
                self._upload()
                failures = 0
            except Exception as error:
                failures += 1
                if failures == 1:
                    logger.error("Uploads to %s fail: %s. The run goes on, and tries to upload again", self.url, error)
            due = time.monotonic() + _FULL_SEC

    def _upload(self) -> None:
        """Upload the files that have changed, then TAG. Then remove from the store what the local folder has lost."""
        tag, files = self._tag(), self._local_files()
        # Upload earlier_N first. After that, files of the new run may replace the old files of the same names.
        for name in sorted(files, key=lambda name: (not name.startswith(_EARLIER), name)):
            if name != TAG and self._sent.get(name) != files[name]:
                self._put(name, files[name])
        last = tag.decode().strip()
        if last not in self._sent:
            # The local folder may be gone. Nothing is removed for that.
            return
        if tag != self._sent_tag:
            with_store(f"{self.url}/{TAG}", lambda store, inner: store.pipe_file(inner, tag))
            self._sent_tag = tag
        for name in self._sent.keys() - {last}:
            if not os.path.exists(os.path.join(self.folder, name)):
                with_store(f"{self.url}/{name}", lambda store, inner: store.rm_file(inner))
                del self._sent[name]

    def _put(self, name: str, before: tuple[int, int]) -> None:
        local = os.path.join(self.folder, name)

        def put(store: Any, inner: str) -> None:
            """Upload the file. Compare it with what the store reports, unless the local file has changed meanwhile."""
            store.put_file(local, inner)
            if not self._is_same(local, store.info(inner)) and _stat(local) == before:
                raise ConnectionError("the store has other bytes than were sent")

        known = self._found.pop(name, None)
        try:
            if known is None or not self._is_same(local, known, sure=True):
                with_store(f"{self.url}/{name}", put)
        except FileNotFoundError:
            if os.path.exists(local):
                raise
            return
        self._sent[name] = before

    def _is_same(self, local: str, info: dict[str, Any], sure: bool = False) -> bool:
        """Whether an object has the bytes of a file, by size and checksum; ``sure``: False if it has no checksum."""
        size = os.path.getsize(local)
        if size != info["size"]:
            return False
        found = re.fullmatch(r"([0-9a-f]{32})(?:-(\d+))?", _checksum(info)) if self._checksums else None
        part = _PART if found and found[2] else max(size, 1)
        starts = range(0, max(size, 1), part)
        if not found or int(found[2] or 1) != len(starts):
            return not sure
        digests = [_md5(local, start, part) for start in starts]
        own = hashlib.md5(b"".join(digests)).digest() if found[2] else digests[0]
        if own.hex() == found[1] or sure:
            return own.hex() == found[1]
        # An encrypted object may have another checksum. If its bytes are the same, only sizes are compared from now on.
        path = f"{self.url}/{os.path.relpath(local, self.folder)}"
        with open(local, "rb") as file:
            blocks = range(0, size, _BLOCK)
            same = all(read_range(path, start, min(start + _BLOCK, size)) == file.read(_BLOCK) for start in blocks)
        self._checksums = not same
        return same

    def _download(self, name: str) -> None:
        local = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(local), exist_ok=True)
        download(f"{self.url}/{name}", local, 0, int(self._found.pop(name)["size"]))
        self._sent[name] = _stat(local)

    def _tag(self) -> bytes:
        try:
            return Path(self.folder, TAG).read_bytes()
        except FileNotFoundError:
            return b""

    def _local_files(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file, without hidden ones: locks, and what is being written."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for path in (os.path.join(folder, name) for name in names if not name.startswith(".")):
                with contextlib.suppress(FileNotFoundError):
                    found[os.path.relpath(path, self.folder)] = _stat(path)
        return found


def finish_uploads() -> None:
    """Wait until everything is uploaded, if OUTPUT_DIR of this process is in object storage.

    Raises:
        UploadFailed: something could not be uploaded. The message is one line.
    """
    while _running:
        _running.pop().finish()


def _find(store: Any, inner: str) -> dict[str, dict[str, Any]]:
    """What the store reports of each object in a folder, by its path relative to the folder."""
    found = store.find(inner, detail=True)
    start = len(inner.strip("/")) + 1
    return {name.strip("/")[start:]: info for name, info in found.items() if len(name.strip("/")) > start}


def _progress(checkpoint: str) -> float:
    if numbered := _NUMBERED.fullmatch(checkpoint):
        return float(numbered[1])
    return math.inf if checkpoint == "model_final.pth" else -1.0


def _stat(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _checksum(info: dict[str, Any]) -> str:
    """The MD5 of an object in hex, as S3 and Google give it; after an upload in parts, "-" and their number follow."""
    if encoded := info.get("md5Hash"):
        return base64.b64decode(encoded).hex()
    return str(info.get("ETag", "")).strip('"')


def _md5(path: str, start: int, size: int) -> bytes:
    digest = hashlib.md5()
    with open(path, "rb") as file:
        file.seek(start)
        while size and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.digest()
