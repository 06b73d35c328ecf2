"""Trained models by name: those in the package, folders of runs, and configs with weights."""

import logging
import os
import tempfile
from collections.abc import Sequence

from torch import nn

from nlvideo.checkpoint import last_checkpoint_in, read_file
from nlvideo.checkpoint.catalog import hub_folder, is_hub_name
from nlvideo.checkpoint.convert.release import RELEASES, release_config
from nlvideo.checkpoint.read.read_file import SAFETENSORS
from nlvideo.checkpoint.trained import class_names, load_trained_model, with_classes_of
from nlvideo.config import CfgNode, load_cfg
from nlvideo.config.validate import validate
from nlvideo.errors import LookupFailed
from nlvideo.model_zoo.model_zoo import get_config_file, list_trained, trained_folder
from nlvideo.modeling import build_model
from nlvideo.utils.files.file_io import write_text
from nlvideo.utils.messages import did_you_mean

logger = logging.getLogger(__name__)

# The weights of a folder without last_checkpoint: of a complete run, and of a packed model.
_WEIGHTS = ("model_final.pth", "model.pth", "model.safetensors")


def get(
    cfg_or_name: CfgNode | str | os.PathLike,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str] = (),
    entry: str = "",
) -> nn.Module:
    """Build a model in eval mode, with its weights.

    Example:
        >>> model = get("quickstart")
        >>> model.cfg.INPUT.NUM_FRAMES, model.classes[0]
        (8, 'left')

    Args:
        cfg_or_name: a trained model of `list_trained`, the folder of a run, a file ``*.safetensors`` with a config in
            it or beside it, a YAML file, a config of `list_configs`, a config itself, a network of the authors' release
            (its name or its file), which is downloaded once, or ``hf://USER/NAME``, a model on the Hugging Face hub.
        weights: as MODEL.WEIGHTS; they must fit exactly. None: the weights of the trained model, the last ones of the
            run, or MODEL.WEIGHTS of a file or config. For the name of a config, MODEL.WEIGHTS is not used, because
            training starts from it. Without weights the model is random, and the log says so.
        device: as MODEL.DEVICE; None: as the config says.
        opts: overrides ``[KEY, VALUE, ...]`` of the config, e.g. ``["TEST.NUM_CLIPS", "1"]``.
        plugins: project folders, modules or entry points to load before the config. Not for a config itself.
        entry: the entry of the file with the weights, e.g. "ema"; "": the usual one.

    Returns:
        The model, with two more attributes. ``cfg`` is the frozen config with its device and weights. ``classes`` has
        the names of the classes in the order of the scores; without names they are "0", "1", ...

    Raises:
        LookupFailed: no such model, config or key.
        FileNotFoundError: the weights are missing.
        OSError: they cannot be downloaded; the message says where to put the file.
        ValueError: a wrong value, or weights of another network.
    """
    cfg = trained_config(cfg_or_name, weights, device, opts, plugins)
    if cfg.MODEL.WEIGHTS:
        model, classes = load_trained_model(cfg, cfg.MODEL.WEIGHTS, entry)
    else:
        logger.warning("No weights for %s: random ones", cfg_or_name if isinstance(cfg_or_name, str) else "the config")
        model, classes = build_model(cfg).eval(), class_names(cfg)
    # As plain attributes: a module's own types are tensors and modules.
    vars(model).update(cfg=cfg, classes=classes)
    return model


def trained_config(
    cfg_or_name: CfgNode | str | os.PathLike,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    opts: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> CfgNode:
    """Return the frozen config of a trained model, with its weights in MODEL.WEIGHTS; arguments and errors: see `get`.

    Where MODEL.HEAD.NUM_CLASSES is 0, it becomes that of the weights.
    """
    last_words = ["MODEL.WEIGHTS", os.fspath(weights)] if weights is not None else []
    last_words += ["MODEL.DEVICE", device] if device is not None else []
    cfg = _config_of(cfg_or_name, opts, last_words, plugins)
    return with_classes_of(cfg, cfg.MODEL.WEIGHTS)


def _config_of(
    cfg_or_name: CfgNode | str | os.PathLike, opts: Sequence[str], last_words: Sequence[str], plugins: Sequence[str]
) -> CfgNode:
    if isinstance(cfg_or_name, CfgNode):
        cfg = cfg_or_name.with_overrides([*opts, *last_words])
        validate(cfg)
        cfg.freeze()
        return cfg
    name = os.fspath(cfg_or_name)
    if name in list_trained():
        return _folder_config(trained_folder(name), opts, last_words, plugins)
    if is_hub_name(name):
        config_file = os.path.join(hub_folder(name), "config.yaml")
        if not os.path.isfile(config_file):
            raise FileNotFoundError(f"{name} has no config.yaml; --config-file names a config, and --weights {name}")
        return load_cfg(config_file, ["MODEL.WEIGHTS", name, *opts, *last_words], plugins)
    if os.path.isdir(name):
        return _folder_config(name, ["OUTPUT_DIR", name, *opts], last_words, plugins)
    if name.endswith(SAFETENSORS) and os.path.isfile(name):
        return _file_config(name, ["MODEL.WEIGHTS", name, *opts, *last_words], plugins)
    if release := release_config(name):
        return load_cfg(get_config_file(release), ["MODEL.WEIGHTS", name, *opts, *last_words], plugins)
    if os.path.isfile(name) or name.endswith((".yaml", ".yml")):
        return load_cfg(name, [*opts, *last_words], plugins)
    return load_cfg(_recipe(name), ["MODEL.WEIGHTS", "", *opts, *last_words], plugins)


def _recipe(name: str) -> str:
    try:
        return get_config_file(name)
    except LookupFailed as error:
        # If a model with weights has a similar name, the list of configs would hide it.
        hint = "" if "/" in name else did_you_mean(name, [*list_trained(), *RELEASES])
        raise (LookupFailed(f"unknown model {name!r}: {hint}") if hint else error) from None


def _file_config(path: str, words: Sequence[str], plugins: Sequence[str]) -> CfgNode:
    """The config in the metadata of a file of safetensors, or in a file beside it."""
    if isinstance(text := read_file(path).get("config"), str):
        with tempfile.TemporaryDirectory() as folder:
            # Under the name of a run's config: it imports no plugin that comes with it.
            own = os.path.join(folder, "config.yaml")
            write_text(own, text)
            return load_cfg(own, words, plugins)
    beside = (f"{path.removesuffix(SAFETENSORS)}.yaml", os.path.join(os.path.dirname(path), "config.yaml"))
    found = next(filter(os.path.isfile, beside), None)
    if found is None:
        what = f"{path} has no config in its metadata, and beside it is no {' or '.join(map(os.path.basename, beside))}"
        raise FileNotFoundError(f"{what}; --config-file names a config, and --weights the file")
    return load_cfg(found, words, plugins)


def _folder_config(folder: str, opts: Sequence[str], last_words: Sequence[str], plugins: Sequence[str]) -> CfgNode:
    config_file = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config_file):
        raise FileNotFoundError(f"{folder} is not the folder of a run: there is no {config_file}")
    own = [] if "MODEL.WEIGHTS" in last_words else ["MODEL.WEIGHTS", _weights_in(folder)]
    return load_cfg(config_file, [*own, *opts, *last_words], plugins)


def _weights_in(folder: str) -> str:
    last = last_checkpoint_in(folder)
    found = [name for name in _WEIGHTS if os.path.isfile(os.path.join(folder, name))]
    if last is None and not found:
        raise FileNotFoundError(f"{folder} holds no weights: neither last_checkpoint nor {' nor '.join(_WEIGHTS)}")
    return last or os.path.join(folder, found[0])
