"""A run that is stopped and resumed equals one that never stopped, to the bit."""

import argparse
import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nlvideo.config import CfgNode, load_cfg
from nlvideo.engine.setup import default_setup
from nlvideo.engine.train_loop import HookBase
from nlvideo.engine.trainer import DefaultTrainer
from nlvideo.errors import TrainingInterrupted
from nlvideo.evaluation import ClassificationEvaluator
from nlvideo.utils.events import JSONWriter
from nlvideo.utils.system.env import seed_everything

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MAX_ITER, STOP_AFTER = 12, 7
# What two equal runs measure differently.
VARYING = ("time", "memory_mib")

# Everything that has a state, with periods that do not meet at the place where the run stops.
OPTS = [
    "SOLVER.MAX_ITER", str(MAX_ITER), "SOLVER.STEPS", "[6, 9]", "SOLVER.CHECKPOINT_PERIOD", "5",
    "SOLVER.LOG_PERIOD", "4", "SOLVER.EMA.ENABLED", "True", "SOLVER.EMA.DECAY", "0.7", "SOLVER.ACCUMULATE", "2",
    "MODEL.HEAD.DROPOUT", "0.5", "MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.STAGES", "['res4']",
    "TEST.EVAL_PERIOD", "6", "TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITERS", "2",
]  # fmt: skip


class SignalIn(HookBase):
    """Sends this process a signal during an iteration."""

    def __init__(self, iteration: int, number: int):
        self.iteration, self.number = iteration, number

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def _run(cfg: CfgNode, resume: bool = False, stop: int | None = None) -> None:
    """Train; ``stop`` is a signal that arrives in the seventh iteration."""
    cfg = default_setup(cfg, argparse.Namespace(resume=resume, eval_only=False))
    trainer = DefaultTrainer(cfg)
    if stop is not None:
        trainer.register_hooks([SignalIn(STOP_AFTER - 1, stop)])
    trainer.resume_or_load(resume)
    assert trainer.start_iter == (STOP_AFTER if resume else 0)
    trainer.train()


def _metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith(VARYING)} for line in lines]


def _differences(one: object, other: object, where: str = "") -> list[str]:
    """Places where two checkpoints are not equal to the bit; times and memory apart."""
    if where.endswith(VARYING):
        return []
    if isinstance(one, torch.Tensor):
        return [] if isinstance(other, torch.Tensor) and torch.equal(one, other) else [where]
    if isinstance(one, dict) and one.keys() == other.keys():
        return [place for key in one for place in _differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        return [place for i, pair in enumerate(zip(one, other)) for place in _differences(*pair, f"{where}/{i}")]
    return [] if one == other else [where]


def _assert_equal_runs(one: Path, other: Path, lines: tuple[int, ...] = (3, 5, 7, 11)) -> None:
    checkpoints = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (one, other)]
    assert {"model", "optimizer", "scheduler", "scaler", "ema", "trainer"} == checkpoints[0].keys()
    assert {"RandomStates", "BestCheckpointer"} <= checkpoints[0]["trainer"]["hooks"].keys()
    assert _differences(*checkpoints) == []
    assert _metrics(one) == _metrics(other)
    assert tuple(line["iteration"] for line in _metrics(one)) == lines


# Everything that draws chance for clips and batches.
AUGMENTED = [
    *OPTS, "SOLVER.CLIPS_PER_BATCH", "8", "INPUT.REPEATED_CLIPS", "2", "INPUT.CROP_AREA_RANGE", "[0.3, 1.0]",
    "INPUT.COLOR_JITTER.BRIGHTNESS", "0.4", "INPUT.COLOR_JITTER.CONTRAST", "0.4", "INPUT.RAND_AUGMENT.NUM_OPS", "2",
    "INPUT.RANDOM_ERASING.PROB", "0.5", "SOLVER.MIX.MIXUP_ALPHA", "0.8", "SOLVER.MIX.CUTMIX_ALPHA", "1.0",
    "INPUT.FPS", "7", "MODEL.HEAD.LABEL_SMOOTHING", "0.1",
]  # fmt: skip


def test_with_every_augmentation(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    runs = [("whole", "0"), ("stopped", "2")]
    cfgs = [
        tiny_cfg(*AUGMENTED, "DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", str(tmp_path / name))
        for name, workers in runs
    ]
    _run(cfgs[0])
    with pytest.raises(TrainingInterrupted):
        _run(cfgs[1], stop=signal.SIGINT)
    _run(cfgs[1], resume=True)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    # Mixed clips are never wholly right.
    assert all(line["top1"] < 100 for line in _metrics(tmp_path / "whole") if "top1" in line)


# The other heads, with what balances classes.
HEADS = {
    "consensus": [
        "MODEL.HEAD.NAME", "ConsensusHead", "MODEL.HEAD.ARGS", "[[consensus, probabilities]]",
        "MODEL.HEAD.CLASS_WEIGHTS", "[1, 0.5, 2, 3]", "SOLVER.MIX.MIXUP_ALPHA", "0.8",
        "MODEL.HEAD.LABEL_SMOOTHING", "0.1",
    ],
    "attentive": [
        "MODEL.HEAD.NAME", "AttentiveHead", "MODEL.HEAD.ARGS", "[[num_queries, 2]]", "MODEL.BACKBONE.FREEZE_AT", "5",
        "MODEL.HEAD.FOCAL_GAMMA", "2", "DATALOADER.SAMPLER", "RepeatFactorSampler", "DATALOADER.REPEAT_THRESHOLD",
        "0.9", "SOLVER.OPTIMIZER", "AdamW",
    ],
}  # fmt: skip


@pytest.mark.parametrize("own", HEADS.values(), ids=HEADS)
def test_heads_losses_and_samplers(tiny_cfg: Callable[..., CfgNode], tmp_path: Path, own: list[str]) -> None:
    whole, stopped = (tiny_cfg(*OPTS, *own, "OUTPUT_DIR", str(tmp_path / name)) for name in ("whole", "stopped"))
    _run(whole)
    with pytest.raises(TrainingInterrupted):
        _run(stopped, stop=signal.SIGTERM)
    _run(stopped, resume=True)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
def test_one_process(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, workers: int, number: int, capfd: pytest.CaptureFixture
) -> None:
    folders = [tmp_path / "whole", tmp_path / "stopped"]
    cfgs = [tiny_cfg(*OPTS, "DATALOADER.NUM_WORKERS", str(workers), "OUTPUT_DIR", str(folder)) for folder in folders]
    before = signal.getsignal(number)
    _run(cfgs[0])
    with pytest.raises(TrainingInterrupted, match=f"{number.name}: stopped after 7 of 12 .* To go on: .*--resume"):
        _run(cfgs[1], stop=number)
    assert signal.getsignal(number) == before
    assert "Stopping after this iteration" in capfd.readouterr().err
    assert (folders[1] / "last_checkpoint").read_text().strip() == "model_0000007.pth"
    _run(cfgs[1], resume=True)
    _assert_equal_runs(*folders)


# Changes before, at and after the iteration in which the run stops; both kinds of norms, and both optimizers.
FINE_TUNING = [
    *OPTS, "MODEL.BACKBONE.FREEZE_AT", "3", "SOLVER.HEAD_LR_FACTOR", "10", "SOLVER.LAYER_DECAY", "0.8",
]  # fmt: skip
CHANGES = [
    ("5", "unfrozen_after", "10", "SGD"),
    ("7", "frozen_after", "7", "AdamW"),
    ("10", "frozen_after", "5", "SGD"),
]


def _changes(until: str, mode: str, mode_iter: str, optimizer: str) -> list[str]:
    return [
        *FINE_TUNING, "MODEL.BACKBONE.FREEZE_UNTIL", until, "SOLVER.BN_MODE", mode, "SOLVER.BN_MODE_ITER", mode_iter,
        "SOLVER.OPTIMIZER", optimizer,
    ]  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES)
def test_across_changes_of_freezing_and_norms(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, changes: tuple[str, str, str, str]
) -> None:
    whole, stopped = (
        tiny_cfg(*_changes(*changes), "OUTPUT_DIR", str(tmp_path / name)) for name in ("whole", "stopped")
    )
    _run(whole)
    with pytest.raises(TrainingInterrupted):
        _run(stopped, stop=signal.SIGTERM)
    _run(stopped, resume=True)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("period", ["7", "5"])
def test_stopped_where_it_is_evaluated(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, period: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is being stopped does not evaluate first. The best is the first, which the last one does not beat."""
    scores = {"whole": iter([90.0, 50.0]), "stopped": iter([90.0, 50.0])}

    def evaluate(trainer: DefaultTrainer) -> dict:
        return {"classification": {"top1": next(scores[Path(trainer.cfg.OUTPUT_DIR).name])}}

    monkeypatch.setattr(DefaultTrainer, "evaluate", evaluate)
    whole, stopped = (
        tiny_cfg(*OPTS, "TEST.EVAL_PERIOD", "7", "SOLVER.CHECKPOINT_PERIOD", period, "OUTPUT_DIR", str(tmp_path / name))
        for name in scores
    )
    _run(whole)
    with pytest.raises(TrainingInterrupted):
        _run(stopped, stop=signal.SIGTERM)
    state = torch.load(tmp_path / "stopped" / "model_0000007.pth", weights_only=True)["trainer"]
    assert "BestCheckpointer" not in state["hooks"]
    _run(stopped, resume=True)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped", (3, 6, 7, 11))
    for name in scores:
        assert torch.load(tmp_path / name / "model_best.pth", weights_only=True)["trainer"]["iteration"] == 7


@pytest.mark.parametrize(("period", "validates"), [("7", False), ("5", True)])
def test_stopped_in_a_test(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, period: str, validates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained before the test is saved, also where no checkpoint was due; the test is repeated."""
    process, signals = ClassificationEvaluator.process, [signal.SIGTERM]

    def process_and_stop(evaluator: ClassificationEvaluator, *videos: list) -> None:
        process(evaluator, *videos)
        if signals and "stopped" in Path(str(evaluator.output_dir)).parts:
            os.kill(os.getpid(), signals.pop())

    monkeypatch.setattr(ClassificationEvaluator, "process", process_and_stop)
    opts = [*OPTS, "TEST.EVAL_PERIOD", "7", "TEST.VIEWS_PER_FORWARD", "1", "TEST.VALIDATION.ENABLED", str(validates)]
    whole, stopped = (
        tiny_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", period, "OUTPUT_DIR", str(tmp_path / name))
        for name in ("whole", "stopped")
    )
    _run(whole)
    with pytest.raises(TrainingInterrupted, match="SIGTERM: stopped in a test, after 1 videos.* To go on: .*--resume"):
        _run(stopped)
    assert (tmp_path / "stopped" / "last_checkpoint").read_text().strip() == "model_0000007.pth"
    assert not (tmp_path / "stopped" / "model_best.pth").exists()
    _run(stopped, resume=True)
    _assert_equal_runs(tmp_path / "whole", tmp_path / "stopped", (3, 6, 7, 11))


def test_a_longer_run_knows_the_best_of_the_shorter_one(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([90.0, 50.0])
    monkeypatch.setattr(DefaultTrainer, "evaluate", lambda trainer: {"classification": {"top1": next(scores)}})
    for iterations, resume in (("2", False), ("4", True)):
        opts = ["SOLVER.MAX_ITER", iterations, "SOLVER.STEPS", "[1]", "OUTPUT_DIR", str(tmp_path)]
        trainer = DefaultTrainer(tiny_cfg(*opts))
        trainer.resume_or_load(resume)
        trainer.train()
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["trainer"]["iteration"] == 2


def _load(cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
    seed_everything(cfg.SEED)
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume)
    return trainer


def _start(cfg: CfgNode, resume: bool = False) -> DefaultTrainer:
    return _load(default_setup(cfg, argparse.Namespace(resume=resume)), resume)


def _tree(folder: Path) -> dict[str, bytes]:
    """What a run's folder holds of it; the logs, which only grow, apart."""
    growing = ("log.txt", "invocations.json", "tfevents", ".lock")
    files = [path for path in folder.rglob("*") if path.is_file() and not any(name in path.name for name in growing)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_mistaken_start_leaves_the_earlier_run_as_it_is(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = ("OUTPUT_DIR", str(tmp_path), "SEED", "-1", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2")
    _start(tiny_cfg(*opts)).train()
    before = _tree(tmp_path)

    class Fails(HookBase):
        """An error after the second iteration, before anything is saved."""

        def after_step(self) -> None:
            if self.trainer.iter == 1:
                raise OSError("mistaken")

    mistaken = _start(tiny_cfg(*opts[:-1], "9", "SOLVER.BASE_LR", "0.5"))
    mistaken.register_hooks([Fails()])
    with pytest.raises(OSError, match="mistaken"):
        mistaken.train()
    after = _tree(tmp_path)
    assert load_cfg(str(tmp_path / "config.next.yaml")).SOLVER.BASE_LR == 0.5
    # What it has written is there to be read, until the earlier run goes on.
    assert after.pop("metrics.json").startswith(before.pop("metrics.json")) and after.pop("config.next.yaml")
    assert after == before
    resumed = _start(tiny_cfg(*opts), resume=True)
    assert resumed.start_iter == 4 and resumed.cfg.SEED == load_cfg(str(tmp_path / "config.yaml")).SEED
    assert [line["iteration"] for line in _metrics(tmp_path)] == [0, 1, 2, 3]
    assert not (tmp_path / "config.next.yaml").exists()


def test_a_fresh_start_sets_the_earlier_run_aside(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    opts = (
        "SOLVER.MAX_ITER",
        "4",
        "SOLVER.CHECKPOINT_PERIOD",
        "3",
        "TEST.EVAL_PERIOD",
        "2",
        "OUTPUT_DIR",
        str(tmp_path),
    )
    first = _start(tiny_cfg(*opts))
    first.train()
    before = _tree(tmp_path)
    for number in (1, 2):
        _start(tiny_cfg(*opts, "SOLVER.BASE_LR", f"0.0{number}")).train()
        aside = tmp_path / f"earlier_{number}"
        # The evaluation after two iterations comes before the first checkpoint, and has replaced nothing.
        assert _tree(aside) == before
        before = {name: content for name, content in _tree(tmp_path).items() if not name.startswith("earlier_")}
        assert load_cfg(str(tmp_path / "config.yaml")).SOLVER.BASE_LR == number / 100
        assert [line["iteration"] for line in _metrics(tmp_path)] == [0, 1, 2, 3]
    # What was set aside is a run's folder like others.
    assert _start(tiny_cfg(*opts, "OUTPUT_DIR", str(aside)), resume=True).start_iter == 4


def test_a_resume_without_checkpoints_sets_the_earlier_run_aside(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    cfg = tiny_cfg("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "4")
    _start(cfg).train()
    (tmp_path / "failed_videos.json").write_text("{}")
    for path in (tmp_path / "last_checkpoint", *tmp_path.glob("*.pth")):
        path.unlink()
    before = _tree(tmp_path)
    trainer = _start(cfg.with_overrides(["SOLVER.BASE_LR", 0.5]), resume=True)
    assert trainer.start_iter == 0 and before.items() <= _tree(tmp_path).items()
    trainer.train()
    assert _tree(tmp_path / "earlier_1") == before
    assert load_cfg(str(tmp_path / "config.yaml")).SOLVER.BASE_LR == 0.5
    assert [line["iteration"] for line in _metrics(tmp_path)] == [0, 1, 2, 3]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tiny_cfg: Callable[..., CfgNode], tmp_path: Path) -> None:
    whole, killed = (tiny_cfg(*OPTS, "OUTPUT_DIR", str(tmp_path / name)) for name in ("whole", "killed"))
    _run(whole)
    _run(killed)
    # As a kill in the tenth iteration leaves it: lines after the checkpoint, one of them half written.
    folder = Path(killed.OUTPUT_DIR)
    (folder / "last_checkpoint").write_text("model_0000005.pth\n")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 9, "total_')
    trainer = DefaultTrainer(killed)
    trainer.resume_or_load(resume=True)
    trainer.train()
    _assert_equal_runs(Path(whole.OUTPUT_DIR), folder)


class Killed(BaseException):
    """Ends a run as a kill would, as far as its files go."""


def _kill_at(moment: int, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and stop before the file of this number is renamed, or the metrics get lines."""
    trainer = _load(cfg)
    passed = itertools.count()

    def watched(function: Callable) -> Callable:
        def call(*arguments: object) -> object:
            if next(passed) == moment:
                raise Killed
            return function(*arguments)

        return call

    with monkeypatch.context() as patches:
        patches.setattr("nlvideo.utils.files.file_io.os.replace", watched(os.replace))
        patches.setattr(JSONWriter, "write", watched(JSONWriter.write))
        with pytest.raises(Killed):
            trainer.train()


def test_a_kill_at_any_moment_loses_nothing(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opts = ("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2", "SOLVER.LOG_PERIOD", "2")
    whole = tmp_path / "whole"
    results = _load(tiny_cfg(*opts, "OUTPUT_DIR", str(whole))).train()
    files = {path.name: torch.load(path, weights_only=True) for path in whole.glob("*.pth")}
    assert files.keys() == {"model_0000002.pth", "model_best.pth", "model_final.pth"}
    # Twice: checkpoint, tag, results, the best one (once), checkpoint with results, tag, lines of metrics. Of these:
    for moment in (1, 2, 4, 6, 9, 12):
        folder = tmp_path / str(moment)
        cfg = tiny_cfg(*opts, "OUTPUT_DIR", str(folder))
        _kill_at(moment, cfg, monkeypatch)
        if list(folder.glob("*.pth")) and not (folder / "last_checkpoint").exists():
            # Between the two renames of the first checkpoint: what the error says to do.
            with pytest.raises(ValueError, match="To go on from one of model_0000002.pth, write its name"):
                _load(cfg, resume=True)
            (folder / "last_checkpoint").write_text("model_0000002.pth")
        assert _load(cfg, resume=True).train() == results
        assert _metrics(folder) == _metrics(whole), moment
        for name, content in files.items():
            assert _differences(content, torch.load(folder / name, weights_only=True)) == [], (moment, name)
        assert {path.name for path in (folder / "inference").iterdir()} == {
            path.name for path in (whole / "inference").iterdir()
        }


def test_other_settings_are_said(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _start(tiny_cfg("OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[1]")).train()
    caplog.clear()
    opts = ("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "[1]", "SOLVER.CLIPS_PER_BATCH", "8")
    _start(tiny_cfg("OUTPUT_DIR", str(tmp_path), *opts), resume=True).train()
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "SOLVER.CLIPS_PER_BATCH was 4 and is 8; SOLVER.MAX_ITER was 2 and is 3. The result will" in warning


def test_gradients_that_are_not_finite_end_the_run_and_spoil_no_checkpoint(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path
) -> None:
    opts = ("OUTPUT_DIR", str(tmp_path), "SOLVER.CHECKPOINT_PERIOD", "1")

    class Spoils(HookBase):
        """Makes a gradient NaN in one iteration, where the loss is finite."""

        def __init__(self, at: int):
            self.at = at

        def after_backward(self) -> None:
            if self.trainer.iter == self.at:
                next(self.trainer.model.parameters()).grad.fill_(math.nan)

    # At a checkpoint, and in the last iteration.
    for at, resume, last in ((1, False, "model_0000001.pth"), (2, True, "model_0000002.pth")):
        trainer = _start(tiny_cfg(*opts), resume)
        trainer.register_hooks([Spoils(at)])
        with pytest.raises(FloatingPointError, match=r"is not saved: model.backbone.\S+ is not finite. The losses"):
            trainer.train()
        assert (tmp_path / "last_checkpoint").read_text().strip() == last
        assert not (tmp_path / "model_final.pth").exists() and not (tmp_path / "model_best.pth").exists()
    assert _start(tiny_cfg(*opts), resume=True).train()["classification"]["num_videos"] == 5


def test_a_finished_run_only_tests(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg()
    first = DefaultTrainer(cfg)
    first.resume_or_load()
    results = first.train()
    again = DefaultTrainer(cfg)
    again.resume_or_load(resume=True)
    assert again.train() == results and results["classification"]["num_videos"] == 5


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import test_resume
from nlvideo.config import load_cfg
from nlvideo.errors import TrainingInterrupted
from nlvideo.engine.launch import launch
from nlvideo.utils import comm

def main(opts, folder):
    assert comm.get_world_size() == 2
    def config(name, workers):
        return load_cfg(None, [*opts, "DATALOADER.NUM_WORKERS", workers, "OUTPUT_DIR", f"{{folder}}/{{name}}"])

    test_resume._run(config("whole", "0"))
    for workers in ("0", "2"):
        cfg = config(f"stopped{{workers}}", workers)
        try:
            # Only one rank gets the signal.
            test_resume._run(cfg, stop=2 if comm.get_rank() == 1 else 0)
        except TrainingInterrupted as stop:
            print(f"rank {{comm.get_rank()}}: {{stop}}", flush=True)
        test_resume._run(cfg, resume=True)

if __name__ == "__main__":
    launch(main, num_gpus=2, device="cpu", args=({opts!r}, {folder!r}), timeout_minutes=5)
"""


@pytest.mark.parametrize(
    "own",
    [OPTS, _changes(*CHANGES[1]), [*OPTS, *HEADS["attentive"]]],
    ids=["plain", "fine_tuning", "attentive"],
)
def test_two_ranks(tiny_opts: list[str], tmp_path: Path, own: list[str]) -> None:
    script = tmp_path / "two_ranks.py"
    opts = [*tiny_opts, *own]
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), opts=opts, folder=str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # The stream of clips depends neither on the stop nor on the number of workers.
    for workers in (0, 2):
        _assert_equal_runs(tmp_path / "whole", tmp_path / f"stopped{workers}")
    assert done.stdout.count("stopped after 7 of 12 iterations") >= 4
