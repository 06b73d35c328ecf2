"""A project may train on images of several sizes with targets of its own: the contracts of the registries allow it."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nlvideo.config import CfgNode, load_cfg
from nlvideo.data.build import build_train_loader
from nlvideo.engine import DefaultTrainer
from nlvideo.engine.resolve import resolve_from_data
from nlvideo.modeling import build_model, model_costs

PROJECT = str(Path(__file__).parent / "images")
SIZES = [(24, 40), (32, 16), (40, 40)]

pytestmark = pytest.mark.usefixtures("close_log_files")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """The config of a run on three images and one that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(np.full((*size, 3), 60 * number, np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    options = {
        "MODEL.META_ARCHITECTURE": "DotModel", "MODEL.HEAD.NUM_CLASSES": 2, "MODEL.DEVICE": "cpu",
        "MODEL.NONLOCAL.ENABLED": True, "MODEL.NONLOCAL.ARGS": [["num_heads", 2]], "MODEL.NONLOCAL.NORM": "none",
        "DATALOADER.MAPPER": "DotMapper",
        "DATALOADER.SAMPLER": "PairSampler", "DATALOADER.NUM_WORKERS": 0, "DATALOADER.MAX_FAILED_FRACTION": 0.5,
        "DATASETS.TRAIN": [f"dots:{folder}"], "DATASETS.TEST": [f"dots:{folder}"], "TEST.EVALUATOR": "DotEvaluator",
        "SOLVER.CLIPS_PER_BATCH": 2, "SOLVER.MAX_ITER": 4, "SOLVER.STEPS": [], "OUTPUT_DIR": str(tmp_path / "out"),
    }  # fmt: skip
    return load_cfg(None, [str(word) for item in options.items() for word in item], [PROJECT])


def test_batches_are_what_the_mapper_makes_of_them(cfg: CfgNode) -> None:
    batches = [next(loader) for loader in [build_train_loader(cfg)] for _ in range(4)]
    assert [len(batch["images"]) for batch in batches] == [2] * 4 and "video" not in batches[0]
    # The sampler knows the size of a batch from its options: each batch is of one image.
    assert [tuple(batch["images"][0].shape[1:]) for batch in batches[:3]] == SIZES
    assert [[len(points) for points in batch["points"]] for batch in batches[:3]] == [[1, 1], [2, 2], [1, 1]]
    assert batches[3]["num_failed"] == 2 and len(batches[0]["video_id"]) == 2


def test_a_run_of_other_inputs_trains_and_tests(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nlvideo"):
        trainer = DefaultTrainer(resolve_from_data(cfg))
        results = trainer.train()
    assert list(results) == ["dots", "images"] and results["images"]["failed"] == 1
    assert "Survey" not in caplog.text
    assert "For one image of 24x40: Non-local blocks:" in caplog.text
    assert trainer.storage.latest()["dots/mean"][0] == results["dots"]["mean"]


def test_costs_are_those_of_the_models_own_example(cfg: CfgNode, call_tool: Callable, tmp_path: Path) -> None:
    costs = model_costs(cfg)
    assert [row["T x H x W"] for row in costs["nonlocal_blocks"]] == ["6 x 10"]
    assert costs["gmacs"] > 6 * 10 * 4 * 27 / 1e9
    (tmp_path / "config.yaml").write_text(cfg.dump())
    status, out, _ = call_tool("analyze_model", "--config-file", str(tmp_path / "config.yaml"), "--plugin", PROJECT)
    assert status == 0 and "GMACs for one image of 24x40" in out


def test_weights_of_others_get_the_models_names(cfg: CfgNode, tmp_path: Path) -> None:
    model = build_model(cfg)
    torch.save({f"old_{name}": torch.full_like(value, 0.5) for name, value in model.state_dict().items()},
               tmp_path / "old.pth")  # fmt: skip
    DefaultTrainer.test_checkpoint(cfg.with_overrides(["MODEL.WEIGHTS", str(tmp_path / "old.pth")]))
    trainer = DefaultTrainer(cfg.with_overrides(["MODEL.WEIGHTS", str(tmp_path / "old.pth")]))
    trainer.resume_or_load()
    assert all((value == 0.5).all() for value in trainer.bare_model.state_dict().values())
