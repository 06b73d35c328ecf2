"""Addresses of weights: ``torchvision://resnet50``, ``hf://user/name``, and the authors' released networks by name."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError

import torch
from iopath.common.file_io import PathHandler, get_cache_dir

from nlvideo.checkpoint.convert.release import RELEASES, release_url
from nlvideo.errors import LookupFailed
from nlvideo.utils.console import bars_as_lines
from nlvideo.utils.files.file_io import PathManager
from nlvideo.utils.messages import did_you_mean

_TORCHVISION = "torchvision://"
_HUB = "hf://"
# What is downloaded of a model on the Hugging Face hub.
_HUB_WEIGHTS, _HUB_FILES = "model.safetensors", ("model.safetensors", "config.yaml", "classes.txt")
# The older of torchvision's recipes for ImageNet, as in the years of the paper. Video networks have others.
_DEFAULT_ENTRY = "IMAGENET1K_V1"


def resolve_weights(name: str) -> str:
    """Return the path or address that a value of MODEL.WEIGHTS stands for.

    Args:
        name: a path, a URL, ``torchvision://NAME``, ``hf://USER/NAME`` (which is downloaded here), or a name in
            `RELEASES`. An existing file goes before a name.

    Raises:
        FileNotFoundError: a bare name that is neither a file nor in `RELEASES`, with near matches; or a model on the
            hub without weights.
        OSError, ImportError: as for `hub_folder`.
    """
    if is_hub_name(name):
        path = os.path.join(hub_folder(name), _HUB_WEIGHTS)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name} has no {_HUB_WEIGHTS}")
        return path
    if not name or "://" in name or PathManager.exists(name):
        return name
    url = release_url(os.path.splitext(name)[0] if name.endswith(".pkl") else name)
    if url is None and not os.path.dirname(name) and not os.path.splitext(name)[1]:
        hint = did_you_mean(name, RELEASES)
        raise FileNotFoundError(f"no checkpoint {name}{f'; {hint}' if hint else ''}")
    return url or name


def is_hub_name(name: str) -> bool:
    """Return whether this is ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, and no file in there."""
    return re.fullmatch(rf"{_HUB}[^/@]+/[^/@]+(@.+)?", name) is not None


@functools.cache
def hub_folder(name: str) -> str:
    """Return the local folder of a model on the Hugging Face hub; see `is_hub_name`.

    Weights, config and names of classes are downloaded to the cache of huggingface_hub, and again if they change. If
    there is no network, what is there is taken.

    Raises:
        ImportError: huggingface_hub is not installed; the message has the command.
        OSError: there is no such model or revision, or it cannot be downloaded; one line without the user's token.
    """
    with hub_errors(name):
        from huggingface_hub import snapshot_download

        repo, _, revision = name.removeprefix(_HUB).partition("@")
        return snapshot_download(repo, revision=revision or None, allow_patterns=list(_HUB_FILES))


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what huggingface_hub raises in this block into one line that begins with a name; errors: `hub_folder`."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{name} needs huggingface_hub ({error}): pip install 'nlvideo[hub]'") from None
    except Exception as error:
        from huggingface_hub import get_token

        # A server may repeat the token that it was sent.
        text = " ".join(str(error).replace(get_token() or "\0", "***").split())
        raise OSError(f"{name}: {type(error).__name__}: {text[:400]}") from None


def torchvision_url(name: str) -> str:
    """Return the address of weights that torchvision knows.

    Args:
        name: ``resnet50`` (its IMAGENET1K_V1), ``resnet50/IMAGENET1K_V2``, or ``r2plus1d_18`` (its DEFAULT).

    Raises:
        LookupFailed: torchvision has no such model or weights; the message lists what it has.
    """
    from torchvision.models import get_model_weights, list_models

    model, _, entry = name.partition("/")
    try:
        entries = get_model_weights(model).__members__
    except ValueError as error:
        hint = did_you_mean(model, list_models())
        raise LookupFailed(f"{_TORCHVISION}{name}: torchvision has no model {model!r}. {hint}".strip()) from error
    entry = entry or (_DEFAULT_ENTRY if _DEFAULT_ENTRY in entries else "DEFAULT")
    if entry not in entries:
        allowed = ", ".join(entries) or "none"
        raise LookupFailed(f"{_TORCHVISION}{name}: torchvision has no weights {entry!r} of it. There are: {allowed}")
    return entries[entry].url


class TorchvisionHandler(PathHandler):
    """Lets iopath find ``torchvision://NAME``, and downloads it once to where torchvision looks for it."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_TORCHVISION]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = torchvision_url(path.removeprefix(_TORCHVISION))
        name = os.path.basename(url)
        local = os.path.join(torch.hub.get_dir(), "checkpoints", name)
        # Where nlvideo kept them at first.
        earlier = os.path.join(get_cache_dir(), "torchvision", name)
        if os.path.isfile(earlier) and not force:
            return earlier
        if not os.path.isfile(local) or force:
            os.makedirs(os.path.dirname(local), exist_ok=True)
            _download(path, url, local)
        return local

    def _exists(self, path: str, **kwargs: Any) -> bool:
        try:
            torchvision_url(path.removeprefix(_TORCHVISION))
        except LookupFailed:
            return False
        return True

    _isfile = _exists


def _download(path: str, url: str, local: str) -> None:
    # torchvision names its files NAME-HASH.pth; the hash is the start of the SHA-256.
    found = re.search(r"-([0-9a-f]{8,})\.\w+$", url)
    if not found:
        raise ValueError(f"{path}: {url} does not carry a checksum in its name")
    try:
        with bars_as_lines():
            torch.hub.download_url_to_file(url, local, hash_prefix=found[1])
    except URLError as error:
        advice = f"without a network, put that file at {local}"
        raise OSError(f"{path}: cannot download {url}: {error.reason}; {advice}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: {url} is damaged: {error}") from error


PathManager.register_handler(TorchvisionHandler())
