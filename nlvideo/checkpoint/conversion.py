"""Convert a file of another framework to a checkpoint of ours and its config, and back."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import nn

from nlvideo.checkpoint.convert import Converted, unknown_source
from nlvideo.checkpoint.convert.common import CLASSIFIER, STEM, has_effect
from nlvideo.checkpoint.convert.release import settle
from nlvideo.checkpoint.plain import save_weights
from nlvideo.checkpoint.read.read_file import SAFETENSORS, read_file
from nlvideo.checkpoint.weights import ORIGIN, check_config, find_weights, fit
from nlvideo.config import CfgNode, get_cfg, load_cfg
from nlvideo.config.validate import validate
from nlvideo.modeling import META_ARCH, inflate_2d_weights
from nlvideo.utils.console import create_table
from nlvideo.utils.files.file_io import atomic_write, write_text
from nlvideo.utils.messages import some

# The entry with the weights in the files of other frameworks.
_ENTRIES = {"pyslowfast": "model_state", "pytorchvideo": "model_state"} | dict.fromkeys(
    ("mmaction2", "temporal-shift-module"), "state_dict"
)


@dataclass
class Conversion:
    """What was converted, before anything is written."""

    path: str
    converted: Converted
    cfg: CfgNode  #: the network of the weights, frozen

    def report(self) -> str:
        """Return what was taken over, noted and dropped, as text."""
        lines = [f"{self.path}: weights of {self.converted.source}: {self.converted.summary()}", *self.converted.notes]
        modules = [(".".join(ours.split(".")[:2]), theirs) for theirs, ours in self.converted.mapped]
        lines.append(_grouped("ours", "from", modules))
        if self.converted.dropped:
            lines.append(_grouped("dropped because", "such as", [(why, name) for name, why in self.converted.dropped]))
        return "\n".join(lines)


def _grouped(group: str, examples: str, pairs: Sequence[tuple[str, str]]) -> str:
    groups: dict[str, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    rows = [{group: key, "tensors": len(names), examples: some(names, 2)} for key, names in groups.items()]
    return create_table(rows)


def convert_checkpoint(
    path: str, source: str = "auto", opts: Sequence[str] = (), config_file: str | None = None, entry: str = ""
) -> Conversion:
    """Read weights, make the config of their network, and check that the two fit each other.

    Args:
        path, entry: as for `find_weights`.
        source: a name in `SOURCES`, or "auto".
        opts: overrides ``[KEY, VALUE, ...]``: what the file does not say, and settings of the data.
        config_file: the config of a checkpoint of ours that does not carry one.

    Raises:
        ValueError: unreadable, not recognised, a network that ours cannot express, or a setting left open.
        FileNotFoundError: the file is missing.
    """
    content = read_file(path)
    converted = find_weights(content, path, [STEM, CLASSIFIER], source, entry)
    if converted.source == "nlvideo" and ORIGIN not in content:
        if STEM not in converted.weights:
            raise ValueError(f"{path}: {unknown_source(converted.weights)}")
        if config_file is None:
            raise ValueError(f"{path} is a checkpoint of nlvideo: name its config with --config-file")
    cfg = load_cfg(config_file) if config_file else get_cfg()
    # Read apart from the other keys, which may be of a project, or need what the file says.
    decided = {key: value for key, value in zip(opts[::2], opts[1::2], strict=False) if key in converted.undecided}
    given = get_cfg().with_overrides([word for item in decided.items() for word in item])
    settle(converted, {key: given.value_at(key) for key in decided})
    cfg = cfg.with_overrides([*(word for item in converted.overrides.items() for word in item), *opts])
    open_keys = {key: values for key, values in converted.undecided.items() if has_effect(key, cfg)}
    missing = [f"{key} {' or '.join(map(str, values))}" for key, values in open_keys.items()]
    if missing:
        raise ValueError(f"{path} does not say what it was trained with; add to the command line: {'; '.join(missing)}")
    validate(cfg)
    cfg.freeze()
    check_config(converted, cfg, path)
    model = meta_network(cfg)
    fit(model.state_dict(), inflate_2d_weights(converted.weights, model), path, "backbone")
    return Conversion(path, converted, cfg)


def write_conversion(conversion: Conversion, out: str, overwrite: bool = False) -> str:
    """Write ``out``, a checkpoint of ours, and beside it the config with the ending ``.yaml``.

    Returns:
        The path of the config.

    Raises:
        ValueError: a file exists already, or ``out`` ends in ``.yaml``.
    """
    config_file = os.path.splitext(out)[0] + ".yaml"
    if out == config_file:
        raise ValueError(f"{out}: the ending .yaml is for the config; give the weights another, such as .pth")
    make_way([out, config_file], overwrite)
    converted, original = conversion.converted, os.path.basename(conversion.path)
    origin: dict[str, Any] = {"source": converted.source, "file": original}
    origin |= {"overrides": converted.overrides, "tolerated": converted.tolerated}
    extra = {ORIGIN: origin} | ({"classes": converted.classes} if converted.classes else {})
    save_weights(out, converted.weights, **extra)
    comment = f"# The network of the weights {os.path.basename(out)}, converted from {converted.source}'s {original}.\n"
    text = yaml.safe_dump(differences(conversion.cfg), default_flow_style=None, sort_keys=False)
    write_text(config_file, comment + text)
    return config_file


def write_export(conversion: Conversion, out: str, to: str, overwrite: bool = False) -> None:
    """Write the weights in the form of another framework.

    Args:
        conversion: what to write.
        out: the file.
        to: "pyslowfast", "pytorchvideo", "mmaction2" or "temporal-shift-module".
        overwrite: replace a file that exists.

    Raises:
        ValueError: the file exists already or is to be of safetensors, or that framework has no network that computes
            the same.
    """
    from nlvideo.checkpoint.convert.export import export_weights

    if out.endswith(SAFETENSORS):
        raise ValueError(f"{out}: files of {to} are PyTorch's; give it another ending, such as .pth")
    make_way([out], overwrite)
    weights = inflate_2d_weights(conversion.converted.weights, meta_network(conversion.cfg))
    exported = export_weights(weights, conversion.cfg, to)
    atomic_write(out, lambda file: torch.save({_ENTRIES[to]: dict(exported)}, file))


def differences(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of a config whose values are not the defaults, as nested dicts."""
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


def meta_network(cfg: CfgNode) -> nn.Module:
    """Return the model of a config without memory for its weights, on the meta device."""
    with torch.device("meta"):
        return META_ARCH.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")(cfg)


def make_way(paths: Sequence[str], overwrite: bool) -> None:
    """Make the folders of files to write; ValueError where a file exists already and ``overwrite`` is False."""
    taken = [path for path in paths if os.path.exists(path)]
    if taken and not overwrite:
        raise ValueError(f"{' and '.join(taken)} exists; --overwrite replaces it")
    for path in paths:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
