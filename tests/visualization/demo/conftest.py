"""Fixtures of the page's tests: the bundled model, clips of its data set, and a folder for uploads."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlvideo.model_zoo import Predictor
from nlvideo.visualization.demo import Demo, Inspector, Limits, UploadFolder, write_examples


@pytest.fixture(scope="session")
def inspector() -> Inspector:
    """The bundled model on the CPU."""
    return Inspector(Predictor("quickstart", device="cpu"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The example clips: left, right, up, and the three in a row."""
    return write_examples(tmp_path_factory.mktemp("examples"), count=3)


@pytest.fixture()
def uploads() -> Iterator[UploadFolder]:
    """A folder for uploads that nothing is swept from."""
    with UploadFolder() as folder:
        yield folder


@pytest.fixture()
def demo(inspector: Inspector, uploads: UploadFolder, clips: list[Path]) -> Demo:
    """The page without Gradio."""
    return Demo(inspector, uploads, Limits(max_megabytes=1, max_seconds=20), clips)


@pytest.fixture()
def upload(uploads: UploadFolder) -> Callable[..., Path]:
    """``upload(path, name=None) -> path``: put a copy of a file where the server puts uploads."""

    def put(path: Path, name: str | None = None) -> Path:
        folder = uploads.path / f"hash{len(list(uploads.path.iterdir()))}"
        folder.mkdir()
        return Path(shutil.copy(path, folder / (name or Path(path).name)))

    return put


@pytest.fixture(scope="session")
def ten_hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny file that plays for ten hours: 10 frames, one an hour."""
    from fractions import Fraction

    import av
    import numpy as np

    path = tmp_path_factory.mktemp("long") / "ten_hours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(1, 3600))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for level in range(10):
            frame = np.full((32, 32, 3), 20 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return path
