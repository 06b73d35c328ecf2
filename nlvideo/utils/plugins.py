"""Find and import projects: folders, modules or entry points whose import registers new components."""

import importlib.util
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean

ENTRY_POINT_GROUP = "nlvideo.plugins"

_loaded: dict[str, "Plugin"] = {}


@dataclass(frozen=True)
class Plugin:
    """An imported project. This is the whole contract of a project with the library.

    Its import registers its components; each registry's docstring says what they must do. Two functions of its package
    are called if it has them:

    ``add_config(cfg: CfgNode) -> None`` declares the keys of the project, under a node of their own. It is called for
    each config that is loaded, before the values of file and command line are merged: ``cfg`` holds the defaults of the
    core and of the plugins that come before it in the list.

    ``build_hooks(cfg: CfgNode) -> Iterable[HookBase]`` returns hooks for one training; `HookBase` says what a hook may
    do. It is called once for each trainer, on every rank. ``cfg`` is complete, frozen and scaled to the number of
    ranks. The hooks run after those of the core and before `RandomStates` and the writers, in the order in which they
    are returned. Their names must be new.

    Attributes:
        spec: the absolute path of the project, or the name of its module or entry point.
        module: the package.
    """

    spec: str
    module: ModuleType

    def call(self, function: str, *arguments: Any) -> Any:
        """Return what a function of the package returns, or None if the package has no such function."""
        return getattr(self.module, function, lambda *ignored: None)(*arguments)


def loaded_plugins() -> list[str]:
    """Return the specs of all plugins that this process has loaded, in order."""
    return list(_loaded)


def resolve_spec(spec: str, base_dir: str | None = None) -> str:
    """Return a path spec as an absolute path; any other spec as it is. Nothing is imported.

    A spec is a path if it contains a separator or starts with ``.`` or ``~``. Another name is a path only if there is
    such a folder and nothing of that name is installed: a stray folder never hides a module. Relative paths start from
    ``base_dir``, by default the current folder.

    Raises:
        ValueError: not a text, or an empty one.
    """
    if not isinstance(spec, str) or not spec:
        raise ValueError(f"PLUGINS: expected a path, a module or an entry point, got {spec!r}")
    path = (Path(base_dir or ".") / Path(spec).expanduser()).resolve()
    if "/" in spec or spec.startswith((".", "~")):
        return str(path)
    # A search for a.b would import a.
    if path.is_dir() and not _entry_point(spec) and not _origin(spec.partition(".")[0]):
        return str(path)
    return spec


def comes_with(spec: str, base_dir: str, folder: str) -> bool:
    """Return whether a plugin comes with a folder: it lies there, or a file there names it by a relative path.

    Args:
        spec: an entry of ``PLUGINS``.
        base_dir: the folder of the file that holds the entry.
        folder: of a run or of a packed model.
    """
    root, plugin = Path(folder).resolve(), Path(resolve_spec(spec, base_dir))
    if plugin.is_absolute():
        is_relative = not Path(spec).expanduser().is_absolute()
        return plugin.is_relative_to(root) or (is_relative and Path(base_dir).resolve().is_relative_to(root))
    entry_point = _entry_point(spec)
    origin = _origin((entry_point.module if entry_point else spec).partition(".")[0])
    return origin is not None and Path(origin).resolve().is_relative_to(root)


def load_plugin(spec: str, base_dir: str | None = None) -> Plugin:
    """Import a project once; later calls return the same object.

    A folder is either a package or contains exactly one. The package is imported under its own name, with its parent
    folder on ``sys.path``, so that its classes pickle into workers and ranks.

    Args:
        spec: a path (relative to ``base_dir``), an entry point of the group ``nlvideo.plugins``, or a module.
        base_dir: the folder that relative paths start from. None: the current one.

    Raises:
        LookupFailed: there is no such folder, module or entry point.
        ValueError: the folder holds no package or several, or another module already has the package's name.
        ImportError: the project exists but its own imports fail.
    """
    spec = resolve_spec(spec, base_dir)
    if spec not in _loaded:
        _loaded[spec] = Plugin(spec, _import_folder(Path(spec)) if Path(spec).is_absolute() else _import_name(spec))
    return _loaded[spec]


def _import_folder(folder: Path) -> ModuleType:
    package = _package_in(folder)
    if str(package.parent) not in sys.path:
        # At the end: a project's other folders must not hide installed modules.
        sys.path.append(str(package.parent))
    module = _import(package.name, str(folder))
    if Path(module.__file__ or "").parent.resolve() != package:
        raise ValueError(
            f"plugin {str(folder)!r}: its package name {package.name!r} is taken by {module.__file__ or module!r};"
            " rename the package"
        )
    return module


def _package_in(folder: Path) -> Path:
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise LookupFailed(f"plugin {str(folder)!r}: no such folder. {did_you_mean(folder.name, siblings)}".rstrip())
    if (folder / "__init__.py").is_file():
        return folder
    packages = sorted(path.parent for path in folder.glob("*/__init__.py"))
    if len(packages) != 1:
        names = ", ".join(path.name for path in packages) or "none"
        raise ValueError(f"plugin {str(folder)!r}: expected one package (a folder with __init__.py) in it, got {names}")
    return packages[0]


def _import_name(name: str) -> ModuleType:
    entry_point = _entry_point(name)
    if entry_point:
        return _import(entry_point.module, name)
    if not _origin(name):
        known = sorted(point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP))
        raise LookupFailed(
            f"plugin {name!r}: no such folder, module or entry point."
            f" Entry points in {ENTRY_POINT_GROUP!r}: {', '.join(known) or 'none'}"
        )
    return _import(name, name)


def _import(module_name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise ImportError(f"plugin {spec!r} could not be imported: {error}") from error


def _entry_point(name: str) -> metadata.EntryPoint | None:
    return next(iter(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)), None)


def _origin(name: str) -> str | None:
    """The file of an installed module. A folder without an ``__init__.py`` is a namespace package, and has none."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return found.origin if found else None
