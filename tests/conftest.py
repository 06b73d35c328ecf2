"""Fixtures shared by all tests: tiny lossless videos with numbered frames, the real test data, scripts of tools/."""

import importlib.util
import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nlvideo.config import CfgNode, load_cfg
from nlvideo.data import MetadataCatalog

# An index is written as two base-32 digits, one in red and one in green, as levels 8 apart: a codec without RGB
# support may be off by a few levels and the index can still be read.
_BASE, _STEP = 32, 8


def pytest_configure() -> None:
    """Hear the signals that ``nohup`` and a shell's background jobs ignore: tests send them to processes of theirs."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape file names that are no text in what a test printed: a report with one cannot reach the main process."""
    report = yield
    report.sections = [(name, text.encode("utf8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def forget_names_of_kinetics() -> Iterator[None]:
    """A test that reads small official files of Kinetics leaves their classes to no other test."""
    yield
    for name, metadata in MetadataCatalog._metadata.items():
        if name.startswith("kinetics"):
            metadata.classes, metadata.classes_from = [], ""


def _write_frame(index: int, height: int, width: int) -> np.ndarray:
    """Frame number ``index``: red and green say which frame it is, everywhere; blue grows from left to right."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[..., 0] = _STEP // 2 + _STEP * (index % _BASE)
    frame[..., 1] = _STEP // 2 + _STEP * (index // _BASE)
    frame[..., 2] = np.linspace(0, 255, width).astype(np.uint8)
    return frame


def _make_video(
    path: str | os.PathLike,
    num_frames: int = 16,
    height: int = 32,
    width: int = 48,
    fps: int = 10,
    codec: str = "libx264rgb",
    gop: int = 12,
    pix_fmt: str | None = None,
    **extra: str,
) -> str:
    """Write a lossless video to ``path`` (folders are made) and return the path as a string.

    ``pix_fmt`` defaults to the codec's first; ``extra`` are options of the encoder, e.g. ``bf="2"`` for B-frames.
    """
    import av

    assert num_frames <= _BASE**2, f"{num_frames} frames: an index has only {_BASE**2} values"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    quality = {"crf": "0", "preset": "ultrafast"} if "x264" in codec else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={**quality, **{k: str(v) for k, v in extra.items()}})
        stream.width, stream.height = width, height
        stream.gop_size = gop
        stream.pix_fmt = pix_fmt or stream.codec.video_formats[0].name
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(_write_frame(index, height, width), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def _make_frames(
    folder: str | os.PathLike,
    num_frames: int = 16,
    height: int = 32,
    width: int = 48,
    name: str = "{:05d}.jpg",
    first: int = 1,
) -> str:
    """Write the frames that ``make_video`` encodes into a folder, one image each, and return its path.

    ``name`` is the format of the images' names, whose numbers count from ``first``.
    """
    from PIL import Image

    assert num_frames <= _BASE**2, f"{num_frames} frames: an index has only {_BASE**2} values"
    Path(folder).mkdir(parents=True, exist_ok=True)
    for index in range(num_frames):
        image = Image.fromarray(_write_frame(index, height, width))
        image.save(Path(folder) / name.format(first + index), quality=95)
    return str(folder)


def _frame_index(frame: np.ndarray) -> int:
    """The index that an RGB frame (H, W, 3) carries; it survives crops, flips and resizes."""
    pixels = np.asarray(frame).reshape(-1, 3)
    low, high = (int(np.median(pixels[:, channel])) // _STEP for channel in (0, 1))
    return low + _BASE * high


@pytest.fixture(scope="session")
def make_video() -> Callable[..., str]:
    """``make_video(path, num_frames=16, height=32, width=48, fps=10, codec="libx264rgb", gop=12, **extra) -> path``."""
    return _make_video


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., str]:
    """``make_frames(folder, num_frames=16, height=32, width=48, name="{:05d}.jpg", first=1) -> folder``."""
    return _make_frames


@pytest.fixture(scope="session")
def frame_index() -> Callable[[np.ndarray], int]:
    """``frame_index(frame) -> int``: which frame of a ``make_video`` file an RGB frame (H, W, 3) uint8 is."""
    return _frame_index


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real videos that the environment variable NLVIDEO_TEST_DATA names; skips without it."""
    folder = os.environ.get("NLVIDEO_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("NLVIDEO_TEST_DATA does not name the folder of real test videos")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def load_tool() -> Callable[..., ModuleType]:
    """``load_tool("train_net")``: a script of tools/ as a module; ``load_tool("records", "benchmarks")`` of another."""

    def load(name: str, folder: str = "tools") -> ModuleType:
        path = Path(__file__).resolve().parents[1] / folder / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture()
def call_tool(load_tool: Callable, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """``call_tool("score", *arguments) -> (exit code, output, errors)``: a tool as a user runs it, in this process."""
    from nlvideo.engine.script import run_script

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        tool = load_tool(name)
        status, error = 0, ""
        try:
            run_script(tool.main, tool.build_parser(), arguments)
        except SystemExit as stop:
            # The interpreter prints a text and exits with 1.
            status, error = (1, f"{stop.code}\n") if isinstance(stop.code, str) else (stop.code or 0, "")
        out, err = capsys.readouterr()
        return status, out, err + error

    return call


@pytest.fixture(scope="session")
def video_lists(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> tuple[str, str]:
    """``list:`` names of a training set of eight videos and a test set of five, of four classes."""
    folder = tmp_path_factory.mktemp("videos")
    names = []
    for split, count in (("train", 8), ("val", 5)):
        lines = [f"{make_video(folder / f'{split}{i}.mp4', num_frames=6 + i)} {i % 4}\n" for i in range(count)]
        (folder / f"{split}.txt").write_text("".join(lines))
        names.append(f"list:{folder / f'{split}.txt'}")
    return tuple(names)


@pytest.fixture
def tiny_opts(video_lists: tuple[str, str], tmp_path: Path) -> list[str]:
    """Overrides of the default config that make it train in a second."""
    return [
        "OUTPUT_DIR", str(tmp_path / "out"),
        "DATASETS.TRAIN", str([video_lists[0]]), "DATASETS.TEST", str([video_lists[1]]), "DATALOADER.NUM_WORKERS", "0",
        "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.WIDTH", "0.125",
        "MODEL.BACKBONE.STEM", "small", "MODEL.HEAD.NUM_CLASSES", "4",
        "INPUT.NUM_FRAMES", "4", "INPUT.FRAME_STRIDE", "1", "INPUT.SHORT_SIDE_RANGE", "[32, 34]",
        "INPUT.CROP_SIZE", "32",
        "SOLVER.CLIPS_PER_BATCH", "4", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "[2]", "SOLVER.LOG_PERIOD", "1",
        "TEST.NUM_CLIPS", "2", "TEST.NUM_CROPS", "1", "TEST.SHORT_SIDE", "32", "TEST.CROP_SIZE", "32",
    ]  # fmt: skip


@pytest.fixture
def tiny_cfg(tiny_opts: list[str]) -> Callable[..., CfgNode]:
    """``tiny_cfg("KEY", "VALUE", ...) -> cfg``: the tiny config with further overrides."""

    def build(*opts: str) -> CfgNode:
        """Load it."""
        return load_cfg(None, [*tiny_opts, *opts])

    return build


@pytest.fixture
def close_log_files() -> Iterator[None]:
    """Take away the handlers that a test's ``default_setup`` has installed."""
    yield
    logger = logging.getLogger("nlvideo")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
