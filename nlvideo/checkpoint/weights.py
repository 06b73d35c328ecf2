"""Load weights that may not fit completely, and say exactly what did not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from nlvideo.utils.console import create_table
from nlvideo.utils.messages import some

# "backbone.res4.nl5.theta.weight": a tensor of the non-local block after residual block 5 of res4.
_NONLOCAL = re.compile(r"^((?:.*\.)?nl\d+)\.(.+)$")
_HEAD = "head."
_BACKBONE = "backbone."
# Absent from frozen norms and from files older than PyTorch 0.4.1, and without influence on any output.
_COUNTER = "num_batches_tracked"


@dataclass
class LoadReport:
    """What happened to each tensor of the file and of the model."""

    path: str
    num_model_tensors: int
    loaded: list[str] = field(default_factory=list)
    #: of non-local blocks the file has no tensor of: a baseline is loaded into a network with blocks
    new_nonlocal: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    #: name -> (shape in the file, shape in the model); the first dict differs in the number of classes
    classifier: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    #: loaded tensors whose shape was adapted, e.g. inflated from 2D
    num_reshaped: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether the tensors of file and model are the same set."""
        return not (self.new_nonlocal or self.missing or self.unexpected or self.classifier or self.mismatched)

    def first_difference(self) -> str:
        """Return in a few words what does not fit, by the first tensor that does not; "" where all do."""
        for name, (in_file, in_model) in {**self.classifier, **self.mismatched}.items():
            return f"{name} is {tuple(in_file)} in the file, {tuple(in_model)} in the model"
        for names, what in (([*self.new_nonlocal, *self.missing], "it lacks"), (self.unexpected, "the model has no")):
            if names:
                return f"{what} {some(names, 1)}"
        return ""

    def format(self) -> str:
        """Return one summary line and, where something did not fit, a table grouped by module."""
        reshaped = f", {self.num_reshaped} of them adapted in shape" if self.num_reshaped else ""
        count = f"{len(self.loaded)} of the model's {self.num_model_tensors} tensors"
        summary = f"Loaded {count} from {self.path}{reshaped}"
        if self.is_complete:
            return summary
        rows = _rows("new non-local blocks (expected)", self.new_nonlocal)
        rows += [("classifier of other classes (skipped)", *_shapes(item)) for item in self.classifier.items()]
        rows += [("other shape (skipped)", *_shapes(item)) for item in self.mismatched.items()]
        rows += _rows("missing in the file", self.missing)
        rows += _rows("unexpected in the file", self.unexpected)
        return f"{summary}\n{create_table([dict(zip(('what', 'module', 'tensors'), row)) for row in rows])}"


def _shapes(item: tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[str, str]:
    name, (in_file, in_model) = item
    module, _, leaf = name.rpartition(".")
    return module, f"{leaf}: file {in_file}, model {in_model}"


def _rows(what: str, names: Sequence[str]) -> list[tuple[str, str, str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        block = _NONLOCAL.match(name)
        module, leaf = block.groups() if block else name.rpartition(".")[::2]
        groups.setdefault(module, []).append(leaf)
    return [(what, module, some(leaves)) for module, leaves in groups.items()]


def load_weights_into(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> LoadReport:
    """Copy the tensors that fit by name and shape into ``model``.

    Args:
        model: its sub-modules ``backbone`` and ``head`` are told apart where it has them.
        weights: name -> tensor.
        path: where they are from, for messages.

    Raises:
        ValueError: less than half of the backbone's tensors fit, new non-local blocks aside; nothing is loaded then.
    """
    current = model.state_dict()
    report = compare_weights(current, weights, path)
    _check_backbone(current, weights, report)
    model.load_state_dict({name: weights[name] for name in report.loaded}, strict=False)
    return report


def compare_weights(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str) -> LoadReport:
    """Say which tensors of a file fit a model's state dict, without loading any."""
    report = LoadReport(path, num_model_tensors=len(current))
    blocks_in_file = {block[1] for block in map(_NONLOCAL.match, weights) if block}
    for name, tensor in current.items():
        block = _NONLOCAL.match(name)
        if name not in weights:
            if block and block[1] not in blocks_in_file:
                report.new_nonlocal.append(name)
            elif not name.endswith(_COUNTER):
                report.missing.append(name)
        elif weights[name].shape == tensor.shape:
            report.loaded.append(name)
        else:
            shapes = tuple(weights[name].shape), tuple(tensor.shape)
            other_classes = name.startswith(_HEAD) and shapes[0][1:] == shapes[1][1:]
            (report.classifier if other_classes else report.mismatched)[name] = shapes
    report.unexpected = [name for name in weights if name not in current and not name.endswith(_COUNTER)]
    return report


def _check_backbone(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], report: LoadReport) -> None:
    names = [name for name in current if name.startswith(_BACKBONE)]
    names = names or [name for name in current if not name.startswith(_HEAD)]
    new = set(report.new_nonlocal)
    names = [name for name in names if name not in new and not name.endswith(_COUNTER)]
    loaded = set(report.loaded)
    absent = [f"{name} {tuple(current[name].shape)}" for name in names if name not in loaded]
    if len(absent) * 2 > len(names):
        unused = [f"{name} {tuple(weights[name].shape)}" for name in weights if name not in loaded]
        raise ValueError(
            f"{report.path}: only {len(names) - len(absent)} of the backbone's {len(names)} tensors fit. "
            f"The file has {some(unused)}; the model wants {some(absent)}"
        )
