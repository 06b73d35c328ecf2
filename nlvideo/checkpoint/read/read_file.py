"""Read weights from any file, whatever its ending, into one flat dict of tensors."""

import logging
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from nlvideo.checkpoint.read.safetensors import is_safetensors, read_safetensors
from nlvideo.checkpoint.read.torch_file import MAGIC, read_torch_file
from nlvideo.checkpoint.read.unpickle import Unbuilt, safe_unpickle
from nlvideo.utils.files.file_io import PathManager
from nlvideo.utils.files.file_kind import kind_of_file
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

# Where frameworks keep the weights in a file: Caffe2, PySlowFast and PyTorchVideo, OpenMMLab and Lightning, detectron2.
WRAPPERS = ("blobs", "model_state", "state_dict", "model")

# torch.save writes a zip archive; before PyTorch 1.6 it wrote pickles, the first of which is this number.
_TORCH_STARTS = (b"PK", pickle.dumps(MAGIC, protocol=2))


def read_file(path: str) -> dict[str, Any]:
    """Read a file, or an address that iopath reads, told by its content: PyTorch, safetensors, a pickle of arrays.

    Nothing in it is executed. A dict lacks what is neither a tensor, an array nor a plain type, and the log says so.

    Raises:
        FileNotFoundError: there is none.
        ValueError: none of these, cut short, or no dict; in one line.
        OSError: it cannot be downloaded.
    """
    try:
        local = PathManager.get_local_path(path)
    except URLError as error:
        raise OSError(f"{path}: cannot be downloaded: {error.reason}; give the path of the file instead") from error
    if not os.path.isfile(local):
        raise FileNotFoundError(f"no checkpoint {path}")
    with open(local, "rb") as file:
        content = _content(file, path)
    if isinstance(content, Unbuilt):
        raise ValueError(f"{path} holds an object of {content.name}, which is not built; save its state_dict() instead")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict, got {type(content).__name__}")
    return content


def _content(file: BinaryIO, path: str) -> Any:
    if is_safetensors(file):
        return read_safetensors(file, path)
    file.seek(0)
    start = file.read(max(map(len, _TORCH_STARTS)))
    file.seek(0)
    if start.startswith(_TORCH_STARTS):
        return read_torch_file(file, path)
    # Protocols from 2 on begin with this byte; 0 and 1 with the opening of a dict.
    if not start.startswith((b"\x80", b"(", b"}")):
        held = kind_of_file(file.name) or (f"{start[:8]!r} at its start" if start else "nothing")
        raise ValueError(f"{path}: no file of weights (PyTorch, safetensors or a pickle); it holds {held}")
    return safe_unpickle(file, path)


# Segments that wrappers of parts of a network put into names.
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def bare_name(name: str) -> str:
    """Return the name of a tensor without what wrappers of parts of a network, such as compiled ones, put into it."""
    return _WRAPPED.sub("", name)


#: name under which `flatten` hands on the text of the config that a file carries
CONFIG_TEXT = "cfg"


def flatten(content: Mapping[str, Any], path: str, entry: str = "") -> dict[str, Any]:
    """Find the weights in what a file holds, and the text of the config that PySlowFast and OpenMMLab put beside them.

    The text is handed on as `CONFIG_TEXT`. What PyTorch's wrappers (DDP, FSDP, compile, averages) add to names is gone.

    Args:
        content: from `read_file`.
        path: for messages.
        entry: name of the entry with the weights; "": the first of `WRAPPERS`, or else the file itself.

    Returns:
        Name -> tensor on the CPU. Numbers beside the weights, such as Caffe2's ``model_iter``, are not among them.

    Raises:
        ValueError: there are none; the message lists the entries that hold some.
    """
    entries = {name: _numeric(value) for name, value in content.items() if isinstance(value, Mapping)}
    entries = {name: weights for name, weights in entries.items() if any(value.dim() for value in weights.values())}
    chosen = entry or next((name for name in WRAPPERS if name in entries), "")
    weights = entries.get(chosen) if chosen else _numeric(content)
    if not weights or not any(tensor.dim() for tensor in weights.values()):
        where = f" under {entry!r}" if entry else ""
        raise ValueError(f"{path}: found no weights{where}; the file holds {some(list(map(str, entries or content)))}")
    # Momenta and the like have fewer entries, or other names.
    passed = [name for name, other in entries.items() if name != chosen and len(other) >= len(weights) > 1]
    if chosen and passed and not entry:
        logger.warning("%s: weights are read from %r; it has others in %s (see --entry)", path, chosen, some(passed))
    weights = {bare_name(name): tensor for name, tensor in weights.items()}
    if all(name.startswith("module.") for name, tensor in weights.items() if tensor.dim()):
        weights = {name.removeprefix("module."): value for name, value in weights.items() if name.startswith("module.")}
    return weights | ({CONFIG_TEXT: text} if (text := _config_text(content)) else {})


def weights_of(content: Mapping[str, Any], path: str, entry: str = "") -> dict[str, Tensor]:
    """Return the tensors of `flatten` alone; ValueError where there are none."""
    return {name: value for name, value in flatten(content, path, entry).items() if name != CONFIG_TEXT}


def _numeric(values: Mapping[str, Any]) -> dict[str, Tensor]:
    # Arrays are in this machine's byte order, and share their memory: a file may name one of them many times.
    values = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}


def _config_text(content: Mapping[str, Any]) -> str | None:
    """The config of PySlowFast, or of OpenMMLab's MMEngine or, before it, mmcv."""
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    texts = (content.get("cfg"), meta.get("cfg"), meta.get("config"))
    return next((text for text in texts if isinstance(text, str) and text), None)
