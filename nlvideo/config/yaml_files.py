"""YAML files that are based on others through ``_BASE_``."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.plugins import comes_with, resolve_spec

BASE_KEY = "_BASE_"
# The config of a run or of a packed model has this name. The tests of a run have this folder.
_DUMP, _TESTS = "config.yaml", "inference"


def read_yaml_chain(path: str, named: Collection[str] | None = None) -> dict[str, Any]:
    """Read a YAML file over the ``_BASE_`` files (one or a list, relative to the file that names them).

    Relative paths in ``PLUGINS`` become absolute, and the ``PLUGINS`` of a chain add up: a file cannot take away a
    project whose keys its base uses. Nothing is imported.

    Args:
        path: of the file.
        named: the plugins, resolved, that the user named. The folder of a run or of a packed model holds a
            ``config.yaml``: a plugin that comes with this folder must be one of them. None: no plugin will be imported.

    Raises:
        FileNotFoundError: a file of the chain is missing.
        ValueError: not safe YAML, not a mapping, a chain that closes on itself, or a plugin that is not named.
    """
    return _read_chain(os.path.abspath(os.path.expanduser(path)), (), named)


def _read_chain(path: str, above: tuple[str, ...], named: Collection[str] | None) -> dict[str, Any]:
    if path in above:
        raise ValueError(f"{BASE_KEY}: the chain closes on itself: {' -> '.join((*above, path))}")
    content = _read_yaml(path, above)
    bases = content.pop(BASE_KEY, [])
    folder = os.path.dirname(path)
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        base_path = os.path.abspath(os.path.join(folder, os.path.expanduser(base)))
        _overlay(_read_chain(base_path, (*above, path), named), merged)
    if isinstance(content.get("PLUGINS"), list):
        top = Path((*above, path)[0])
        home = str(top.parents[top.parent.name == _TESTS])
        for spec in content["PLUGINS"] if named is not None and top.name == _DUMP else ():
            plugin = resolve_spec(spec, folder)
            if plugin not in (named or ()) and comes_with(spec, folder, home):
                raise ValueError(
                    f"{top} asks for the plugin {plugin!r}, which comes with its folder; that is code, and loading it"
                    f" runs it: if you trust it, add --plugin {plugin}"
                )
        content["PLUGINS"] = [resolve_spec(spec, folder) for spec in content["PLUGINS"]]
    _overlay(content, merged)
    return merged


def _read_yaml(path: str, above: tuple[str, ...]) -> dict[str, Any]:
    if not os.path.isfile(path):
        holder = f" (named as {BASE_KEY} in {above[-1]})" if above else ""
        # To open a pipe would wait until something is written into it.
        kind = f"{path} is no file" if os.path.exists(path) else f"no config file {path}"
        raise FileNotFoundError(f"{kind}{holder}")
    try:
        with open(path, encoding="utf8") as file:
            content = parse_yaml(file.read())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of keys, got {type(content).__name__}")
    return content


def _overlay(upper: dict[str, Any], lower: dict[str, Any]) -> None:
    """Write ``upper`` over ``lower``, section by section; the two lists of PLUGINS add up."""
    for key, value in upper.items():
        if isinstance(value, dict) and isinstance(lower.get(key), dict):
            _overlay(value, lower[key])
        elif key == "PLUGINS" and isinstance(value, list) and isinstance(lower.get(key), list):
            lower[key] = list(dict.fromkeys([*lower[key], *value]))
        else:
            lower[key] = value
