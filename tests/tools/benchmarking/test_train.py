"""The benchmark of the training step: what it runs and writes, on a tiny network; times are not judged."""

import json
from pathlib import Path

import pytest
import torch

from nlvideo.tools.lib.benchmarking import train

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/quickstart/i3d_nl.yaml")
TINY = [
    "MODEL.BACKBONE.DEPTH", "10", "MODEL.BACKBONE.WIDTH", "0.25", "INPUT.CROP_SIZE", "32", "INPUT.NUM_FRAMES", "4",
    "MODEL.DEVICE", "cpu", "MODEL.NONLOCAL.EVERY", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """(the table, the figures) of one run of three variants."""
    out = tmp_path_factory.mktemp("benchmark") / "out.json"
    variants = ("config", "contiguous", "dense+checkpoint")
    table = train.run(CONFIG, TINY, str(out), variants=variants, iterations=3, batch_size=2)
    return table, json.loads(out.read_text())


def test_figures(result: tuple[str, dict]) -> None:
    _, figures = result
    assert figures["clips"] == "2 x 4x32" and figures["environment"]["torch"] == torch.__version__
    assert list(figures["variants"]) == ["config", "contiguous", "dense+checkpoint"]
    for row in figures["variants"].values():
        assert len(row["runs"]) == 3 and row["iterations_per_second"] == pytest.approx(1 / row["seconds"])
        assert list(row["parts"]) == list(train.PARTS) and all(seconds > 0 for seconds in row["parts"].values())
    assert figures["variants"]["config"]["ratio"] == 1


def test_the_parts_are_the_step(result: tuple[str, dict]) -> None:
    row = result[1]["variants"]["config"]
    assert 0.5 * row["seconds"] < sum(row["parts"].values()) < 1.5 * row["seconds"]


def test_table(result: tuple[str, dict]) -> None:
    assert result[0].startswith("2 x 4x32 (synthetic data)\n") and "dense+checkpoint" in result[0]


def test_variants_are_overrides() -> None:
    cfg = train.load_variant(CONFIG, [*TINY, *train.variant_overrides("contiguous+dense")], 3)
    assert (cfg.MODEL.CHANNELS_LAST, cfg.MODEL.NONLOCAL.ALGORITHM, cfg.SOLVER.CLIPS_PER_BATCH) == (False, "dense", 3)
    for name in train.VARIANTS:
        train.load_variant(CONFIG, [*TINY, *train.variant_overrides(name)], 1)


def test_without_a_batch_size_a_pass_of_one_device_of_the_config() -> None:
    opts = ["SOLVER.CLIPS_PER_BATCH", "64", "SOLVER.REFERENCE_WORLD_SIZE", "8", "SOLVER.ACCUMULATE", "2"]
    assert train.load_variant(CONFIG, opts, 0).SOLVER.CLIPS_PER_BATCH == 4


def test_a_batch_is_what_the_head_takes() -> None:
    cfg = train.load_variant(CONFIG, [*TINY, "MODEL.HEAD.LOSS", "sigmoid"], 2)
    batch = train.make_batch(cfg, torch.device("cpu"))
    assert batch["video"].shape == (2, 3, 4, 32, 32) and batch["video"].dtype == torch.uint8
    assert batch["label"].shape == (2, cfg.MODEL.HEAD.NUM_CLASSES) and batch["label"].sum() == 2


def test_steps_change_the_weights_as_a_training_does() -> None:
    trial = train.Trial(train.load_variant(CONFIG, TINY, 2), "synthetic", None)
    before = [parameter.clone() for parameter in trial.trainer.model.parameters()]
    trial.step()
    trial.split_step()
    assert trial.trainer.iter == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, trial.trainer.model.parameters()))
    assert {len(seconds) for seconds in trial.watch.seconds.values()} == {1}  # only the second was split


def test_the_loader_of_the_config(tmp_path: Path, make_video) -> None:
    lines = [f"{make_video(tmp_path / f'{i}.mp4', height=40, width=48)} {i % 2}" for i in range(4)]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    opts = [
        "DATASETS.TRAIN", f"['list:{tmp_path / 'list.txt'}']", "DATASETS.TEST", "[]", "DATALOADER.NUM_WORKERS", "0",
        "INPUT.SHORT_SIDE_RANGE", "[34, 36]", "MODEL.HEAD.NUM_CLASSES", "2",
    ]  # fmt: skip
    assert "(real data)" in train.run(CONFIG, [*TINY, *opts], iterations=1, batch_size=2, data="real")


@pytest.mark.parametrize("options, message", [
    ({"data": "fake"}, "data"), ({"iterations": 0}, "iterations: got 0, allowed: 1 or more"),
    ({"batch_size": -1}, "batch_size: got -1"), ({"variants": ["config+fast"]}, "variant.*'fast'.*channels_last"),
])  # fmt: skip
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train.run(CONFIG, TINY, **options)


def test_the_script_reaches_it(call_tool) -> None:
    arguments = ["--variants", "config,contiguous", "--iterations", "1", "--batch-size", "1", "--device", "cpu"]
    status, out, error = call_tool("benchmark", "train", "--config-file", CONFIG, *arguments, *TINY)
    assert status == 0, error
    assert "contiguous" in out and "1 x 4x32" in out


def test_flags_of_the_script_are_overrides(call_tool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(train, "run", lambda config, overrides, out, **options: seen.update(options, opts=overrides))
    call_tool(
        "benchmark", "train", "--config-file", CONFIG, "--amp", "--device", "cuda:1", "--compile", "--data", "real"
    )
    assert seen["opts"] == ["MODEL.DEVICE", "cuda:1", "SOLVER.AMP.ENABLED", "True"]
    assert seen["compiler"] == "inductor" and seen["data"] == "real" and seen["variants"] == ["config"]


def test_a_compiled_model_takes_the_same_step() -> None:
    losses = []
    for compiler in (None, "eager"):
        torch.manual_seed(0)
        trial = train.Trial(train.load_variant(CONFIG, [*TINY, "MODEL.HEAD.DROPOUT", "0.0"], 2), "synthetic", compiler)
        for _ in range(2):
            trial.split_step()
        losses.append([value for value, _ in trial.trainer.storage.history("total_loss").values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
