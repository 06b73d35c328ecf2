"""Parameters and multiply-adds, against counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.utils.analysis import cost_table, count_gmacs, parameter_count, without_norms


class Attention(nn.Module):
    """Every way to write the two products of attention over (N, P, D)."""

    def __init__(self, product: str):
        super().__init__()
        self.product = product

    def forward(self, x):
        """(N, P, D) -> (N, P, D)."""
        if self.product == "matmul":
            return (x @ x.transpose(1, 2)).softmax(-1) @ x
        if self.product == "bmm":
            return torch.bmm(torch.bmm(x, x.transpose(1, 2)), x)
        if self.product == "baddbmm":
            weights = torch.baddbmm(torch.zeros(1, 1, 1, device=x.device), x, x.transpose(1, 2))
            return torch.baddbmm(x, weights, x)
        if self.product == "einsum":
            return torch.einsum("npq,nqd->npd", torch.einsum("npd,nqd->npq", x, x), x)
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


def gmacs(macs):
    return pytest.approx(macs / 1e9, rel=1e-12)


@pytest.mark.parametrize("product", ["matmul", "bmm", "baddbmm", "einsum", "sdpa"])
def test_the_products_of_attention_count(product):
    assert count_gmacs(Attention(product), torch.rand(2, 7, 5)) == gmacs(2 * 2 * 7 * 7 * 5)


@pytest.mark.parametrize("dim, conv", [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_convolutions(dim, conv):
    module = conv(6, 8, 3, padding=1, groups=2)
    assert count_gmacs(module, torch.rand(2, 6, *[4] * dim)) == gmacs(2 * 4**dim * 3**dim * 3 * 8)


def test_linear_layers_with_and_without_bias():
    for bias in (True, False):
        assert count_gmacs(nn.Linear(6, 5, bias=bias), torch.rand(4, 6)) == gmacs(4 * 6 * 5)


def test_norms_activations_and_pools_do_not_count():
    module = nn.Sequential(nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1))
    assert count_gmacs(module, torch.rand(1, 4, 4, 4, 4)) == 0


@pytest.mark.parametrize("norm", [nn.BatchNorm3d, nn.SyncBatchNorm])
def test_norms_that_are_left_out_change_no_shape(norm):
    module = nn.Sequential(nn.Conv3d(3, 4, 1), norm(4), nn.GroupNorm(2, 4)).to("meta")
    x = torch.zeros(2, 3, 2, 5, 5, device="meta")
    assert without_norms(module) is module and module(x).shape == (2, 4, 2, 5, 5)
    # Its input is handed on as it is, in training mode too; a norm without statistics is no concern.
    assert module[1](x) is x and module[2](module[0](x)).shape == (2, 4, 2, 5, 5)


def test_the_module_is_left_as_it_is():
    module = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count_gmacs(module, torch.rand(1, 3, 2, 4, 4))
    assert module.training and module[1].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in module.parameters())


def test_nothing_of_the_size_of_the_input_is_computed():
    # As real tensors these would be 64 GB and 1.8e15 multiply-adds.
    video = torch.empty(1, 16, 1000, 1000, 1000, device="meta")
    assert count_gmacs(nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0)), video) == gmacs(3 * 16 * 16 * 10**9)


class ReadsValues(nn.Module):
    """A module that meta tensors cannot go through."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        """(N, 3) -> (N, 2)."""
        return self.fc(x) if x.sum().item() > 0 else x


def test_a_module_that_reads_values_runs_on_the_cpu():
    assert count_gmacs(ReadsValues(), torch.ones(4, 3)) == gmacs(4 * 3 * 2)


def test_an_error_of_the_module_is_not_hidden():
    with pytest.raises(RuntimeError):
        count_gmacs(nn.Linear(3, 2), torch.rand(4, 5))


class Block(nn.Module):
    """Counts more as dense than otherwise, and remembers nothing."""

    def __init__(self, algorithm: str):
        super().__init__()
        self.algorithm = algorithm

    def forward(self, x):
        """(N, P, D) -> (N, P, D)."""
        gram = x.transpose(1, 2)
        return (x @ gram) @ x if self.algorithm == "dense" else x @ (gram @ x)


@pytest.mark.parametrize("algorithm", ["auto", "reordered", "dense"])
def test_blocks_with_an_algorithm_count_as_dense_and_keep_it(algorithm):
    block = Block(algorithm)
    assert count_gmacs(nn.Sequential(block), torch.rand(1, 9, 2)) == gmacs(2 * 9 * 9 * 2)
    assert block.algorithm == algorithm


def test_an_attribute_of_that_name_with_other_values_is_left_alone():
    assert count_gmacs(Block("somebody else's"), torch.rand(1, 9, 2)) == gmacs(2 * 9 * 2 * 2)


class TakesMany(nn.Module):
    """Arguments of several kinds, and a dict as a result."""

    def forward(self, first, features):
        """(A, B), {"x": [(B, C)]} -> {"y": (A, C)}."""
        return {"y": first @ features["x"][0]}


def test_several_arguments_in_containers():
    assert count_gmacs(TakesMany(), (torch.rand(2, 3), {"x": [torch.rand(3, 4)], "n": 1})) == gmacs(2 * 3 * 4)


def test_shared_parameters_count_once():
    linear = nn.Linear(3, 3)
    assert parameter_count(nn.Sequential(linear, linear)) == 12


def rows_of(table):
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:]}


def test_the_table_lists_modules_up_to_a_depth():
    module = nn.Sequential(nn.Sequential(nn.Linear(1000, 2000), nn.ReLU()), nn.Linear(2000, 10))
    x = torch.rand(500, 1000)
    assert list(rows_of(cost_table(module, x, depth=0))) == ["Sequential"]
    rows = rows_of(cost_table(module, x, depth=1))
    assert rows == {
        "Sequential": ["2,022,010", "1.01"],
        "0": ["2,002,000", "1"],
        "1": ["20,010", "0.01"],
    }
    assert rows_of(cost_table(module, x, depth=2))["0.1"] == ["0", "0"]


def test_a_negative_depth():
    with pytest.raises(ValueError, match="depth: got -1, allowed: 0 or more"):
        cost_table(nn.ReLU(), torch.rand(1), depth=-1)
