"""The example project: block, keys and hook."""

import json
import sys
from pathlib import Path

import pytest
import torch

from nlvideo.config import get_cfg, load_cfg
from nlvideo.engine.train_loop import SimpleTrainer
from nlvideo.modeling.nonlocal_block import NonLocalBlock, build_nonlocal_block
from nlvideo.utils.plugins import load_plugin

PROJECT = Path(__file__).resolve().parents[1]
gated_nonlocal = load_plugin(str(PROJECT)).module


@pytest.mark.parametrize("per_channel", [False, True])
def test_starts_as_the_identity_and_learns(per_channel: bool) -> None:
    torch.manual_seed(0)
    block = gated_nonlocal.GatedNonLocalBlock(8, per_channel=per_channel)
    x = torch.randn(2, 8, 2, 4, 4)
    assert torch.equal(block(x), x)
    assert block.gate.shape == ((8,) if per_channel else (1,))
    block(x).square().mean().backward()
    assert block.gate.grad.abs().min() > 0


def test_a_gate_of_one_is_the_block_of_the_core() -> None:
    torch.manual_seed(0)
    gated = gated_nonlocal.GatedNonLocalBlock(8, gate_init=1.0)
    plain = NonLocalBlock(8, zero_init=False)
    plain.load_state_dict(gated.state_dict(), strict=False)
    x = torch.randn(2, 8, 2, 4, 4)
    torch.testing.assert_close(gated(x), plain(x))


def test_gates_scale_their_channel() -> None:
    torch.manual_seed(0)
    block = gated_nonlocal.GatedNonLocalBlock(4, per_channel=True, gate_init=1.0).eval()
    x = torch.randn(1, 4, 2, 2, 2)
    full = block(x) - x
    with torch.no_grad():
        block.gate.copy_(torch.tensor([0.0, 0.5, 1.0, 2.0]))
    torch.testing.assert_close(block(x) - x, full * block.gate.view(1, 4, 1, 1, 1), atol=1e-6, rtol=1e-4)


def test_two_zeros_are_refused() -> None:
    with pytest.raises(ValueError, match="^zero_init: got True with gate_init 0"):
        gated_nonlocal.GatedNonLocalBlock(8, zero_init=True)
    cfg = load_cfg(None, ["MODEL.NONLOCAL.ZERO_INIT", "True"], [str(PROJECT)])
    with pytest.raises(ValueError, match="^MODEL.NONLOCAL.ZERO_INIT: got True with gate_init 0"):
        gated_nonlocal.GatedNonLocalBlock(cfg, 16)
    gated_nonlocal.GatedNonLocalBlock(8, zero_init=True, gate_init=0.1)


def test_config_builds_the_block() -> None:
    cfg = load_cfg(str(PROJECT / "configs" / "gated_instant_test.yaml"))
    assert cfg.PLUGINS == [str(PROJECT)]
    block = build_nonlocal_block(cfg, 16)
    assert isinstance(block, gated_nonlocal.GatedNonLocalBlock) and block.gate.shape == (16,)
    assert sys.modules["gated_nonlocal"] is gated_nonlocal


def test_keys_exist_only_with_the_project() -> None:
    assert "GATED" not in get_cfg().MODEL
    with pytest.raises(KeyError, match="MODEL.GATED"):
        load_cfg(None, ["MODEL.GATED.INIT", "1.0"])
    assert load_cfg(None, ["MODEL.GATED.INIT", "1"], [str(PROJECT)]).MODEL.GATED.INIT == 1.0


class Trainer(SimpleTrainer):
    """Opens each gate of its model a little in each step."""

    def run_step(self) -> None:
        for block in self.model.modules():
            if isinstance(block, gated_nonlocal.GatedNonLocalBlock):
                block.gate.data -= 0.5


def _train(*layers: torch.nn.Module) -> Trainer:
    model = torch.nn.Sequential(*layers)
    trainer = Trainer(model, [], torch.optim.SGD([torch.zeros(1)]))
    trainer.register_hooks(gated_nonlocal.build_hooks(load_cfg(None, ["SOLVER.LOG_PERIOD", "2"], [str(PROJECT)])))
    trainer.train(0, 5)
    return trainer


def test_hook_records_the_gates_when_lines_are_written() -> None:
    trainer = _train(gated_nonlocal.GatedNonLocalBlock(4), torch.nn.ReLU())
    assert trainer.storage.history("gate").values() == [(1.0, 1), (2.0, 3), (2.5, 4)]
    json.dumps(trainer.state_dict()["storage"])


def test_hook_says_nothing_without_a_gate() -> None:
    assert _train(torch.nn.Linear(1, 1)).storage.latest() == {}
