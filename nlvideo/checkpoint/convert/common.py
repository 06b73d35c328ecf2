"""What a converter of foreign weights takes and gives, and the register of converters."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nlvideo.config import CfgNode
from nlvideo.utils.messages import one_of


@dataclass
class Converted:
    """The weights of a foreign file under the names of our `VideoClassifier`, and what they belong to.

    Kernels of image networks stay 4-D; loading inflates them.
    """

    #: name in our model's state dict -> tensor
    weights: dict[str, Tensor]
    #: config key -> the value with which our network computes what the source computed
    overrides: dict[str, Any] = field(default_factory=dict)
    #: (their name, our name)
    mapped: list[tuple[str, str]] = field(default_factory=list)
    #: (their name, why it has no place here)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    #: what a reader of the log should know
    notes: list[str] = field(default_factory=list)
    #: config key -> the values that the file could mean; it does not say which
    undecided: dict[str, list[Any]] = field(default_factory=dict)
    #: config key -> values besides that of `overrides` that training may start with
    tolerated: dict[str, list[Any]] = field(default_factory=dict)

    def summary(self) -> str:
        """Return in one line how many tensors were taken over, how many were dropped, and why."""
        reasons = Counter(reason for _, reason in self.dropped)
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{len(self.mapped)} tensors taken over, {len(self.dropped)} dropped{f' ({why})' if why else ''}"


_SOFTMAX_FORMS = ("gaussian", "embedded_gaussian")


def has_effect(key: str, cfg: CfgNode) -> bool:
    """Return whether a key changes what a network computes, beside the other keys of its config."""
    node = cfg.MODEL.NONLOCAL
    idle = {
        "MODEL.NONLOCAL.SCALE": node.PAIRWISE not in _SOFTMAX_FORMS,
        "MODEL.NONLOCAL.POOL_FIRST": not node.SUBSAMPLE,
        "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES": node.TEMPORAL_GROUPS == 1,
    }
    return not idle.get(key, False)


@dataclass(frozen=True)
class Source:
    """A format of weights. Both functions take the flat name -> tensor dict that `read.flatten` gives."""

    name: str
    #: whether a file is of this format
    recognise: Callable[[Mapping[str, Any]], bool]
    #: raises ValueError, in one line, for a network that ours cannot express
    convert: Callable[[Mapping[str, Any]], Converted]


#: name -> source, filled by the modules of this package
SOURCES: dict[str, Source] = {}


def register(source: Source) -> Source:
    """Add a source.

    Raises:
        ValueError: its name is taken.
    """
    if source.name in SOURCES:
        raise ValueError(f"source {source.name!r} is registered twice")
    SOURCES[source.name] = source
    return source


def get_source(name: str) -> Source:
    """Look a source up.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SOURCES:
        raise one_of("source of weights", name, ["auto", *sorted(SOURCES)])
    return SOURCES[name]
