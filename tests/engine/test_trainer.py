"""The trainer that a config describes."""

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from nlvideo.checkpoint import read_file
from nlvideo.config import CfgNode, load_cfg
from nlvideo.engine.setup import default_setup
from nlvideo.engine.trainer import DefaultTrainer, drop_metrics_from
from nlvideo.errors import TooManyFailedVideos


def _train(cfg: CfgNode) -> tuple[DefaultTrainer, dict]:
    default_setup(cfg, argparse.Namespace(resume=False))
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load()
    return trainer, trainer.train()


def test_trains_tests_and_leaves_its_files(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg()
    trainer, results = _train(cfg)
    assert results["classification"]["num_videos"] == 5 and results["classification"]["num_failed"] == 0
    folder = Path(cfg.OUTPUT_DIR)
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert {"total_loss", "loss_cls", "top1", "time", "data_time", "lr"} <= lines[0].keys()
    assert lines[2]["classification/top1"] == pytest.approx(results["classification"]["top1"])
    assert [line["lr"] for line in lines] == pytest.approx([0.01, 0.01, 0.001])
    log = (folder / "log.txt").read_text()
    for text in ("eta: ", "iter: 2", "top1: ", "data_time: ", "lr: 0.001", "Non-local blocks: none", "iteration time"):
        assert text in log, text
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "model_final.pth", "model_best.pth", "last_checkpoint", "inference"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert trainer.bare_model.training


def test_two_runs_with_one_seed_are_equal(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = [("OUTPUT_DIR", str(tmp_path / name), "SEED", seed) for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))]
    models = [_train(tiny_cfg(*each))[0].bare_model.state_dict() for each in opts]
    equal = [all(torch.equal(models[0][name], other[name]) for name in other) for other in models[1:]]
    assert equal == [True, False]


def test_evaluation_does_not_disturb_training(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    often = ("TEST.EVAL_PERIOD", "1", "DATALOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "often"))
    models = [_train(tiny_cfg(*opts))[0].bare_model.state_dict() for opts in ((), often)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_hooks_are_in_the_order_that_their_comments_explain(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.EMA.ENABLED", "True", "TEST.PRECISE_BN.ENABLED", "True", "MODEL.BACKBONE.FREEZE_AT", "1")
    assert [hook.name for hook in DefaultTrainer(cfg).hooks] == [
        "IterationTimer", "LearningRate", "Settings", "MemoryStats", "FineTuning", "WeightAverage",
        "StopOnSignal", "FailedVideos", "PreciseBN", "PeriodicCheckpointer", "EvalHook", "BestCheckpointer",
        "FinalTest", "RandomStates", "PeriodicWriter",
    ]  # fmt: skip


def test_hooks_of_a_plugin_run_before_the_writers(tiny_opts: list[str], tmp_path: Path) -> None:
    package = tmp_path / "project" / "hook_plugin_of_a_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from nlvideo.engine import HookBase\n"
        "class Marker(HookBase):\n"
        "    def after_step(self):\n"
        "        self.trainer.storage.put_scalar('marker', self.trainer.iter)\n"
        "def build_hooks(cfg):\n"
        "    return [Marker()]\n"
    )
    cfg = load_cfg(None, [*tiny_opts, "DATASETS.TEST", "[]"], [str(package)])
    trainer, results = _train(cfg)
    names = [hook.name for hook in trainer.hooks]
    assert names.index("FinalTest") < names.index("Marker") < names.index("PeriodicWriter")
    last_line = (Path(cfg.OUTPUT_DIR) / "metrics.json").read_text().splitlines()[-1]
    assert json.loads(last_line)["marker"] == 1.0  # the median of 0, 1, 2
    assert results == {}
    logging.getLogger("hook_plugin_of_a_test").handlers.clear()


def test_a_trainer_of_a_project_trains_on_any_iterable_of_batches(tiny_cfg: Callable[..., CfgNode]) -> None:
    class Own(DefaultTrainer):
        """Has a loader that is no more than an iterator, and says of a video that it could not be read."""

        @classmethod
        def build_train_loader(cls, cfg: CfgNode, start_iter: int) -> Iterator[dict]:
            for batch in super().build_train_loader(cfg, start_iter):
                yield {**batch, "failed": [("own.mp4", "broken")]}

    cfg = tiny_cfg("DATASETS.TEST", "[]")
    default_setup(cfg, argparse.Namespace(resume=False))
    assert Own(cfg).train() == {}
    failed = json.loads((Path(cfg.OUTPUT_DIR) / "failed_videos.json").read_text())
    assert failed == {"num_videos": 0, "failed": [{"file_name": "own.mp4", "reason": "broken"}]}


def test_results_of_several_sets_are_by_name(tiny_cfg: Callable[..., CfgNode], video_lists: tuple[str, str]) -> None:
    cfg = tiny_cfg("DATASETS.TEST", str(list(video_lists)))
    _, results = _train(cfg)
    assert {name: tasks["classification"]["num_videos"] for name, tasks in results.items()} == {
        video_lists[0]: 8,
        video_lists[1]: 5,
    }


def test_a_test_needs_a_test_set(tiny_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match="^DATASETS.TEST: got an empty list, allowed for a test: one dataset or more"):
        DefaultTrainer.test_checkpoint(tiny_cfg("DATASETS.TEST", "[]"))


def test_the_average_is_tested_and_saved(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "1.0", "SOLVER.BASE_LR", "0.5")
    trainer, _ = _train(cfg)
    seen = []
    trainer.test = lambda cfg, model: seen.append(model.head.classifier.weight.clone())
    trainer.evaluate()
    saved = read_file(f"{cfg.OUTPUT_DIR}/model_final.pth")
    assert torch.equal(seen[0], saved["ema"]["head.classifier.weight"])
    assert not torch.equal(seen[0], trainer.bare_model.head.classifier.weight)
    assert torch.equal(saved["model"]["head.classifier.weight"], trainer.bare_model.head.classifier.weight)


def test_a_bad_loss_leaves_the_last_checkpoint_alone(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("SOLVER.BASE_LR", "1e20", "SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "1")
    with pytest.raises(FloatingPointError, match=r"iteration \d: the loss is not finite \(loss_cls = (nan|inf)"):
        _train(cfg)
    for path in Path(cfg.OUTPUT_DIR).glob("*.pth"):
        weights = read_file(str(path))["model"]
        assert path.name != "model_final.pth"
        assert not any(weight.isnan().any() for name, weight in weights.items() if "running" not in name)


def test_mixed_precision_and_clipping_by_config(tiny_cfg: Callable[..., CfgNode]) -> None:
    trainer, _ = _train(tiny_cfg("SOLVER.AMP.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"))
    assert trainer.amp_dtype == torch.bfloat16
    assert trainer.storage.history("grad_norm").latest() > 0


def test_unreadable_videos_are_counted(
    tiny_cfg: Callable[..., CfgNode], video_lists: tuple[str, str], tmp_path: Path
) -> None:
    lines = Path(video_lists[0].removeprefix("list:")).read_text().splitlines()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("\n".join([*lines, f"{tmp_path / 'broken.mp4'} 0"]) + "\n")
    opts = ("DATASETS.TRAIN", str([f"list:{tmp_path / 'list.txt'}"]), "SOLVER.MAX_ITER", "6")
    with pytest.raises(TooManyFailedVideos, match="1 of 9 training videos could not be read.*broken.mp4"):
        _train(tiny_cfg(*opts))
    cfg = tiny_cfg(*opts, "DATALOADER.MAX_FAILED_FRACTION", "0.2", "OUTPUT_DIR", str(tmp_path / "tolerant"))
    _train(cfg)
    assert (Path(cfg.OUTPUT_DIR) / "log.txt").read_text().count("Cannot read") == 1


def test_metrics_are_cut_at_an_iteration(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    # Without the file, only the last iteration is written again.
    assert drop_metrics_from(str(path), 7) == 6
    path.write_text("".join(json.dumps({"iteration": i}) + "\n" for i in (1, 3, 5)) + '{"iter')
    assert drop_metrics_from(str(path), 5) == 4
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [1, 3]
    drop_metrics_from(str(path), 0)
    assert path.read_text() == ""


def test_a_schedule_for_more_ranks_is_scaled(tiny_cfg: Callable[..., CfgNode]) -> None:
    opts = ("SOLVER.CLIPS_PER_BATCH", "8", "SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "[5]")
    opts = ("SOLVER.REFERENCE_WORLD_SIZE", "2", *opts)
    solver = DefaultTrainer(tiny_cfg(*opts)).cfg.SOLVER
    assert (solver.CLIPS_PER_BATCH, solver.MAX_ITER, list(solver.STEPS), solver.BASE_LR) == (4, 20, [10], 0.005)


def test_the_dump_is_plain_yaml(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = default_setup(tiny_cfg(), argparse.Namespace(resume=False))
    with open(f"{cfg.OUTPUT_DIR}/config.yaml", encoding="utf8") as file:
        assert yaml.safe_load(file)["SOLVER"]["MAX_ITER"] == 3


def test_precise_bn_sees_whole_clips(tiny_cfg: Callable[..., CfgNode]) -> None:
    trainer = DefaultTrainer(tiny_cfg("SOLVER.MIX.MIXUP_ALPHA", "0.8", "SOLVER.MIX.CUTMIX_ALPHA", "1.0"))
    assert next(trainer._build_precise_bn_loader(0))["label"].shape == (4,)
    assert next(trainer.build_train_loader(trainer.cfg, 0))["label"].shape == (4, 4)


def test_precise_bn_does_not_check_the_test_sets_again(tiny_cfg: Callable[..., CfgNode]) -> None:
    trainer = DefaultTrainer(tiny_cfg("DATASETS.TEST", "['list:gone.csv']"))
    next(trainer._build_precise_bn_loader(0))
    with pytest.raises(ValueError, match="DATASETS.TEST: list:gone.csv"):
        trainer.build_train_loader(trainer.cfg, 0)
