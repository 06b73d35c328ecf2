"""From a file of another framework to a checkpoint of ours and the config it belongs to, and back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import nn

from nlvideo.checkpoint.convert import Converted, unknown_source
from nlvideo.checkpoint.convert.common import has_effect
from nlvideo.checkpoint.convert.release import settle
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.checkpoint.weights import ORIGIN, check_config, find_weights, fit
from nlvideo.config import CfgNode, get_cfg, load_cfg
from nlvideo.config.validate import validate
from nlvideo.modeling import META_ARCH, inflate_2d_weights
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import atomic_write
from nlvideo.utils.messages import some

# Tensors that show that names are ours: of our ResNets, and of any network with our head.
_STEM, _CLASSIFIER = "backbone.stem.conv.weight", "head.classifier.weight"
# What the other frameworks call the weights in their files.
WRAPPERS = {"pyslowfast": "model_state", "pytorchvideo": "model_state", "mmaction2": "state_dict"}


@dataclass
class Conversion:
    """What was converted, before anything is written."""

    path: str
    converted: Converted
    #: the network of the weights, frozen
    cfg: CfgNode

    def report(self) -> str:
        """Return what was taken over, noted and dropped, as text."""
        lines = [f"{self.path}: weights of {self.converted.source}: {self.converted.summary()}", *self.converted.notes]
        modules: dict[str, list[str]] = {}
        for theirs, ours in self.converted.mapped:
            modules.setdefault(".".join(ours.split(".")[:2]), []).append(theirs)
        lines.append(create_table([{"ours": module, "tensors": len(names), "from": some(names, 2)} for module, names in
                                   modules.items()]))  # fmt: skip
        reasons: dict[str, list[str]] = {}
        for name, reason in self.converted.dropped:
            reasons.setdefault(reason, []).append(name)
        rows = [{"dropped because": why, "tensors": len(names), "such as": some(names, 2)} for why, names in
                reasons.items()]  # fmt: skip
        return "\n".join([*lines, create_table(rows)] if rows else lines)


def convert_checkpoint(
    path: str, source: str = "auto", opts: Sequence[str] = (), config_file: str | None = None, entry: str = ""
) -> Conversion:
    """Read weights and the config they belong to, and prove that the two fit each other.

    Args:
        path: as MODEL.WEIGHTS.
        source: a name in `SOURCES`, or "auto".
        opts: overrides ``[KEY, VALUE, ...]``: what the file does not say, and settings of the data.
        config_file: the config of a checkpoint of ours that does not carry one.
        entry: of the file, with the weights; "": the usual one.

    Raises:
        ValueError: unreadable, not recognised, a network that ours cannot express, or a setting left open.
        FileNotFoundError: the file is missing.
    """
    content = read_file(path)
    converted = find_weights(content, path, [_STEM, _CLASSIFIER], source, entry)
    if converted.source == "nlvideo" and ORIGIN not in content:
        if _STEM not in converted.weights:
            raise ValueError(f"{path}: {unknown_source(converted.weights)}")
        if config_file is None:
            what = f"{path} is a checkpoint of nlvideo's"
            raise ValueError(f"{what}: name the config it was trained with by --config-file")
    cfg = load_cfg(config_file).clone() if config_file else get_cfg()
    cfg.defrost()
    # By themselves: other keys may be of a project, or rest on what the file says.
    decided = {key: value for key, value in zip(opts[::2], opts[1::2], strict=False) if key in converted.undecided}
    given = get_cfg()
    given.merge_from_list([word for item in decided.items() for word in item])
    settle(converted, {key: given.value_at(key) for key in decided})
    cfg.merge_from_list([word for item in converted.overrides.items() for word in item])
    cfg.merge_from_list(list(opts))
    missing = [f"{key} {' or '.join(map(str, values))}" for key, values in converted.undecided.items()
               if has_effect(key, cfg)]  # fmt: skip
    if missing:
        raise ValueError(f"{path} does not say what it was trained with; add to the command line: {'; '.join(missing)}")
    validate(cfg)
    cfg.freeze()
    check_config(converted, cfg, path)
    model = _model(cfg)
    fit(model.state_dict(), inflate_2d_weights(converted.weights, model), path, "backbone")
    return Conversion(path, converted, cfg)


def write_conversion(conversion: Conversion, out: str, overwrite: bool = False) -> str:
    """Write ``out``, a checkpoint of ours, and beside it the config with the ending ``.yaml``.

    Returns:
        The path of the config.

    Raises:
        ValueError: a file is there already, or ``out`` ends in ``.yaml``.
    """
    config_file = os.path.splitext(out)[0] + ".yaml"
    _check_free([out, config_file], overwrite)
    converted = conversion.converted
    origin = {"source": conversion.converted.source, "file": os.path.basename(conversion.path),
              "overrides": converted.overrides, "tolerated": converted.tolerated}  # fmt: skip
    content = {"model": {name: tensor.clone() for name, tensor in converted.weights.items()}, ORIGIN: origin}
    if converted.classes:
        content["classes"] = converted.classes
    atomic_write(out, lambda file: torch.save(content, file))
    comment = f"# The network of the weights {os.path.basename(out)}, converted from {conversion.converted.source}'s " \
              f"{os.path.basename(conversion.path)}.\n"  # fmt: skip
    text = yaml.safe_dump(differences(conversion.cfg), default_flow_style=None, sort_keys=False)
    atomic_write(config_file, lambda file: file.write((comment + text).encode()))
    return config_file


def write_export(conversion: Conversion, out: str, to: str, overwrite: bool = False) -> None:
    """Write the weights in the form of another framework.

    Args:
        conversion: what to write.
        out: the file.
        to: a name in `WRAPPERS`.
        overwrite: replace a file that is there.

    Raises:
        ValueError: the file is there already, or that framework's network cannot compute what this one does.
    """
    from nlvideo.checkpoint.convert.export import export_weights

    _check_free([out], overwrite)
    weights = inflate_2d_weights(conversion.converted.weights, _model(conversion.cfg))
    exported = export_weights(weights, conversion.cfg, to)
    atomic_write(out, lambda file: torch.save({WRAPPERS[to]: dict(exported)}, file))


def differences(cfg: CfgNode) -> dict[str, Any]:
    """Return, as a tree, the keys of a config whose values are not the defaults."""
    tree: dict[str, Any] = {}
    defaults = get_cfg()
    for key in cfg.keys_with_path():
        value = cfg.value_at(key)
        if value != defaults.value_at(key):
            *parents, last = key.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = list(value) if isinstance(value, tuple) else value
    return tree


def _model(cfg: CfgNode) -> nn.Module:
    with torch.device("meta"):
        return META_ARCH.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")(cfg)


def _check_free(paths: Sequence[str], overwrite: bool) -> None:
    if len(set(paths)) < len(paths):
        raise ValueError(f"{paths[0]}: the ending .yaml is for the config; give the weights another, such as .pth")
    taken = [path for path in paths if os.path.exists(path)]
    if taken and not overwrite:
        raise ValueError(f"{' and '.join(taken)} exists; --overwrite replaces it")
    for path in paths:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
