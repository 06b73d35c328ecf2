"""The config tree: that of fvcore, with safe YAML, numbers in any form, and errors that say what is allowed."""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from fvcore.common.config import CfgNode as _CfgNode

from nlvideo.config.yaml_files import read_yaml_chain
from nlvideo.errors import LookupFailed
from nlvideo.utils.files.safe_yaml import parse_yaml
from nlvideo.utils.messages import close_matches


class CfgNode(_CfgNode):
    """A tree of configuration keys. Merging checks that each key exists and that its value has the default's type.

    An int is taken for a float, and a whole float for an int; lists and tuples are interchangeable; a non-empty list
    of one type keeps that element type. A key whose default is None takes anything.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Read a YAML file and its bases for ``merge_from_file``, see `read_yaml_chain`. Nothing in them runs."""
        return read_yaml_chain(filename)

    def merge_from_other_cfg(self, cfg_other: dict[str, Any]) -> None:
        """Merge a (nested) mapping into this tree.

        Raises:
            LookupFailed: a key does not exist.
            ValueError: a value has the wrong type.
            AttributeError: the config is frozen.
        """
        self._check_mutable()
        _merge(cfg_other, self, "", self)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Merge ``[KEY, VALUE, KEY, VALUE, ...]``, as on a command line; text is read as YAML unless the key is text.

        Raises:
            LookupFailed: a key does not exist.
            ValueError: a key without a value, or a value of the wrong type.
            AttributeError: the config is frozen.
        """
        self._check_mutable()
        if len(cfg_list) % 2:
            words = " ".join(map(str, cfg_list))
            raise ValueError(f"overrides come in pairs KEY VALUE, got {len(cfg_list)} words: {words}")
        for full_key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            node = self
            *parents, last = str(full_key).split(".")
            for parent in parents:
                node = node.get(parent) if isinstance(node, CfgNode) else None
            if not isinstance(node, CfgNode) or last not in node:
                raise _unknown_key(str(full_key), self)
            if isinstance(node[last], CfgNode):
                keys = ", ".join(node[last])
                raise ValueError(f"{full_key}: is a section with the keys {keys}; override one of them")
            if isinstance(value, str) and (node._is_free(last) or not isinstance(node[last], str)):
                value = _parse(value)
            node._put(last, value, str(full_key))

    def _is_free(self, key: str) -> bool:
        """Whether a key takes anything: its default is None."""
        return self[key] is None or key in self.__dict__.get("_free", ())

    def _put(self, key: str, value: Any, full_key: str) -> None:
        """Set a key that exists, in the type of its default; raise ValueError where that would be a guess."""
        if self._is_free(key):
            self.__dict__["_free"] = {*self.__dict__.get("_free", ()), key}
        self[key] = value if self._is_free(key) else coerce(value, self[key], full_key)

    def with_overrides(self, words: Sequence[Any]) -> "CfgNode":
        """Return a copy with ``[KEY, VALUE, ...]`` merged as by ``merge_from_list``; frozen where this config is."""
        copy = self.clone()
        copy.defrost()
        copy.merge_from_list(words)
        if self.is_frozen():
            copy.freeze()
        return copy

    def keys_with_path(self, prefix: str = "") -> Iterator[str]:
        """Yield the full name of every key that holds a value, e.g. ``"MODEL.HEAD.NUM_CLASSES"``."""
        for key, value in self.items():
            if isinstance(value, CfgNode):
                yield from value.keys_with_path(f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    def value_at(self, key: str) -> Any:
        """Return the value of a full key such as ``MODEL.BACKBONE.STEM``.

        Raises:
            KeyError: there is none.
        """
        value: Any = self
        for part in key.split("."):
            value = value[part]
        return value

    def _check_mutable(self) -> None:
        # yacs lets a merge through a frozen config.
        if self.is_frozen():
            raise AttributeError(
                "the config is frozen: pass overrides when it is loaded, or change a copy (with_overrides)"
            )


def _merge(source: dict[str, Any], target: CfgNode, prefix: str, root: CfgNode) -> None:
    for key, value in source.items():
        full_key = f"{prefix}{key}"
        if key not in target:
            if not target.is_new_allowed():
                raise _unknown_key(full_key, root)
            target[key] = CfgNode(value) if isinstance(value, dict) else value
        elif isinstance(target[key], CfgNode):
            if not isinstance(value, dict):
                raise ValueError(f"{full_key}: is a section with the keys {', '.join(target[key])}, got {value!r}")
            _merge(value, target[key], f"{full_key}.", root)
        else:
            target._put(key, value, full_key)


def _unknown_key(full_key: str, root: CfgNode) -> LookupFailed:
    plugins = ", ".join(map(str, root.get("PLUGINS", []))) or "none"
    return LookupFailed(
        f"unknown key {full_key!r}. {_misspelling(full_key, root) or _wrong_section(full_key, root)}"
        f"Plugins loaded: {plugins} (a project's keys exist only once it is listed in PLUGINS)"
    )


def _misspelling(full_key: str, root: CfgNode) -> str:
    node, right = root, []
    for part in full_key.split("."):
        if not isinstance(node, CfgNode):
            return ""
        near = [part] if part in node else close_matches(part, node)
        if not near:
            return ""
        right.append(near[0])
        node = node[near[0]]
    return f"Did you mean {'.'.join(right)!r}? "


def _wrong_section(full_key: str, root: CfgNode) -> str:
    last = full_key.split(".")[-1].upper()
    elsewhere = [key for key in root.keys_with_path() if key.split(".")[-1] == last]
    # A common name, such as ENABLED, tells nothing.
    return f"Did you mean {' or '.join(map(repr, elsewhere))}? " if 1 <= len(elsewhere) <= 2 else ""


def coerce(value: Any, default: Any, key: str) -> Any:
    """Return ``value`` in the type of ``default``; raise ValueError, which names the key, where that would be a guess.

    A default of None takes anything.
    """
    expected, given = type(default), type(value)
    if default is None:
        return value
    # YAML 1.1 reads "1e-4" as text.
    if expected in (int, float) and given is str:
        value = _parse(value)
        given = type(value)
    if expected is float and given is int:
        return float(value)
    if expected is int and given is float and value.is_integer():
        return int(value)
    if expected in (list, tuple) and given in (list, tuple):
        if len({type(element) for element in default}) == 1 and not isinstance(default[0], (list, tuple)):
            value = [coerce(element, default[0], f"{key}[{index}]") for index, element in enumerate(value)]
        return expected(value)
    if expected is not given:
        hint = f"; quote it: '{value}'" if expected is str and given in (int, float, bool) else ""
        hint = f"; write [{value}]" if expected in (list, tuple) and given in (str, int, float) else hint
        raise ValueError(f"{key}: expected {expected.__name__}, got {given.__name__} {value!r}{hint}")
    return value


def _parse(text: str) -> Any:
    """Read a word of the command line as YAML (true, [a, b]) or, where that says text, as Python (1e-4, (1, 2))."""
    try:
        value = parse_yaml(text)
    except ValueError:
        value = text
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
