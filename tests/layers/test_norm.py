"""Normalisation layers: names, frozen statistics, statistics over processes."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from nlvideo.layers import FrozenBatchNorm, SyncBatchNorm, freeze_norms, get_norm, sync_norms

INPUT_SHAPES = {1: (4, 6, 5), 2: (4, 6, 5, 3), 3: (4, 6, 2, 5, 3)}


def trained_norm(dim=3, channels=6):
    """A BN that has seen data and whose affine part is not the identity."""
    torch.manual_seed(0)
    norm = get_norm("BN", channels, dim=dim)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    for _ in range(3):
        norm(torch.randn(INPUT_SHAPES[dim]) * 2 + 1)
    return norm


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("name", ["BN", "SyncBN", "FrozenBN", "none", None])
def test_get_norm_keeps_the_shape(name, dim):
    """Every name, every number of axes, in train and eval mode."""
    norm = get_norm(name, 6, dim=dim)
    x = torch.randn(INPUT_SHAPES[dim])
    assert norm(x).shape == x.shape
    assert norm.eval()(x).shape == x.shape
    if name in ("none", None):
        assert norm(x) is x and not norm.state_dict()
    else:
        assert norm.eps == 1e-5
    if name in ("BN", "SyncBN"):
        assert norm.momentum == 0.1


def test_get_norm_errors():
    """The allowed values are in the message."""
    with pytest.raises(ValueError, match="norm: got 'GN', allowed: 'BN', 'SyncBN', 'FrozenBN', 'none'"):
        get_norm("GN", 6)
    with pytest.raises(ValueError, match="dim: got 4, allowed: 1, 2, 3"):
        get_norm("BN", 6, dim=4)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_frozen_loads_bn_and_ignores_train(dim):
    """The state dict of a trained BN, num_batches_tracked included, read strictly."""
    trained = trained_norm(dim).eval()
    frozen = get_norm("FrozenBN", 6, dim=dim)
    frozen.load_state_dict(trained.state_dict())
    x = torch.randn(INPUT_SHAPES[dim]) * 5
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    for module in (frozen.train(), frozen.eval()):
        torch.testing.assert_close(module(x), trained(x), rtol=0, atol=0)
    assert not list(frozen.parameters())
    assert set(before) == {"weight", "bias", "running_mean", "running_var"}
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())


def test_frozen_passes_gradients_to_its_input():
    """Frozen means its constants, not what lies below."""
    x = torch.randn(2, 6, 2, 2, 2, requires_grad=True)
    FrozenBatchNorm(6)(x).sum().backward()
    assert x.grad.abs().min() > 0


def test_freeze_norms_replaces_all_and_keeps_the_function():
    """Nested children, a BN passed directly, a norm without affine part; other layers stay."""
    model = nn.Sequential(nn.Conv3d(6, 6, 1), nn.Sequential(trained_norm(), nn.ReLU()), SyncBatchNorm(6)).eval()
    x = torch.randn(INPUT_SHAPES[3])
    expected = model(x)
    assert freeze_norms(model) is model
    torch.testing.assert_close(model.train()(x), expected, rtol=0, atol=0)
    assert [type(m).__name__ for m in model.modules() if hasattr(m, "running_mean")] == ["FrozenBatchNorm"] * 2
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    plain = nn.BatchNorm3d(6, affine=False).eval()
    frozen = freeze_norms(plain)
    assert isinstance(frozen, FrozenBatchNorm)
    torch.testing.assert_close(frozen(x), plain(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="no running statistics"):
        freeze_norms(nn.BatchNorm2d(6, track_running_stats=False))


def test_sync_norms_keeps_weights_statistics_settings_and_mode():
    model = nn.Sequential(nn.Conv3d(6, 6, 1), nn.Sequential(trained_norm(), nn.ReLU()))
    model[1][0].eps, model[1][0].momentum = 0.1, 0.3
    x = torch.randn(INPUT_SHAPES[3])
    expected, names = model.eval()(x), list(model.state_dict())
    assert sync_norms(model) is model and list(model.state_dict()) == names
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    norm = model[1][0]
    assert isinstance(norm, SyncBatchNorm) and (norm.eps, norm.momentum, norm.training) == (0.1, 0.3, False)


def test_sync_on_one_process_is_plain_bn():
    """Values and running statistics, train and eval."""
    plain, sync = get_norm("BN", 6), get_norm("SyncBN", 6)
    x = torch.randn(INPUT_SHAPES[3])
    for mode in (True, False):
        plain.train(mode), sync.train(mode)
        torch.testing.assert_close(sync(x), plain(x), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), sync.state_dict().values(), strict=True))


WORKER = """
    import sys, torch, torch.distributed as dist
    from nlvideo.layers import get_norm
    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    task = torch.load(f"{folder}/task.pt")
    norm = get_norm("SyncBN", 6).double()
    norm.load_state_dict(task["state"])
    part = slice(0, 3) if rank == 0 else slice(3, 5)      # batches of different size
    x = task["x"][part].clone().requires_grad_()
    y = norm(x)
    (y * task["weight"][part]).sum().backward()
    torch.save({"y": y.detach(), "x_grad": x.grad, "weight_grad": norm.weight.grad, "bias_grad": norm.bias.grad,
                "state": norm.state_dict(), "eval": norm.eval()(x).detach()}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
"""


def test_sync_over_two_processes_is_bn_of_the_whole_batch(tmp_path):
    """Values, gradients and running statistics over Gloo, with unequal batches and a mean far from zero."""
    torch.manual_seed(1)
    whole = get_norm("BN", 6).double()
    nn.init.normal_(whole.weight)
    x = (torch.randn(5, 6, 2, 3, 3, dtype=torch.float64) + 100).requires_grad_()
    weight = torch.randn_like(x)
    torch.save({"x": x.detach(), "weight": weight, "state": whole.state_dict()}, tmp_path / "task.pt")
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    # The package may be importable only from the folder that pytest runs in.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    command = [sys.executable, str(script)]
    ranks = [subprocess.Popen([*command, str(r), str(tmp_path)], env=environment) for r in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]

    y = whole(x)
    (y * weight).sum().backward()
    parts = [torch.load(tmp_path / f"rank{r}.pt") for r in range(2)]
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach())
    torch.testing.assert_close(torch.cat([p["x_grad"] for p in parts]), x.grad)
    torch.testing.assert_close(sum(p["weight_grad"] for p in parts), whole.weight.grad)
    torch.testing.assert_close(sum(p["bias_grad"] for p in parts), whole.bias.grad)
    for part in parts:
        torch.testing.assert_close(part["state"], whole.state_dict())
    torch.testing.assert_close(torch.cat([p["eval"] for p in parts]), whole.eval()(x).detach())
