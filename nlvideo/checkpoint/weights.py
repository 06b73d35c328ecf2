"""How weights get from a file into a model: read, identify, convert, fit.

`read_file` reads. `find_weights` identifies the source of a file once, and gives the weights our names. `fit` compares
them with a model and refuses what a policy does not allow. `load_weights` does all of this.
"""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nlvideo.checkpoint.catalog import is_hub_name, resolve_weights
from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.common import CONFIG_TEXT, STEM, Converted, has_effect, plain, same_value
from nlvideo.checkpoint.convert.release import dataset_of, licence_of, release_overrides, settle
from nlvideo.config import CfgNode
from nlvideo.data.datasets.listed import classes_beside
from nlvideo.utils.console import create_table
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

#: entry of a converted file: its source, the name of the original file, the overrides and the tolerated values
ORIGIN = "converted_from"
# Where frameworks keep the weights in a file: Caffe2, PySlowFast and PyTorchVideo, OpenMMLab and Lightning, detectron2.
WRAPPERS = ("blobs", "model_state", "state_dict", "model")
# Prefixes that trainers add to the names of tensors.
_PREFIXES = ("model.", "backbone.", "module.")
# What wrappers (torch.compile, FSDP, activation checkpoints) add inside names. `insert_nonlocal` adds the last one.
_WRAPPED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|(?<=\.)module\.")

# "backbone.res4.nl5.theta.weight": a tensor of the non-local block after residual block 5 of res4. And
# "backbone.layer3.1.nonlocal_block.theta.weight": one of a block that `insert_nonlocal` put after layer3.1.
_NONLOCAL = re.compile(r"^((?:.*\.)?(?:nl\d+|nonlocal_block))\.(.+)$")
_HEAD, _BACKBONE = "head.", "backbone."
# The counter of batches of a norm. Frozen norms do not have it, and neither do files older than PyTorch 0.4.1. It
# changes no output.
_COUNTER = "num_batches_tracked"

# Keys whose values may differ between the file and the config. They say how clips are cut, how blocks start, which
# algorithm computes them, where they are (names and shapes show this anyway), and which class of norm is used.
_FREE = (
    "INPUT.", "TEST.", "MODEL.HEAD.", "MODEL.NORM", "MODEL.BACKBONE.FREEZE_", "MODEL.BACKBONE.ZERO_INIT_RESIDUAL",
    "MODEL.NONLOCAL.STAGES", "MODEL.NONLOCAL.EVERY", "MODEL.NONLOCAL.BLOCKS", "MODEL.NONLOCAL.ZERO_INIT",
    "MODEL.NONLOCAL.INIT_STD", "MODEL.NONLOCAL.ALGORITHM",
)  # fmt: skip
_NAME, _ENABLED = "MODEL.BACKBONE.NAME", "MODEL.NONLOCAL.ENABLED"

# (shape in the file, shape in the model)
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
# What must fit; see `fit`.
Policy = Literal["half", "backbone", "all"]


@dataclass
class LoadReport:
    """What happened to each tensor of the file and of the model."""

    path: str
    num_model_tensors: int
    loaded: list[str] = field(default_factory=list)
    new_nonlocal: list[str] = field(default_factory=list)  #: of non-local blocks that the file does not have
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    classifier: dict[str, Shapes] = field(default_factory=dict)  #: of the head, with another number of classes
    mismatched: dict[str, Shapes] = field(default_factory=dict)  #: other shapes
    num_reshaped: int = 0  #: loaded tensors whose shape was adapted, e.g. inflated from 2D
    classes: list[str] = field(default_factory=list)  #: names, if the classifier was loaded; see `Converted`

    @property
    def is_complete(self) -> bool:
        """Whether file and model have the same tensors, of the same shapes."""
        return not self.differences()

    def differences(self, fine_tuning: bool = False, count: int = 4) -> str:
        """Return in one line what does not fit, with the names of ``count`` tensors of each kind; "" where all does.

        With ``fine_tuning``, what fine-tuning changes is left out: new non-local blocks, a classifier with another
        number of classes, and the whole head if the file has no tensor of it.
        """
        shapes = self.mismatched if fine_tuning else {**self.classifier, **self.mismatched}
        missing = self.missing if fine_tuning else [*self.new_nonlocal, *self.missing]
        in_file = (*self.loaded, *self.classifier, *self.mismatched, *self.unexpected)
        if fine_tuning and not any(name.startswith(_HEAD) for name in in_file):
            missing = [name for name in missing if not name.startswith(_HEAD)]
        found = {
            "only in the model": missing,
            "only in the file": self.unexpected,
            "other shapes": _with_shapes(shapes),
        }
        return "; ".join(f"{what}: {some(names, count)}" for what, names in found.items() if names)

    def format(self) -> str:
        """Return one summary line and, where something did not fit, a table grouped by module."""
        reshaped = f", {self.num_reshaped} of them adapted in shape" if self.num_reshaped else ""
        count = f"{len(self.loaded)} of the model's {self.num_model_tensors} tensors"
        summary = f"Loaded {count} from {self.path}{reshaped}"
        if self.is_complete:
            return summary
        rows = _rows("new non-local blocks (expected)", self.new_nonlocal)
        rows += _rows("classifier of other classes (skipped)", _with_shapes(self.classifier))
        rows += _rows("other shape (skipped)", _with_shapes(self.mismatched))
        rows += _rows("missing in the file", self.missing)
        rows += _rows("unexpected in the file", self.unexpected)
        return f"{summary}\n{create_table(rows)}"


def _with_shapes(shapes: Mapping[str, Shapes]) -> list[str]:
    return [f"{name} (file {a}, model {b})" for name, (a, b) in shapes.items()]


def _rows(what: str, names: Sequence[str]) -> list[dict[str, str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        block = _NONLOCAL.match(name)
        module, leaf = block.groups() if block else name.rpartition(".")[::2]
        groups.setdefault(module, []).append(leaf)
    return [{"what": what, "module": module, "tensors": some(leaves)} for module, leaves in groups.items()]


def load_weights(
    model: nn.Module,
    content: Mapping[str, Any],
    path: str,
    *,
    cfg: CfgNode | None = None,
    adapt_weights: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None,
    entry: str = "",
    complete: bool = False,
) -> LoadReport:
    """Load those weights of a file that fit the model, and log the others.

    Args:
        model: what to load into.
        content: from `read_file`.
        path: of the file, for messages; the name of a released file also says what network it is of.
        cfg: what the model was built from. None: the settings of a foreign file are not compared; the log says so.
        adapt_weights: called with the weights and the model before the two are compared.
        entry: as for `flatten`.
        complete: refuse a file that does not have exactly the tensors of the model.

    Raises:
        ValueError: there is no such entry; the file must be complete and is not; less than half of the backbone fits;
            or weights of another framework belong to another network than ``cfg``, or do not fill the backbone.
    """
    current = model.state_dict()
    found = find_weights(content, path, current, entry=entry, rename=getattr(model, "rename_weights", None))
    summary = [f"weights of {found.source}: {found.summary()}"] if found.source != "nlvideo" else []
    for line in (*summary, *found.notes):
        logger.info("%s: %s", path, line)
    if found.overrides and cfg is not None:
        check_config(found, cfg, path, current)
    elif found.overrides:
        logger.warning("%s: no config to compare its settings with: %s", path, found.overrides)
    shapes = {name: tensor.shape for name, tensor in found.weights.items()}
    weights = found.weights if adapt_weights is None else adapt_weights(found.weights, model)
    report = load_weights_into(model, weights, path, "all" if complete else "backbone" if found.overrides else "half")
    report.classes = [] if report.classifier else found.classes
    report.num_reshaped = sum(name in shapes and shapes[name] != weights[name].shape for name in report.loaded)
    logger.log(logging.INFO if report.is_complete else logging.WARNING, "%s", report.format())
    return report


def find_weights(
    content: Mapping[str, Any],
    path: str,
    names: Iterable[str],
    source: str = "auto",
    entry: str = "",
    rename: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Converted:
    """Find the weights in what a file holds, identify their source, and give them our names.

    Args:
        content, path: as for `load_weights`.
        names: of the tensors of the model. A file that has one of them is ours.
        source: a name in `SOURCES`; "auto": decided by the names in the file; "": the file is ours. In the result,
            ``source`` is "nlvideo" for our own names, and for names that no source claims.
        entry: as for `flatten`.
        rename: the model's own function that renames the tensors of foreign files, see `META_ARCH`. It is called first.

    Raises:
        ValueError: there are no weights, several sources claim them, or our network computes something else; one line.
    """
    ours = {_WRAPPED.sub("", name): name for name in names}
    flat: Mapping[str, Any] = flatten(content, path, entry)
    flat = flat if rename is None else rename(dict(flat))
    try:
        if source == "auto":
            source, flat = identify(flat, ours.keys())
        found = convert(flat, source) if source else Converted({n: v for n, v in flat.items() if n != CONFIG_TEXT})
        # Weights do not show the alpha of SlowFast, but the name of a released file does.
        if source == "caffe2" or "MODEL.BACKBONE.ARGS" in found.undecided:
            settle(found, release_overrides(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found.weights = {ours.get(name, name): value for name, value in found.weights.items()}
    if source:
        file, config = path, flat.get(CONFIG_TEXT, "")
    else:
        found.mapped = [(name, name) for name in found.weights]
        found.overrides, found.tolerated, file = _origin_of(content, path)
        config = ""
    found.dataset = found.dataset or dataset_of(file, config)
    found.name_classes(_stored_classes(content, path))
    if licence := licence_of(file):
        found.notes.append(f"licence of these weights: {licence}")
    return found


def _stored_classes(content: Mapping[str, Any], path: str) -> list[str]:
    """The names of classes in a file, or in ``NAME.classes.txt`` or ``classes.txt`` beside it."""
    path = resolve_weights(path) if is_hub_name(path) else path
    stored = content.get("classes")
    if stored and isinstance(stored, list) and all(isinstance(name, str) for name in stored):
        return stored
    return classes_beside(os.path.abspath(path))[0] if os.path.isfile(path) else []


def flatten(content: Mapping[str, Any], path: str, entry: str = "") -> dict[str, Any]:
    """Find the weights in the content of a file. Remove what PyTorch's wrappers (DDP, FSDP, compile) add to names.

    Args:
        content: from `read_file`.
        path: for messages.
        entry: the entry of the file with the weights; "": the first of `WRAPPERS`, or else the file itself.

    Returns:
        Name -> tensor on the CPU. Plain numbers beside them, such as Caffe2's ``model_iter``, are left out. The text of
        the config that PySlowFast or OpenMMLab put into the file is under the name `CONFIG_TEXT`.

    Raises:
        ValueError: there are no weights. The message lists the entries that hold some.
    """
    entries = {name: _numeric(value) for name, value in content.items() if isinstance(value, Mapping)}
    entries = {name: weights for name, weights in entries.items() if any(value.dim() for value in weights.values())}
    chosen = entry or next((name for name in WRAPPERS if name in entries), "")
    weights = entries.get(chosen, {}) if chosen else _numeric(content)
    if not any(tensor.dim() for tensor in weights.values()):
        where, held = f" under {entry!r}" if entry else "", some(list(map(str, entries or content))) or "nothing"
        raise ValueError(f"{path}: found no weights{where}; the file holds {held}")
    # Other entries with as many tensors, such as averaged weights. The state of an optimizer has fewer.
    others = [name for name, other in entries.items() if name != chosen and len(other) >= len(weights) > 1]
    if chosen and others and not entry:
        logger.warning("%s: weights are read from %r; others are in %s (see --entry)", path, chosen, some(others))
    flat: dict[str, Any] = {_WRAPPED.sub("", name): tensor for name, tensor in weights.items()}
    if all(name.startswith("module.") for name, tensor in flat.items() if tensor.dim()):
        flat = {name.removeprefix("module."): value for name, value in flat.items() if name.startswith("module.")}
    # The config as text: `cfg` from PySlowFast; in `meta`, `cfg` from MMEngine, or `config` from the older mmcv.
    meta = content["meta"] if isinstance(content.get("meta"), Mapping) else {}
    for text in (content.get("cfg"), meta.get("cfg"), meta.get("config")):
        if isinstance(text, str) and text:
            return flat | {CONFIG_TEXT: text}
    return flat


def _numeric(values: Mapping[str, Any]) -> dict[str, Tensor]:
    # `from_numpy` does not copy. A file may name one array many times, and copies could fill the memory.
    values = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}


def weights_of(content: Mapping[str, Any], path: str, entry: str = "") -> dict[str, Tensor]:
    """Return the tensors of `flatten` alone; ValueError where there are none."""
    return {name: value for name, value in flatten(content, path, entry).items() if name != CONFIG_TEXT}


def identify(flat: Mapping[str, Any], ours: Collection[str]) -> tuple[str, Mapping[str, Any]]:
    """Find the source of weights by their names, which may have the prefix of a trainer; ``ours``: names in our model.

    Returns:
        A name in `SOURCES`, or "" for our own and for unknown names; and the weights. If a prefix was removed, only the
        weights that had it are returned.

    Raises:
        ValueError: several sources claim the names.
    """
    # The list grows: every prefix that can be removed gives one more candidate.
    candidates = [flat]
    for candidate in candidates:
        if any(name in ours for name in candidate):
            return "", candidate
        if source := recognise(candidate):
            return source, candidate
        for prefix in _PREFIXES:
            below = {name.removeprefix(prefix): value for name, value in candidate.items() if name.startswith(prefix)}
            if below:
                candidates.append(below | {name: flat[name] for name in (CONFIG_TEXT,) if name in flat})
    return "", flat


def _origin_of(content: Mapping[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The overrides, the tolerated values and the name of the original file of a converted file; empty for others."""
    if ORIGIN not in content:
        return {}, {}, ""
    try:
        origin = content[ORIGIN]
        return dict(origin["overrides"].items()), dict(origin["tolerated"].items()), origin.get("file", "")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: its entry {ORIGIN!r} does not say which network was converted") from error


def check_config(
    converted: Converted, cfg: CfgNode, path: str, current: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Refuse weights that belong to another config than ``cfg``; ``current`` is the state dict of its model.

    Raises:
        ValueError: some keys differ. The message has each with its value in the file and in the config.
    """
    found = []
    has_blocks = converted.overrides.get(_ENABLED, False)

    def _matters(key: str) -> bool:
        # Weights without blocks may start a network with blocks. The blocks are new then.
        if key.startswith("MODEL.NONLOCAL.") and not (has_blocks and (key == _ENABLED or cfg.MODEL.NONLOCAL.ENABLED)):
            return False
        return not key.startswith(_FREE) and has_effect(key, cfg)

    for key, wanted in converted.overrides.items():
        if not _matters(key) or same_value(key, wanted, given := plain(cfg.value_at(key))):
            continue
        difference = f"{key}: file {plain(wanted)!r}, config {given!r}"
        if any(value is None or same_value(key, value, given) for value in converted.tolerated.get(key, [])):
            logger.warning("%s: %s; training may start from these weights", path, difference)
        else:
            found.append(difference)
    for key, allowed in converted.undecided.items():
        if not _matters(key):
            continue
        given = cfg.value_at(key)
        if any(same_value(key, value, given) for value in allowed):
            logger.warning("%s does not show its %s; it is loaded as %r", path, key, given)
        else:
            found.append(f"{key}: file {' or '.join(map(repr, allowed))}, config {given!r}")
    stems = [weights[STEM] for weights in (converted.weights, current) if STEM in weights]
    if cfg.MODEL.BACKBONE.NAME == "TSM" and _NAME not in converted.overrides and stems and stems[0].dim() == 5:
        # C2D and TSM have the same names and shapes, so the file may be of either.
        logger.warning("%s: %s: file 'ResNet3d', config 'TSM'; training may start from these weights", path, _NAME)
    kernels = ["{} x {}".format(*stem.shape[-2:]) for stem in stems]
    if len(set(kernels)) == 2:
        config = f"config {cfg.MODEL.BACKBONE.STEM!r} with one of {kernels[1]}"
        found.append(f"MODEL.BACKBONE.STEM: file with a kernel of {kernels[0]}, {config}")
    if found:
        raise ValueError(f"{path} is of another network than the config's: {'; '.join(found)}")


def fit(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str, policy: Policy) -> LoadReport:
    """Compare weights with a model, and refuse what a policy does not allow. Nothing is loaded.

    Args:
        current: state dict of the model.
        weights: name -> tensor, under our names and in our shapes.
        path: of the file, for messages.
        policy: "half": at least half of the backbone's tensors must fit; new non-local blocks do not count. "backbone":
            the whole backbone and every tensor of the file must fit, except what fine-tuning changes; see
            `LoadReport.differences`. "all": file and model must have the same tensors.

    Raises:
        ValueError: the policy does not allow it. The message names some tensors.
    """
    report = compare_weights(current, weights, path)
    text = "" if policy == "half" else report.differences(fine_tuning=policy == "backbone", count=3)
    if text:
        raise ValueError(f"{path} is of another network than the config's: {text}")
    if policy == "half":
        _check_half(current, weights, report)
    return report


def load_weights_into(
    model: nn.Module, weights: Mapping[str, Tensor], path: str, policy: Policy = "half"
) -> LoadReport:
    """Copy the tensors that fit by name and shape into ``model``; arguments and errors as for `fit`."""
    report = fit(model.state_dict(), weights, path, policy)
    model.load_state_dict({name: weights[name] for name in report.loaded}, strict=False)
    return report


def compare_weights(
    current: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str, counters: bool = False
) -> LoadReport:
    """Say which tensors of a file fit the state dict of a model; ``counters``: compare the counts of batches, too."""
    report = LoadReport(path, num_model_tensors=len(current))
    blocks_in_file = {block[1] for block in map(_NONLOCAL.match, weights) if block}
    for name, tensor in current.items():
        block = _NONLOCAL.match(name)
        if name not in weights:
            if block and block[1] not in blocks_in_file:
                report.new_nonlocal.append(name)
            elif counters or not name.endswith(_COUNTER):
                report.missing.append(name)
            else:
                report.num_model_tensors -= 1
        elif weights[name].shape == tensor.shape:
            report.loaded.append(name)
        else:
            shapes = tuple(weights[name].shape), tuple(tensor.shape)
            other_classes = name.startswith(_HEAD) and shapes[0][1:] == shapes[1][1:]
            (report.classifier if other_classes else report.mismatched)[name] = shapes
    strange = [name for name in weights if name not in current]
    report.unexpected = [name for name in strange if counters or not name.endswith(_COUNTER)]
    return report


def _check_half(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], report: LoadReport) -> None:
    backbone = [name for name in current if name.startswith(_BACKBONE)]
    backbone = backbone or [name for name in current if not name.startswith(_HEAD)]
    new, loaded = set(report.new_nonlocal), set(report.loaded)
    names = [name for name in backbone if name not in new and not name.endswith(_COUNTER)]
    absent = [f"{name} {tuple(current[name].shape)}" for name in names if name not in loaded]
    if len(absent) * 2 > len(names):
        unused = [f"{name} {tuple(weights[name].shape)}" for name in weights if name not in loaded]
        raise ValueError(
            f"{report.path}: only {len(names) - len(absent)} of the backbone's {len(names)} tensors fit. "
            f"The file has {some(unused) or 'no others'}; the model wants {some(absent)}"
        )
