"""Foreign weights for a model of ours: converted when they are loaded, and refused where they mean another network."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nlvideo.checkpoint.convert import SOURCES, Converted, convert, recognise
from nlvideo.checkpoint.convert.common import has_effect
from nlvideo.checkpoint.convert.release import release_overrides, settle
from nlvideo.checkpoint.read.read_file import CONFIG_TEXT, bare_name, flatten
from nlvideo.checkpoint.weights import LoadReport, compare_weights
from nlvideo.config import CfgNode
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

#: entry of a file of ours that was converted: its source, overrides and tolerated values
ORIGIN = "converted_from"

# Keys that change neither what given weights compute nor where they go: how blocks start, how they are evaluated, where
# they stand (names and shapes tell), which norm holds the same numbers, how clips are cut.
_FREE = (
    "INPUT.", "TEST.", "MODEL.HEAD.", "MODEL.NORM", "MODEL.BACKBONE.FREEZE_AT", "MODEL.BACKBONE.ZERO_INIT_RESIDUAL",
    "MODEL.NONLOCAL.STAGES", "MODEL.NONLOCAL.EVERY", "MODEL.NONLOCAL.BLOCKS", "MODEL.NONLOCAL.ZERO_INIT",
    "MODEL.NONLOCAL.INIT_STD", "MODEL.NONLOCAL.ALGORITHM",
)  # fmt: skip
_ENABLED = "MODEL.NONLOCAL.ENABLED"
_STEM = "backbone.stem.conv.weight"
_NONLOCAL_NORM = "MODEL.NONLOCAL.NORM"


# What trainers put before the names of a network that is a part of theirs.
_PREFIXES = ("model.", "backbone.", "module.")


def identify(flat: Mapping[str, Any], is_ours: Callable[[Mapping[str, Any]], bool]) -> tuple[str, Mapping[str, Any]]:
    """Say whose names the weights of `read.flatten` have, also below a prefix; ValueError if several claim them.

    Returns:
        "nlvideo", a name in `SOURCES`, or "" for unknown names; and the weights, without it and what has another.
    """
    candidates = [flat]
    for candidate in candidates:
        if is_ours(candidate):
            return "nlvideo", candidate
        if any(source.recognise(candidate) for source in SOURCES.values()):
            return recognise(candidate), candidate
        for prefix in _PREFIXES:
            below = {name.removeprefix(prefix): value for name, value in candidate.items() if name.startswith(prefix)}
            if below:
                candidates.append(below | {name: flat[name] for name in (CONFIG_TEXT,) if name in flat})
    return "", flat


def convert_content(content: dict[str, Any], path: str, source: str = "auto", entry: str = "") -> tuple[str, Converted]:
    """Convert what a file holds, and add what a released file's name says; return the name of the source, too.

    Args:
        content: from `read_file`.
        path: for errors, and for the name.
        source: a name in `SOURCES`, or "auto".
        entry: as for `read.flatten`.

    Raises:
        ValueError: no weights, not recognised, or a network that ours cannot express; in one line.
    """
    return _convert(flatten(content, path, entry), path, source)


def _convert(flat: Mapping[str, Any], path: str, source: str) -> tuple[str, Converted]:
    try:
        source, flat = identify(flat, lambda names: False) if source == "auto" else (source, flat)
        converted = convert(flat, source or recognise(flat))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if source == "caffe2":
        settle(converted, release_overrides(path))
    return source, converted


def find_weights(
    content: Mapping[str, Any], path: str, current: Mapping[str, Tensor], cfg: CfgNode | None, entry: str = ""
) -> tuple[dict[str, Tensor], bool]:
    """Find the weights for a model in what a file holds, and whether they were converted: not our own or unknown names.

    Args:
        content: from `read_file`.
        path: for messages.
        current: state dict of the model.
        cfg: what the model was built from; None: nothing is compared with it, which the log says.
        entry: as for `read.flatten`.

    Raises:
        ValueError: as `convert_content`, or the file means another network than `cfg`.
    """
    flat = flatten(content, path, entry)
    if ORIGIN in content:
        flat.pop(CONFIG_TEXT, None)
        converted = Converted(flat, **origin_of(content, path))
    else:
        ours = {bare_name(name): name for name in current}
        source, below = identify(flat, lambda names: not ours.keys().isdisjoint(names))
        if source in ("nlvideo", ""):
            return {ours.get(name, name): value for name, value in below.items() if name != CONFIG_TEXT}, False
        source, converted = _convert(below, path, source)
        logger.info("%s: weights of %s: %s", path, source, converted.summary())
        for note in converted.notes:
            logger.info("%s: %s", path, note)
    if cfg is None:
        logger.warning("%s: no config to compare its settings with: %s", path, converted.overrides)
    else:
        check_config(converted, cfg, path, current)
    return converted.weights, True


def origin_of(content: Mapping[str, Any], path: str) -> dict[str, dict[str, Any]]:
    """Return what a file of ours that was converted remembers, "overrides" and "tolerated"; ValueError if damaged."""
    try:
        return {name: dict(content[ORIGIN][name].items()) for name in ("overrides", "tolerated")}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: its entry {ORIGIN!r} does not say which network was converted") from error


def check_config(converted: Converted, cfg: CfgNode, path: str, current: Mapping[str, Tensor] | None = None) -> None:
    """Refuse weights that another config than `cfg` belongs to; `current` is the state dict of its model.

    Raises:
        ValueError: naming each key with its value in the file and in the config.
    """
    found = []
    in_file, in_config = converted.overrides.get(_ENABLED, False), cfg.MODEL.NONLOCAL.ENABLED
    for key, wanted in converted.overrides.items():
        # A baseline may be loaded into a network with blocks, which are new then.
        of_blocks = key.startswith("MODEL.NONLOCAL.")
        if of_blocks and not (in_file and (in_config or key == _ENABLED)):
            continue
        if key.startswith(_FREE) or not has_effect(key, cfg):
            continue
        given = cfg.value_at(key)
        same = _same_norm(wanted, given) if key == _NONLOCAL_NORM else _equal(wanted, given)
        if not same and not any(_equal(value, given) for value in converted.tolerated.get(key, [])):
            found.append(f"{key}: file {_plain(wanted)!r}, config {_plain(given)!r}")
        elif not same:
            logger.warning("%s: %s: file %r, config %r; training may start with it", path, key, wanted, _plain(given))
    for key, allowed in converted.undecided.items():
        if not has_effect(key, cfg):
            continue
        if cfg.value_at(key) not in allowed:
            either = " or ".join(map(repr, allowed))
            found.append(f"{key}: file {either}, config {cfg.value_at(key)!r}")
        else:
            logger.warning("%s does not say which %s it is for; it loads as %r", path, key, cfg.value_at(key))
    kernels = [weights[_STEM].shape[-2:] for weights in (converted.weights, current or {}) if _STEM in weights]
    if len(set(kernels)) == 2:
        a, b = ("{} x {}".format(*kernel) for kernel in kernels)
        found.append(f"MODEL.BACKBONE.STEM: file one of {a}, config {cfg.MODEL.BACKBONE.STEM!r}, which is of {b}")
    if found:
        raise ValueError(f"{path} is of another network than the config's: {'; '.join(found)}")


def check_fit(current: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str) -> None:
    """Refuse converted weights that leave a gap in the backbone, or have no place in the model.

    A whole head may be absent, the classifier of other classes, and whole non-local blocks may be new.

    Raises:
        ValueError: naming some tensors.
    """
    report: LoadReport = compare_weights(current, weights, path)
    reshaped = [f"{name} (file {a}, model {b})" for name, (a, b) in report.mismatched.items()]
    has_head = any(name.startswith("head.") for name in weights)
    missing = [name for name in report.missing if has_head or not name.startswith("head.")]
    found = {"other shapes": reshaped, "only in the model": missing, "only in the file": report.unexpected}
    differences = [f"{what}: {some(names, 3)}" for what, names in found.items() if names]
    if differences:
        raise ValueError(f"{path} is of another network than the config's: {'; '.join(differences)}")


def _same_norm(wanted: str, given: str) -> bool:
    return (wanted == "none") == (given == "none")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _equal(wanted: Any, given: Any) -> bool:
    if not isinstance(wanted, (list, tuple)) or not isinstance(given, (list, tuple)):
        return wanted == given
    # Pixel statistics: one value stands for every channel.
    length = max(len(wanted), len(given))
    a, b = (list(values) * (length if len(values) == 1 else 1) for values in (wanted, given))
    return len(a) == len(b) and all(x == y or _close(x, y) for x, y in zip(a, b))


def _close(a: Any, b: Any) -> bool:
    return isinstance(a, float) and isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-5)
