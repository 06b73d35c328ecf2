"""Fixtures of the engine's tests: a handful of tiny videos, and a tiny config that trains on them."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nlvideo.config import CfgNode, load_cfg


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


@pytest.fixture(autouse=True)
def close_log_files() -> Iterator[None]:
    """Take away the handlers that a test's ``default_setup`` has installed."""
    yield
    logger = logging.getLogger("nlvideo")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
