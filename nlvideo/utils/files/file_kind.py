"""What a file is, by its bytes: for errors about a file that is not what it should be."""

import os
import re
import zlib

# Regular expressions of the first bytes, and what they mean; the first that matches counts.
_KINDS = [
    (rb"\0{64}", "bytes that are all zero: a download or a copy that did not finish"),
    (rb"version https://git-lfs\.github\.com/", "a Git LFS pointer: `git lfs pull` fetches the file itself"),
    (rb"Salted__|age-encryption\.org/|-----BEGIN (PGP|AGE)|[\x84\x85]..\x03|\x8c.\x04[\x07-\x09]", "encrypted data"),
    (rb"\x1f\x8b", "gzip data, such as a .tar.gz"),
    (rb"BZh[1-9]1AY", "bzip2 data, such as a .tar.bz2"),
    (rb"\xfd7zXZ\0", "xz data, such as a .tar.xz"),
    (rb"\x28\xb5\x2f\xfd", "zstd data"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a rar archive"),
    (rb".{257}ustar", "a tar archive"),
    (rb"(?i)\s*(<!--.{,4000}?-->\s*)?<(!doctype\s+html|html|head|body)\b", "an HTML page"),
    (rb"\s*<\?xml", "an XML text"),
]
# Containers of videos; what fails in such a file is not its kind.
_VIDEO = (
    rb".{4}(ftyp|moov|mdat|free|skip|wide)|RIFF|\x1a\x45\xdf\xa3|FLV|OggS|\x30\x26\xb2\x75|\0\0\0?\x01|\x47|.{4}\x47"
)
_MP4_HEADER_BYTES = 2**20


def kind_of_file(path: str) -> str:
    """Return what a file is, by its bytes: ``"an HTML page"``; an empty string if its bytes do not tell.

    Args:
        path: a local file; one that cannot be read has no kind.
    """
    try:
        # A pipe would wait.
        with open(path if os.path.isfile(path) else os.devnull, "rb") as file:
            head = file.read(_MP4_HEADER_BYTES)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MP4_HEADER_BYTES))
            tail = file.read()
    except (OSError, ValueError):
        return ""
    start = head[:4096]
    for pattern, kind in _KINDS:
        if re.match(pattern, start, re.DOTALL):
            return kind
    if re.match(_VIDEO, start, re.DOTALL):
        protected = any(b"encv" in part and b"sinf" in part for part in (head, tail))
        return "a video with encrypted frames (DRM)" if protected else ""
    if re.fullmatch(rb"[\t\n\f\r\x20-\x7e\x80-\xff]+", start):
        return f"a text: {start.decode(errors='replace')[:40]!r}"
    random = len(start) >= 256 and len(zlib.compress(start, 9)) >= len(start)
    return "bytes without any pattern: encrypted, compressed or damaged data" if random else ""
