"""From a YAML file, plugins and command-line overrides to one frozen, validated config."""

import os
from collections.abc import Sequence
from pathlib import Path

from nlvideo.config.defaults import _C
from nlvideo.config.node import CfgNode
from nlvideo.config.validate import validate
from nlvideo.config.yaml_files import read_yaml_chain
from nlvideo.utils.messages import close_matches
from nlvideo.utils.plugins import load_plugin, loaded_plugins, resolve_spec

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel holds the configs in the package. In a clone they lie beside it.
CONFIG_DIR = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
_ROOTS = (Path("."), CONFIG_DIR.parent)


def get_cfg() -> CfgNode:
    """Return a copy of the core defaults, free to change."""
    return _C.clone()


def load_cfg(
    config_file: str | None, opts: Sequence[str] = (), plugins: Sequence[str] = (), import_plugins: bool = True
) -> CfgNode:
    """Load a config in two phases: import the plugins it names and add their keys, then merge and validate.

    Args:
        config_file: a YAML file, with ``_BASE_`` and ``PLUGINS`` where it needs them. None: the defaults. A path
            ``configs/...`` that does not exist means the config of nlvideo with this path.
        opts: overrides ``[KEY, VALUE, ...]``; they win over the file.
        plugins: further plugins; relative paths start from the current folder. A plugin that comes with the folder of a
            run or of a packed model must be one of them: its ``config.yaml`` alone does not import it.
        import_plugins: False for a config that is only read: a plugin that is not loaded already is an error.

    Returns:
        The config, frozen. ``load_cfg`` of its ``dump()`` is an equal config, from any folder.

    Raises:
        FileNotFoundError: no such file.
        LookupFailed: an unknown key or plugin.
        ValueError: a value of the wrong type, not allowed, or in conflict with another key; a plugin that may not load.
    """
    named = [resolve_spec(spec) for spec in plugins] if import_plugins else None
    content = _read(config_file, named) if config_file is not None else {}
    listed = content.get("PLUGINS", [])
    if not isinstance(listed, list):
        raise ValueError(f"PLUGINS: expected list, got {type(listed).__name__} {listed!r}")
    if "PLUGINS" in opts[::2]:
        raise ValueError("PLUGINS: cannot be an override, its keys must exist before overrides are read; use --plugin")
    cfg = get_cfg()
    for spec in [*listed, *plugins]:
        if not import_plugins and spec not in loaded_plugins():
            raise ValueError(f"{config_file} needs the plugin {spec!r}; a config that is only read imports none")
        plugin = load_plugin(spec)
        if plugin.spec not in cfg.PLUGINS:
            cfg.PLUGINS.append(plugin.spec)
            plugin.call("add_config", cfg)
    cfg.merge_from_other_cfg({key: value for key, value in content.items() if key != "PLUGINS"})
    cfg.merge_from_list(list(opts))
    validate(cfg)
    cfg.freeze()
    return cfg


def _read(config_file: str, named: Sequence[str] | None) -> dict:
    if not os.path.isfile(os.path.expanduser(config_file)):
        if Path(config_file).parts[:1] == ("configs",) and (CONFIG_DIR.parent / config_file).is_file():
            return read_yaml_chain(str(CONFIG_DIR.parent / config_file), named)
        near = _near_config_files(config_file)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise FileNotFoundError(f"no config file {config_file!r}{hint}")
    return read_yaml_chain(config_file, named)


def _near_config_files(config_file: str) -> list[str]:
    paths: dict[str, str] = {}
    for root in _ROOTS:
        for pattern in ("configs/**/*.yaml", "projects/*/configs/**/*.yaml"):
            for path in sorted(root.glob(pattern)):
                paths.setdefault(os.path.relpath(path, root), str(path))
    # The right file name in the wrong folder comes before a resemblance of whole paths.
    names = close_matches(Path(config_file).stem, {Path(relative).stem for relative in paths})
    near = [relative for name in names for relative in paths if Path(relative).stem == name]
    return [paths[relative] for relative in dict.fromkeys(near + close_matches(config_file, paths))][:3]
