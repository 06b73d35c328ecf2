"""Look up configurations and trained models by name."""

from collections.abc import Sequence
from pathlib import Path

from nlvideo.config import CfgNode, load_cfg
from nlvideo.config.load import CONFIG_DIR
from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean

_TRAINED_DIR = Path(__file__).resolve().parent


def list_configs() -> list[str]:
    """Return the names of all configurations, e.g. ``"quickstart/c2d"``, sorted."""
    return sorted(path.relative_to(CONFIG_DIR).with_suffix("").as_posix() for path in CONFIG_DIR.rglob("*.yaml"))


def list_networks() -> list[str]:
    """Return the names of the configurations that are meant to be trained: no base files and no instant tests."""
    return [name for name in list_configs() if not Path(name).name.startswith(("base", "instant_test"))]


def get_config_file(name: str) -> str:
    """Return the path of a configuration.

    Args:
        name: path below ``configs/``, with or without ``.yaml``. The last parts are enough if they are unique:
            ``"c2d_r50_8x8"`` for ``"kinetics/authors/c2d_r50_8x8"``.

    Raises:
        LookupFailed: no config, or more than one, has this name. The message lists near matches.
    """
    known = list_configs()
    stem = name.removesuffix(".yaml")
    found = [stem] if stem in known else [other for other in known if other.endswith(f"/{stem}")]
    if len(found) == 1:
        return str(CONFIG_DIR / f"{found[0]}.yaml")
    if found:
        raise LookupFailed(f"config {name!r}: several have this name, allowed: {', '.join(map(repr, found))}")
    # A file of this name in another folder is a better hint than a similar name.
    same_file = [other for other in known if Path(other).name == Path(stem).name]
    hint = f"did you mean {' or '.join(map(repr, same_file))}?" if same_file else did_you_mean(stem, known)
    where = f"No folder here, no config in {CONFIG_DIR} and no trained model has this name."
    raise LookupFailed(f"unknown config {name!r}: {hint or 'no name is close.'} {where}")


def list_trained() -> list[str]:
    """Return the names of the trained models that come with the package, sorted."""
    return sorted(path.parent.name for path in _TRAINED_DIR.glob("*/model.pth"))


def trained_folder(name: str) -> str:
    """Return the folder of a trained model: ``model.pth``, ``config.yaml``, ``classes.txt`` and a README.

    Raises:
        LookupFailed: there is none of this name; the message lists them.
    """
    known = list_trained()
    if name not in known:
        raise LookupFailed(f"unknown trained model {name!r}. There are: {', '.join(known)}")
    return str(_TRAINED_DIR / name)


def get_config(name: str, opts: Sequence[str] = ()) -> CfgNode:
    """Load a configuration of `get_config_file` with overrides ``[KEY, VALUE, ...]``; the config is frozen.

    Raises:
        LookupFailed: no such configuration, or an unknown key.
        ValueError: a wrong value.
    """
    return load_cfg(get_config_file(name), opts)
