"""Files and folders: atomic writes, locks, kinds, YAML, remote paths."""

from nlvideo.utils.files import remote  # noqa: F401 its handler is registered
