"""Fixtures of the model zoo's tests: fresh videos of the data set that the bundled model was trained on."""

from pathlib import Path

import pytest

from nlvideo.data.datasets.beacon import BeaconSpec, generate_beacon


@pytest.fixture(scope="session")
def beacon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``tools/prepare_beacon.py`` makes it, from a seed that no training has seen: 48 validation clips."""
    return generate_beacon(tmp_path_factory.mktemp("data") / "beacon", BeaconSpec(num_train=1, num_val=48, seed=1), 1)


@pytest.fixture(scope="session")
def clip(beacon: Path) -> str:
    """One video of it."""
    return str(beacon / (beacon / "val.csv").read_text().splitlines()[4].rsplit(" ", 1)[0])
