"""What trains and what does not, by iteration: stages that are frozen, and modes of batch norm."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.engine.fine_tuning import FineTuning
from nlvideo.engine.setup import default_setup
from nlvideo.engine.train_loop import HookBase
from nlvideo.engine.trainer import DefaultTrainer

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("stem", "res2", "res3", "res4", "res5")


class Watch(HookBase):
    """Notes after each step which stages have changed, and which of their norms' statistics."""

    def __init__(self, model: nn.Module):
        self.model, self.weights, self.statistics, self.momentum = model, [], [], []
        self._before = self._state()

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def before_step(self) -> None:
        """Look at the momentum that a stage has when it begins to train."""
        state = self.trainer.optimizer.state
        self.momentum.append(
            all(not any(map(torch.any, state[p].values())) for p in self.model.backbone.stem.parameters())
        )
        self._before = self._state()

    def after_step(self) -> None:
        """Compare."""
        after = self._state()
        changed = {name for name, tensor in after.items() if not torch.equal(tensor, self._before[name])}
        statistics = {name for name in changed if "running" in name}
        where = [
            sorted({name.split(".")[1] for name in names if "backbone" in name}, key=STAGES.index)
            for names in (changed - statistics - {n for n in changed if "num_batches" in n}, statistics)
        ]
        self.weights.append(where[0])
        self.statistics.append(where[1])


def _watched(cfg: CfgNode) -> tuple[DefaultTrainer, Watch]:
    default_setup(cfg, argparse.Namespace(resume=False))
    trainer = DefaultTrainer(cfg)
    watch = Watch(trainer.bare_model)
    trainer.register_hooks([watch])
    trainer.train()
    return trainer, watch


# Weight decay would change frozen weights, too, if they were given to the optimizer.
OPTS = ["SOLVER.MAX_ITER", "4", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.STEPS", "[]", "TEST.EVAL_PERIOD", "1"]


def test_frozen_stages_begin_to_train_at_their_iteration(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    trainer, watch = _watched(tiny_cfg(*OPTS, "MODEL.BACKBONE.FREEZE_AT", "2", "MODEL.BACKBONE.FREEZE_UNTIL", "2"))
    late, all_stages = list(STAGES[2:]), list(STAGES)
    assert watch.weights == watch.statistics == [late, late, all_stages, all_stages]
    # No momentum, nor anything else, from before.
    assert watch.momentum == [True, True, True, False]
    assert all(module.training for module in trainer.bare_model.modules())
    assert (
        "Frozen: stem, res2, until iteration 2" in caplog.text
        and "From iteration 2 on, stem, res2 train" in caplog.text
    )


def test_a_frozen_stage_gets_no_gradient_and_is_in_evaluation_mode(tiny_cfg: Callable[..., CfgNode]) -> None:
    modes, gradients = [], []

    class Look(HookBase):
        """Looks into the stem in the middle of a step."""

        def after_backward(self) -> None:
            model = self.trainer.bare_model
            modes.append(
                [any(m.training for m in stage.modules()) for stage in (model.backbone.stem, model.backbone.res2)]
            )
            gradients.append([p.grad is not None for p in model.backbone.stem.parameters()])

    for until in ("0", "2"):
        opts = [*OPTS, "MODEL.BACKBONE.FREEZE_AT", "1", "MODEL.BACKBONE.FREEZE_UNTIL", until]
        trainer = DefaultTrainer(tiny_cfg(*opts))
        trainer.register_hooks([Look()])
        trainer.train()
    assert modes == [[False, True]] * 6 + [[True, True]] * 2
    assert list(map(any, gradients)) == [False] * 6 + [True] * 2


@pytest.mark.parametrize(
    ("mode", "frozen"),
    [("unfrozen", ""), ("frozen", "0123"), ("frozen_after", "23"), ("unfrozen_after", "01")],
)
def test_statistics_are_fixed_where_the_mode_says_so(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture, mode: str, frozen: str
) -> None:
    """Also after an evaluation in each iteration, which changes modes. Weights of norms train all the time."""
    trainer, watch = _watched(tiny_cfg(*OPTS, "SOLVER.BN_MODE", mode, "SOLVER.BN_MODE_ITER", "2"))
    assert watch.weights == [list(STAGES)] * 4
    assert watch.statistics == [[] if str(i) in frozen else list(STAGES) for i in range(4)]
    lines = [record.message for record in caplog.records if "batch norms use" in record.message]
    assert [line.split(",")[0] for line in lines] == [f"From iteration {i} on" for i in (0, 2)[: 1 + ("_" in mode)]]
    norm = trainer.bare_model.backbone.stem.bn
    assert not torch.equal(norm.weight, torch.ones_like(norm.weight))


def test_norms_of_frozen_stages_are_fixed_whatever_the_mode(tiny_cfg: Callable[..., CfgNode]) -> None:
    opts = ["MODEL.BACKBONE.FREEZE_AT", "1", "MODEL.BACKBONE.FREEZE_UNTIL", "3"]
    _, watch = _watched(tiny_cfg(*OPTS, *opts, "SOLVER.BN_MODE", "unfrozen_after", "SOLVER.BN_MODE_ITER", "2"))
    assert watch.statistics == [[], [], list(STAGES[1:]), list(STAGES)]


def test_precise_bn_leaves_frozen_norms_alone(
    tiny_cfg: Callable[..., CfgNode], caplog: pytest.LogCaptureFixture
) -> None:
    precise = ["TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITERS", "1"]
    _, watch = _watched(tiny_cfg(*OPTS, *precise, "SOLVER.BN_MODE", "frozen_after", "SOLVER.BN_MODE_ITER", "3"))
    assert watch.statistics == [list(STAGES)] * 3 + [[]]
    assert caplog.text.count("statistics of 1 batches") == 3 and caplog.text.count("every norm is frozen") == 1


def test_the_default_leaves_modes_to_the_model() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[0].eval()
    hook = FineTuning(model, nn.Identity())
    hook.trainer = argparse.Namespace(iter=0, schedule_offset=0)
    hook.before_step()
    assert not model[0].training


def test_a_model_must_have_the_stages_that_are_frozen(tiny_cfg: Callable[..., CfgNode]) -> None:
    model = DefaultTrainer(tiny_cfg()).bare_model
    with pytest.raises(ValueError, match="MODEL.BACKBONE.FREEZE_AT: got 6, allowed: 0, 1, 2, 3, 4, 5"):
        FineTuning(model, nn.Identity(), 6)
    with pytest.raises(ValueError, match="FREEZE_AT: not possible with a model without a backbone"):
        FineTuning(nn.Linear(1, 1), nn.Identity(), 1)
    with pytest.raises(ValueError, match="bn_mode: got 'off', allowed: 'unfrozen'"):
        FineTuning(model, nn.Identity(), bn_mode="off")


SCRIPT = """
import torch
from nlvideo.config import load_cfg
from nlvideo.engine.launch import launch
from nlvideo.engine.trainer import DefaultTrainer
from nlvideo.utils import comm

def main(opts):
    cfg = load_cfg(None, opts)
    trainer = DefaultTrainer(cfg)
    before = trainer.bare_model.backbone.stem.conv.weight.clone()
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.bare_model.parameters()])
    assert not torch.equal(before, trainer.bare_model.backbone.stem.conv.weight)
    both = comm.all_gather_object(weights)
    assert torch.equal(*both), (both[0] - both[1]).abs().max()

if __name__ == "__main__":
    launch(main, num_gpus=2, device="cpu", args=({opts!r},), timeout_minutes=5)
"""


@pytest.mark.slow
def test_two_ranks_exchange_the_gradients_of_stages_that_were_frozen(tiny_opts: list[str], tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    changes = ["MODEL.BACKBONE.FREEZE_AT", "2", "MODEL.BACKBONE.FREEZE_UNTIL", "2", "SOLVER.BN_MODE", "frozen_after"]
    opts = [*tiny_opts, *OPTS, *changes, "SOLVER.BN_MODE_ITER", "3", "SOLVER.ACCUMULATE", "2", "DATASETS.TEST", "[]"]
    script.write_text(SCRIPT.format(opts=opts))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
