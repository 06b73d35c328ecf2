"""Where the configs of runs differ."""

from collections.abc import Sequence
from typing import Any

# Every run has its own.
_IGNORED = ("OUTPUT_DIR",)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config with full keys: ``{"SOLVER.MAX_ITER": 2000, ...}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return flat


def differences(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the keys whose values are not the same in all configs: "key" and "values", None where a key is missing.

    Args:
        configs: nested; empty ones, of runs without a config, are not compared and get None.
    """
    flat = [flatten(config) for config in configs]
    known = [config for config in flat if config]
    rows = []
    for key in sorted({key for config in flat for key in config}):
        values = [config.get(key) if key in config else None for config in flat]
        present = [config.get(key, _Missing) for config in known]
        if key not in _IGNORED and any(value != present[0] for value in present):
            rows.append({"key": key, "values": values})
    return rows


class _Missing:
    """Stands for a key that a config does not have; equal to no value."""
