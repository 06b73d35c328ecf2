"""Running a network as far as one of its modules."""

import pytest
import torch
from torch import nn

from nlvideo.utils.analysis import run_until


class Counted(nn.Module):
    """Adds one, and counts how often."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + 1


@pytest.fixture()
def network():
    return nn.Sequential(Counted(), Counted(), Counted())


@pytest.mark.parametrize("before, value, calls", [(False, 2, [1, 1, 0]), (True, 1, [1, 0, 0])])
def test_nothing_behind_the_module_runs(network, before, value, calls):
    for _ in range(2):
        reached, seen = run_until(network[1], lambda: network(torch.zeros(3)), before)
        assert reached and torch.equal(seen, torch.full((3,), float(value)))
    assert [module.calls for module in network] == [2 * count for count in calls]
    # Afterwards the network is as it was.
    assert network(torch.zeros(1)).item() == 3


def test_a_module_that_does_not_run(network):
    assert run_until(nn.ReLU(), lambda: network(torch.zeros(1))) == (False, None)
    assert network[2].calls == 1


def test_other_errors_pass_and_leave_no_hook(network):
    with pytest.raises(TypeError):
        run_until(network[1], lambda: network("text"))
    assert not network[1]._forward_hooks and not network[1]._forward_pre_hooks
