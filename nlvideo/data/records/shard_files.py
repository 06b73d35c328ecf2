"""Shards: tar files that hold the videos of a dataset and their labels, in the layout of WebDataset; see docs/data.md.

The files of a sample share a name up to the first dot: ``000017.mp4`` with ``000017.cls`` (a label, or several as
``3,7``) or ``000017.json`` (an object with "label", and with what else a record may hold). A shard that ``write_shard``
made has an index beside it, which says where each video lies. Others are read through, header by header.

Headers are read with Python's ``tarfile``. The package webdataset reads a shard as a stream: it gets to a sample only
through all before it. Here a record is a place in a file, so a run resumes at any clip, and the order of clips does not
depend on workers: see benchmarks/records.md.
"""

import glob
import io
import itertools
import json
import math
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nlvideo.data.catalog import Record
from nlvideo.data.video.paths import VIDEO_EXTENSIONS, is_frame_folder
from nlvideo.utils.files.file_io import WholeFile, fetch_file, has_own_handler, is_remote, local_path, write_text
from nlvideo.utils.files.file_kind import kind_of_file
from nlvideo.utils.files.remote import open_in_place, shard_info

INDEX_SUFFIX = ".index"
_INDEX_FORMAT = "nlvideo-shard-1"
# What a record may hold beside its file; of these what a sample's JSON gives is taken over.
OPTIONAL_KEYS = ("start_sec", "end_sec", "label_spans")
_LABEL_EXTENSIONS = (".cls", ".json")
# Of a video whose own extension is not one of a video.
_ANY_VIDEO = ".video"
# More paths than this come from a mistake, and would fill the memory.
MAX_SHARDS = 1_000_000

# One sample: (video id, offset in the shard, bytes, label, further keys of the record).
Entry = tuple[str, int, int, int | list[int], dict[str, Any]]


def expand_pattern(pattern: str) -> list[str]:
    """Return the paths in a pattern such as ``train-{000000..000099}.tar``, ``{a,b}.tar`` or, locally, ``*.tar``.

    Raises:
        ValueError: a range ends before it begins, there are more than ``MAX_SHARDS`` paths, or ``*`` matches nothing.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_expand_braces(part, pattern) if place % 2 else [part] for place, part in enumerate(parts)]
    if (count := math.prod(map(len, choices))) > MAX_SHARDS:
        raise ValueError(f"{pattern}: names {count} shards, allowed: up to {MAX_SHARDS}")
    expanded = []
    for path in map(os.path.expanduser, map("".join, itertools.product(*choices))):
        if not any(character in path for character in "*?[") or is_remote(path) or os.path.exists(path):
            expanded.append(path)
        elif found := sorted(glob.glob(path)):
            expanded.extend(found)
        else:
            raise ValueError(f"{pattern}: no file matches {path}")
    return expanded


def _expand_braces(text: str, pattern: str) -> Sequence[str]:
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if bounds is None:
        return text.split(",")
    first, last = bounds.groups()
    if int(first) > int(last):
        raise ValueError(f"{pattern}: the range {{{text}}} ends before it begins")
    if (count := int(last) - int(first) + 1) > MAX_SHARDS:
        raise ValueError(f"{pattern}: names {count} shards or more, allowed: up to {MAX_SHARDS}")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def write_shard(path: str, records: Sequence[Record], first: int) -> None:
    """Write records of video files as a shard, and its index; both are whole or not there.

    The samples are named by their numbers, from ``first`` on.

    Raises:
        ValueError: the video of a record is a folder.
        OSError: a video cannot be read or the shard not be written.
    """
    with WholeFile(path) as whole:
        with open(whole.temporary, "wb") as file:
            entries = _write_members(file, records, first)
        index = {"format": _INDEX_FORMAT, "bytes": os.path.getsize(whole.temporary), "samples": entries}
        # A shard that is replaced goes first, so that none is ever there without an index or with another one's.
        Path(path).unlink(missing_ok=True)
        write_text(path + INDEX_SUFFIX, json.dumps(index, separators=(",", ":")))


def _write_members(file: BinaryIO, records: Sequence[Record], first: int) -> list[Entry]:
    entries = []
    # Not USTAR_FORMAT, whose files are below 8 GiB.
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as shard:
        for number, record in enumerate(records, start=first):
            source = local_path(record["file_name"])
            if is_frame_folder(source):
                raise ValueError(f"{record['video_id']}: {source} is a folder; shards hold video files")
            extras = {key: record[key] for key in OPTIONAL_KEYS if key in record}
            extension = os.path.splitext(source)[1].lower()
            extension = extension if extension in VIDEO_EXTENSIONS else _ANY_VIDEO
            with open(source, "rb") as video:
                member = tarfile.TarInfo(f"{number:09d}{extension}")
                member.size = os.fstat(video.fileno()).st_size
                shard.addfile(member, video)
            offset = shard.offset - -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            entries.append((record["video_id"], offset, member.size, record["label"], extras))
            text = json.dumps({"label": record["label"], "video_id": record["video_id"], **extras}).encode()
            member = tarfile.TarInfo(f"{number:09d}.json")
            member.size = len(text)
            shard.addfile(member, io.BytesIO(text))
    return entries


def read_index(path: str) -> list[Entry] | None:
    """Return the samples of a shard by its index; None where it has none.

    Raises:
        ValueError: the index is not of this shard as it is now, or damaged.
    """
    name = path + INDEX_SUFFIX
    if (local := fetch_file(name)) is None:
        return None
    with open(local) as file:
        try:
            index = json.load(file)
            given, size, samples = index["format"], index["bytes"], index["samples"]
            samples = [(video_id, offset, count, label, extras) for video_id, offset, count, label, extras in samples]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{name}: not the index of a shard; remove it, or make it again") from None
    if given != _INDEX_FORMAT:
        raise ValueError(f"{name}: got the format {given!r}, allowed: {_INDEX_FORMAT}")
    found = size if has_own_handler(path) else shard_info(path)["size"] if is_remote(path) else os.path.getsize(path)
    if found != size:
        raise ValueError(f"{name}: this index is for a shard of {size} bytes, but {path} has {found}")
    return [_checked(name, sample, size) for sample in samples]


def scan_shard(path: str) -> list[Entry]:
    """Return the samples of a shard by reading the headers in it; of a remote one, little else is fetched.

    Raises:
        ValueError: it is not a tar file, or a sample lacks its video or its label; shard and sample are named.
        OSError: it cannot be read.
    """
    samples: dict[str, dict[str, Any]] = {}
    in_place = is_remote(path) and not has_own_handler(path)
    local = "" if in_place else local_path(path)
    try:
        with (
            open_in_place(path) if in_place else open(local, "rb") as file,
            tarfile.open(fileobj=file, mode="r:") as shard,
        ):
            for member in shard:
                folder, name = os.path.split(member.name)
                if not member.isfile() or name.startswith("."):  # ._a.mp4 is what macOS adds to a.mp4
                    continue
                key, dot, extension = name.partition(".")
                extension = dot + extension.lower()
                key = os.path.join(folder, key)
                if extension in _LABEL_EXTENSIONS:
                    content = shard.extractfile(member)
                    assert content is not None  # it is None for members that are no files
                    samples.setdefault(key, {})[extension] = content.read()
                elif extension in VIDEO_EXTENSIONS or extension == _ANY_VIDEO:
                    samples.setdefault(key, {}).setdefault("videos", []).append((member.offset_data, member.size))
                elif os.path.splitext(extension)[1] in (*_LABEL_EXTENSIONS, *VIDEO_EXTENSIONS):
                    samples.setdefault(key, {})["dotted"] = member.name
    except tarfile.TarError as error:
        kind = kind_of_file(local)
        found = f"{kind}; videos are read in place, from .tar" if kind and kind != "a tar archive" else error
        raise ValueError(f"{path}: not a whole tar file ({found})") from None
    num_bytes = shard_info(path)["size"] if in_place else os.path.getsize(local)
    return [_checked(path, _to_entry(path, key, sample), num_bytes) for key, sample in samples.items()]


def _to_entry(path: str, key: str, sample: dict[str, Any]) -> Entry:
    videos, has_label = sample.get("videos", []), not sample.keys().isdisjoint(_LABEL_EXTENSIONS)
    if len(videos) != 1 or not has_label:
        found = f"{len(videos)} videos, {'a' if has_label else 'no'} label"
        rule = "; the name of a sample ends at the first dot, so {} is ignored; rename it"
        rule = rule.format(sample["dotted"]) if "dotted" in sample else ""
        raise ValueError(f"{path}: the sample {key} has {found}, allowed: one video and a .cls or .json file{rule}")
    try:
        if ".json" in sample:
            fields = json.loads(sample[".json"])
        else:
            labels = [int(part) for part in sample[".cls"].decode().split(",")]
            fields = {"label": labels if len(labels) > 1 else labels[0]}
        label = fields["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = str(sample.get(".json", sample.get(".cls")))[:80]
        raise ValueError(f"{path}: the sample {key} has no label, an integer or a list of them, in {text}") from None
    extras = {name: fields[name] for name in OPTIONAL_KEYS if name in fields}
    return str(fields.get("video_id", key)), *videos[0], label, extras


def _checked(path: str, entry: Entry, num_bytes: int) -> Entry:
    """Return a sample as it is; ``ValueError``: it lies outside of its shard, or does not hold what training takes."""
    video_id, offset, size, label, extras = entry
    name = f"{path}: the sample {video_id}"
    if not (type(offset) is type(size) is int and 0 <= offset <= offset + size <= num_bytes):
        raise ValueError(f"{name} lies at {offset}, {size} bytes, outside of its shard of {num_bytes} bytes")
    labels = label if isinstance(label, list) else [label]
    if not all(type(value) is int and abs(value) < 2**31 for value in labels):
        raise ValueError(f"{name} has no label, an integer or a list of them, in {str(label)[:80]}")
    try:
        video_id.encode(errors="surrogateescape")
        spans = extras.get("label_spans", [])
        times = [extras[key] for key in ("start_sec", "end_sec") if key in extras]
        times += [second for label, *seconds in spans for second in seconds]
        fits = all(type(label) is int and len(seconds) == 2 for label, *seconds in spans)
        fits &= all(type(second) in (int, float) and math.isfinite(second) for second in times)
        fits &= extras.keys() <= set(OPTIONAL_KEYS)
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        allowed = "start_sec, end_sec (seconds) and label_spans ([class, start, end])"
        raise ValueError(f"{name} has {str(extras)[:80]}, allowed beside the label: {allowed}")
    return entry
