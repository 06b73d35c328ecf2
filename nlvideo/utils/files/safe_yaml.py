"""YAML of unknown origin: plain values, or an error in one line."""

import itertools
from collections.abc import Iterator
from typing import Any

import yaml

_MERGE_TAG = "tag:yaml.org,2002:merge"
# Values of a file with its aliases written out; the config of a run has about 300.
_MAX_VALUES = 100_000
_TOO_LARGE = f"more than {_MAX_VALUES} values, with aliases written out"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but no key may occur twice, and merged mappings may not grow without end."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping of keys that are all different, before ``<<`` adds others."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE_TAG:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise ValueError(f"{key.value} stands twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what ``<<`` names."""
        super().flatten_mapping(node)
        if len(node.value) > _MAX_VALUES:
            raise ValueError(_TOO_LARGE)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text; aliases become copies.

    Raises:
        ValueError: not YAML, or tags that build objects; a key that stands twice; aliases that contain themselves, or
            make too many values. One line.
    """
    try:
        return _written_out(yaml.load(text, _Loader), itertools.count(1))
    except yaml.YAMLError as error:
        raise ValueError(f"not safe YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("not safe YAML: nested too deeply, or an alias that contains itself") from None


def _written_out(value: Any, count: Iterator[int]) -> Any:
    if next(count) > _MAX_VALUES:
        raise ValueError(_TOO_LARGE)
    if isinstance(value, dict):
        return {key: _written_out(item, count) for key, item in value.items()}
    if isinstance(value, list):
        return [_written_out(item, count) for item in value]
    return value
