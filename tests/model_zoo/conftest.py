"""Fixtures of the model zoo's tests: fresh videos of the data set that the bundled model was trained on."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nlvideo.data.datasets.beacon import BeaconSpec, beacon_clip, generate_beacon


@pytest.fixture(scope="session")
def beacon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``tools/prepare_beacon.py`` makes it, from a seed that no training has seen: 48 validation clips."""
    return generate_beacon(tmp_path_factory.mktemp("data") / "beacon", BeaconSpec(num_train=1, num_val=48, seed=1), 1)


@pytest.fixture(scope="session")
def clip(beacon: Path) -> str:
    """One video of it."""
    return str(beacon / (beacon / "val.csv").read_text().splitlines()[4].rsplit(" ", 1)[0])


@pytest.fixture(scope="session")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three clips of beacon one after the other: left, clockwise, shake; 2.4 seconds."""
    frames = np.concatenate([beacon_clip(BeaconSpec(seed=5), "val", index)[1] for index in (0, 4, 7)])
    path = str(tmp_path_factory.mktemp("long") / "long.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path
