"""Optimizers, parameter groups and gradient clipping from a configuration."""

import logging

import pytest
import torch
from torch import nn

from nlvideo.config import get_cfg
from nlvideo.layers.norm import FrozenBatchNorm, get_norm
from nlvideo.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer, parameter_groups


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 3, 1)
        self.bn = nn.BatchNorm3d(3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3, 4)))


def _cfg(**solver):
    cfg = get_cfg()
    for key, value in solver.items():
        node = cfg.SOLVER
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return cfg


def _decay_by_name(model, groups):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}


def test_only_norm_parameters_are_spared_from_decay():
    model = _Net()
    assert _decay_by_name(model, parameter_groups(model, 0.5, 0.25)) == {
        "conv.weight": 0.5,
        "conv.bias": 0.5,
        "bn.weight": 0.25,
        "bn.bias": 0.25,
        "fc.weight": 0.5,
        "fc.bias": 0.5,
    }


@pytest.mark.parametrize(
    "norm",
    [
        get_norm("SyncBN", 4),
        get_norm("BN", 4, dim=1),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        nn.InstanceNorm3d(4, affine=True),
    ],
)
def test_every_kind_of_norm_is_recognised(norm):
    model = nn.Sequential(nn.Linear(2, 2), norm)
    assert _decay_by_name(model, parameter_groups(model, 1.0, 0.0))["1.weight"] == 0.0


def test_frozen_parameters_are_left_out_and_groups_are_not_empty():
    model = _Net()
    model.bn = FrozenBatchNorm(3)
    model.conv.requires_grad_(False)
    (group,) = parameter_groups(model, 1.0, 0.0)
    assert [parameter.shape for parameter in group["params"]] == [model.fc.weight.shape, model.fc.bias.shape]


def test_shared_parameters_appear_once():
    layer = nn.Linear(2, 2)
    (group,) = parameter_groups(nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer)), 1.0, 0.0)
    assert len(group["params"]) == 2


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(_Net().requires_grad_(False), 1.0, 0.0)


class _Stages(nn.Module):
    """A backbone of two stages; what they share belongs to the first."""

    def __init__(self):
        super().__init__()
        self.stem, self.res2 = nn.Sequential(nn.Conv3d(2, 3, 1), nn.BatchNorm3d(3)), nn.Conv3d(3, 3, 1)
        self.res2.shared = self.stem[0]

    def stages(self):
        return {"stem": [self.stem], "res2": [self.res2]}


class _Staged(nn.Module):
    def __init__(self, backbone=None):
        super().__init__()
        self.backbone, self.head = backbone or _Stages(), nn.Linear(3, 4)


def test_head_and_stages_get_rates_of_their_own(caplog):
    model = _Staged()
    cfg = _cfg(BASE_LR=0.1, HEAD_LR_FACTOR=10.0, LAYER_DECAY=0.5, MAX_ITER=10, STEPS=[1], WEIGHT_DECAY_NORM=0.25)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        optimizer = build_optimizer(cfg, model)
    assert "head 10, res2 0.5, stem 0.25" in caplog.text
    scheduler = build_lr_scheduler(cfg, optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def rates():
        return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}

    expected = {name: {"h": 1.0, "r": 0.05, "s": 0.025}[name.removeprefix("backbone.")[0]] for name in names.values()}
    assert rates() == pytest.approx(expected)
    decays = _decay_by_name(model, optimizer.param_groups)
    assert {name for name, decay in decays.items() if decay == 0.25} == {
        "backbone.stem.1.weight",
        "backbone.stem.1.bias",
    }
    optimizer.step()
    scheduler.step()
    assert rates() == pytest.approx({name: rate / 10 for name, rate in expected.items()})
    # A resumed run has the factors of its config.
    other = build_optimizer(_cfg(BASE_LR=0.1, HEAD_LR_FACTOR=10.0, LAYER_DECAY=0.9), model)
    later = build_lr_scheduler(cfg, other)
    other.load_state_dict(optimizer.state_dict())
    later.load_state_dict(scheduler.state_dict())
    assert sorted({group["lr"] for group in other.param_groups}) == pytest.approx([0.0081, 0.009, 0.1])


def test_without_factors_the_groups_are_as_they_were():
    groups = build_optimizer(_cfg(), _Staged()).param_groups
    assert len(groups) == 2 and all("lr_factor" not in group and group["lr"] == 0.01 for group in groups)


@pytest.mark.parametrize(
    "model, key, what",
    [
        (_Net(), "HEAD_LR_FACTOR", "a model without a backbone"),
        (_Staged(nn.Linear(1, 1)), "LAYER_DECAY", r"Linear, which has no stages\(\)"),
    ],
)
def test_factors_need_stages(model, key, what):
    with pytest.raises(ValueError, match=f"SOLVER.{key}: not possible with {what}, allowed: the default"):
        build_optimizer(_cfg(**{key: 0.5}), model)


def test_sgd_takes_every_setting():
    optimizer = build_optimizer(_cfg(BASE_LR=0.3, MOMENTUM=0.7, NESTEROV=True, WEIGHT_DECAY=0.01), _Net())
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.3, 0.7, True, 0.01)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0


def test_adamw_takes_every_setting():
    optimizer = build_optimizer(_cfg(OPTIMIZER="AdamW", BASE_LR=0.3, BETAS=[0.8, 0.9], WEIGHT_DECAY=0.2), _Net())
    assert isinstance(optimizer, torch.optim.AdamW)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.3, (0.8, 0.9), 0.2)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER: got 'Adam', allowed: 'SGD', 'AdamW'"):
        build_optimizer(_cfg(OPTIMIZER="Adam"), _Net())


def test_sgd_equals_the_authors_update_when_the_rate_changes():
    """Caffe2 keeps the rate inside the momentum and corrects it at each change; PyTorch keeps it outside."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.1)
    value, velocity, old_rate = 1.0, 0.0, 0.1
    for iteration, rate in enumerate([0.1, 0.1, 0.01, 0.01]):
        gradient = 3.0 - iteration
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        previous = velocity * rate / old_rate
        velocity = 0.9 * previous + rate * (gradient + 0.1 * value)
        value -= 1.9 * velocity - 0.9 * previous
        old_rate = rate
        assert weight.item() == pytest.approx(value, abs=1e-12)


def test_scheduler_reads_the_configuration():
    cfg = _cfg(BASE_LR=1.0, STEPS=[4], GAMMA=0.5, MAX_ITER=8, WARMUP_ITERS=2, WARMUP_FACTOR=0.1)
    optimizer = build_optimizer(cfg, _Net())
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(6):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1, 0.55, 1, 1, 0.5, 0.5])


def test_scheduler_refuses_a_warmup_longer_than_the_run():
    cfg = _cfg(MAX_ITER=10, STEPS=[], WARMUP_ITERS=34)
    with pytest.raises(ValueError, match="warmup_iters: got 34"):
        build_lr_scheduler(cfg, build_optimizer(cfg, _Net()))


def _parameters(*gradients):
    parameters = [nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients):
        parameter.grad = torch.tensor(gradient)
    return parameters


def test_clipping_is_off_by_default():
    assert build_gradient_clipper(get_cfg()) is None


def test_clip_by_the_common_norm():
    clip = build_gradient_clipper(_cfg(CLIP_GRADIENTS__ENABLED=True, CLIP_GRADIENTS__MAX=1.0))
    parameters = _parameters([3.0, 0.0], [4.0])
    assert clip(iter(parameters)).item() == pytest.approx(5.0)
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0], abs=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.8], abs=1e-5)


def test_clip_leaves_small_gradients_alone():
    clip = build_gradient_clipper(_cfg(CLIP_GRADIENTS__ENABLED=True, CLIP_GRADIENTS__MAX=10.0))
    parameters = _parameters([3.0], [4.0])
    clip(parameters)
    assert [p.grad.item() for p in parameters] == [3.0, 4.0]


def test_clip_by_value():
    clip = build_gradient_clipper(
        _cfg(CLIP_GRADIENTS__ENABLED=True, CLIP_GRADIENTS__TYPE="value", CLIP_GRADIENTS__MAX=1.0)
    )
    parameters = _parameters([3.0, -0.5, -2.0])
    assert clip(iter(parameters)) is None
    assert parameters[0].grad.tolist() == [1.0, -0.5, -1.0]


def test_an_unknown_way_to_clip_is_an_error():
    with pytest.raises(ValueError, match="SOLVER.CLIP_GRADIENTS.TYPE: got 'l1', allowed: 'norm', 'value'"):
        build_gradient_clipper(_cfg(CLIP_GRADIENTS__ENABLED=True, CLIP_GRADIENTS__TYPE="l1"))


gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("memory_format", [torch.channels_last_3d, torch.contiguous_format])
def test_fused_and_plain_agree(name, memory_format, device):
    weights = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv3d(2, 3, (1, 3, 3)), nn.Conv3d(3, 4, 1))
        model.to(device).to(memory_format=memory_format)
        optimizer = build_optimizer(_cfg(OPTIMIZER=name, FUSED=fused), model)
        assert bool(optimizer.param_groups[0]["fused"]) == fused
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(2, 2, 3, 4, 4).to(device)).square().mean().backward()
            optimizer.step()
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_loaded_state_takes_the_memory_format_of_the_weights(name):
    torch.manual_seed(0)
    saved, loaded = (nn.Conv3d(2, 3, 3) for _ in range(2))
    optimizer = build_optimizer(_cfg(OPTIMIZER=name), saved)
    saved(torch.randn(1, 2, 3, 4, 4)).sum().backward()
    optimizer.step()
    loaded.to(memory_format=torch.channels_last_3d)
    other = build_optimizer(_cfg(OPTIMIZER=name), loaded)
    other.load_state_dict(optimizer.state_dict())
    for theirs, ours in zip(saved.parameters(), loaded.parameters()):
        for key, value in optimizer.state[theirs].items():
            found = other.state[ours][key]
            assert torch.equal(found, value)
            assert value.shape != ours.shape or found.stride() == ours.stride()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_first_step_that_a_gradient_scaler_skips_leaves_no_trace(name, fused):
    junk = [torch.full((1 << 16,), float("nan")) for _ in range(200)]  # what new memory may hold
    del junk
    weights = []
    for skipped in (1, 0):
        layer = nn.Linear(1 << 16, 1, bias=False)
        nn.init.ones_(layer.weight)
        optimizer = build_optimizer(_cfg(OPTIMIZER=name, FUSED=fused), layer)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(-skipped, 3):
            optimizer.zero_grad()
            scaler.scale((layer.weight * (float("inf") if step < 0 else 0.5)).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        weights.append(layer.weight.detach())
    assert torch.isfinite(weights[0]).all() and not torch.equal(weights[0], torch.ones_like(weights[0]))
    assert torch.equal(*weights)


def test_momentum_of_zeros_makes_the_steps_that_pytorch_makes():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "fused": True}
    optimizers = build_optimizer(_cfg(BASE_LR=0.1, FUSED=True), ours), torch.optim.SGD(theirs.parameters(), **settings)
    for _ in range(3):
        x = torch.randn(4, 3)
        for model, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_a_resumed_optimizer_has_the_settings_of_the_config():
    model = _Net()
    saved = build_optimizer(_cfg(), model).state_dict()
    optimizer = build_optimizer(_cfg(MOMENTUM=0.5, WEIGHT_DECAY=0.25, FUSED=False), model)
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["fused"]) == (0.5, 0.25, None)


def test_the_state_of_another_kind_of_optimizer_is_refused():
    model = _Net()
    saved = build_optimizer(_cfg(OPTIMIZER="AdamW"), model).state_dict()
    with pytest.raises(ValueError, match="it is not of SGD: SOLVER.OPTIMIZER was another one"):
        build_optimizer(_cfg(), model).load_state_dict(saved)
