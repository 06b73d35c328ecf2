"""Names of tensors in two frameworks, and the translation of one into the other."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert.common import Converted

_LEAF = r"(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"


class ModuleNames:
    """A table of module names that is read in both directions.

    Names may hold ``{stage}`` and ``{block}``, which stand for a number; blocks have the same number on both sides.
    """

    def __init__(self, modules: Mapping[str, str], stages: Mapping[int, int]) -> None:
        """Prepare the table.

        Args:
            modules: their module -> ours. Where two of theirs are one of ours, the first is what `to_theirs` gives.
            stages: their number of a stage -> ours (2 to 5).
        """
        self._stages, self._our_stages = stages, {ours: theirs for theirs, ours in stages.items()}
        self._theirs = [(_pattern(theirs), ours) for theirs, ours in modules.items()]
        self._ours = [(_pattern(ours), theirs) for theirs, ours in modules.items()]

    def to_ours(self, name: str) -> str | None:
        """Our name of a tensor that they call `name`; None: the table has no such module."""
        return _translate(name, self._theirs, self._stages)

    def to_theirs(self, name: str) -> str | None:
        """Their name of a tensor that we call `name`; None: the table has no such module."""
        return _translate(name, self._ours, self._our_stages)


def _pattern(module: str) -> re.Pattern:
    pattern = re.escape(module).replace(r"\{stage\}", r"(?P<stage>\d+)").replace(r"\{block\}", r"(?P<block>\d+)")
    return re.compile(rf"{pattern}\.{_LEAF}")


def _translate(name: str, table: list[tuple[re.Pattern, str]], stages: Mapping[int, int]) -> str | None:
    for pattern, template in table:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        fields = match.groupdict()
        if "stage" in fields:
            if int(fields["stage"]) not in stages:
                continue
            fields["stage"] = stages[int(fields["stage"])]
        return f"{template.format(**fields)}.{fields['leaf']}"
    return None


def rename(
    source: str, content: Mapping[str, Any], names: ModuleNames, explain: Callable[[str], str | None] | None = None
) -> Converted:
    """Give the tensors of a file our names.

    Args:
        source: name of the source, for the error.
        content: name -> tensor; what is not a tensor is dropped.
        names: the table of the source.
        explain: why a name without a place has none; it returns None where it does not know.

    Raises:
        ValueError: a tensor has no place in our network, or two have the same.
    """
    converted = Converted(weights={})
    for theirs, value in content.items():
        if not isinstance(value, Tensor):
            converted.dropped.append((theirs, "not a tensor"))
            continue
        ours = names.to_ours(theirs)
        if ours is None:
            reason = (explain and explain(theirs)) or "our ResNets have no such layer"
            raise ValueError(f"{source}: cannot express {theirs} {tuple(value.shape)}: {reason}")
        if ours in converted.weights:
            raise ValueError(f"{source}: {theirs} is a second tensor for {ours}")
        converted.weights[ours] = value
        converted.mapped.append((theirs, ours))
    return converted
