"""Non-local blocks in networks of others, and the table of what is where."""

import pytest
import torch
import torchvision
from torch import nn

from nlvideo.modeling.nonlocal_block import (
    NONLOCAL,
    NonLocalBlock,
    WithNonLocal,
    format_nonlocal_table,
    insert_nonlocal,
    nonlocal_table,
)

NETWORKS = {
    "resnet18": (torchvision.models.resnet18, 2, (2, 3, 64, 64)),
    "r3d_18": (torchvision.models.video.r3d_18, 3, (2, 3, 4, 32, 32)),
}


def make_network(name, seed=0):
    """A network of torchvision with random weights, and an input for it."""
    torch.manual_seed(seed)
    build, dim, shape = NETWORKS[name]
    return build(weights=None, num_classes=5), dim, torch.randn(shape)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_and_gradients_flow(name, training):
    """Unchanged to the bit at the start; then one step of training changes them."""
    model, dim, x = make_network(name)
    model.train(training)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(x)
    model.load_state_dict(state)  # running statistics moved in train mode
    blocks = {"layer2.1": NonLocalBlock(128, dim=dim), "layer3.1": NonLocalBlock(256, dim=dim, norm="none")}
    assert insert_nonlocal(model, blocks) is model
    assert torch.equal(model(x), expected)
    assert all(block.training == training for block in blocks.values())

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):  # the first step makes the last layer of the block non-zero, the second reaches the others
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    for block in blocks.values():
        for parameter_name in ("theta.weight", "phi.weight", "g.weight", "out.weight"):
            assert block.get_parameter(parameter_name).grad.abs().max() > 0, parameter_name
    assert model.conv1.weight.grad.abs().max() > 0 if dim == 2 else model.stem[0].weight.grad.abs().max() > 0
    assert not torch.equal(model(x), expected)


def test_state_dict_names():
    """Names of the wrapped module get one level; all others stay; values are the same tensors."""
    model, dim, _ = make_network("resnet18")
    before = model.state_dict()
    insert_nonlocal(model, {"layer3.1": NonLocalBlock(256, dim=dim)})
    after = model.state_dict()
    for name, value in before.items():
        moved = name.replace("layer3.1.", "layer3.1.module.")
        assert after[moved].data_ptr() == value.data_ptr()
    new = {name for name in after if ".nonlocal_block." in name}
    assert len(after) == len(before) + len(new)
    assert "layer3.1.nonlocal_block.theta.weight" in new


def test_nested_places():
    """A stage and a block inside it, in either order; a network whose first level is meant."""
    for names in (("layer3", "layer3.0"), ("layer3.0", "layer3")):
        model, dim, x = make_network("resnet18")
        expected = model.eval()(x)
        insert_nonlocal(model, {name: NonLocalBlock(256, dim=dim) for name in names})
        assert isinstance(model.layer3, WithNonLocal) and isinstance(model.layer3.module[0], WithNonLocal)
        assert torch.equal(model(x), expected)


def test_unknown_name_changes_nothing():
    """Near matches are in the message."""
    model, dim, _ = make_network("resnet18")
    names = list(model.state_dict())
    with pytest.raises(KeyError, match="no sub-module 'layer3.4' in ResNet. did you mean 'layer3.*'"):
        insert_nonlocal(model, {"layer2.1": NonLocalBlock(128, dim=dim), "layer3.4": NonLocalBlock(256, dim=dim)})
    with pytest.raises(KeyError, match="no sub-module ''"):
        insert_nonlocal(model, {"": NonLocalBlock(5, dim=dim)})
    assert list(model.state_dict()) == names


def test_with_nonlocal_passes_arguments():
    """A module may take more than one."""
    wrapped = WithNonLocal(nn.Bilinear(3, 3, 4), nn.Identity())
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(wrapped(a, input2=b), wrapped.module(a, b))


def test_table():
    """Names, sizes, cost and algorithm of each block, in the order in which they run; the network is left alone."""
    model, _, x = make_network("r3d_18")
    insert_nonlocal(
        model,
        {
            "layer3.1": NonLocalBlock(256, pairwise="dot_product", attend="space"),
            "layer1.0": NonLocalBlock(64, inner_channels=16, pairwise="gaussian", algorithm="dense"),
        },
    )
    training = [module.training for module in model.modules()]
    rows = nonlocal_table(model, x)
    assert [row["name"] for row in rows] == ["layer1.0.nonlocal_block", "layer3.1.nonlocal_block"]
    first, second = rows
    assert (first["T x H x W"], first["P x Q"], first["algorithm"]) == ("4 x 16 x 16", "1024 x 256", "dense")
    assert (second["T x H x W"], second["P x Q"], second["algorithm"]) == ("1 x 4 x 4", "16 x 4", "dense")
    P, Q, C, D = 1024, 256, 64, 16
    assert first["params"] == 2 * C * D + D + C + 2 * C
    assert first["gmacs"] == pytest.approx((Q * C * D + P * Q * (C + D) + P * C * D) / 1e9)
    assert [module.training for module in model.modules()] == training
    assert next(model.parameters()).device.type == "cpu"
    assert nonlocal_table(model, (x,)) == rows


def test_table_shows_sets_and_what_auto_stands_for():
    """Per clip, however many clips there are."""
    block = NonLocalBlock(64, inner_channels=8, pairwise="dot_product", attend="space")
    (row,) = nonlocal_table(nn.Sequential(block), torch.empty(5, 64, 4, 8, 8, device="meta"))
    assert (row["name"], row["P x Q"], row["algorithm"]) == ("0", "4 x (64 x 16)", "reordered")


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product"])
def test_gmacs_of_the_five_blocks(pairwise):
    """8.13 GMAC for the usual five at 224 pixels and 32 frames, 11.21 where pooling comes after the convolutions."""
    for pool_first, expected in ((True, 8.13), (False, 11.21)):
        total = 0
        for channels, size, count in ((512, (4, 28, 28), 2), (1024, (4, 14, 14), 3)):
            block = NonLocalBlock(channels, pairwise=pairwise, pool_first=pool_first)
            (row,) = nonlocal_table(nn.Sequential(block), torch.empty(1, channels, *size, device="meta"))
            total += count * row["gmacs"]
        assert total == pytest.approx(expected, abs=0.01)


def test_table_of_a_plugins_block(monkeypatch):
    """Found by its registration; what it does not tell is a dash."""

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(4, 4, 1)

        def forward(self, x):
            return x + self.conv(x)

    monkeypatch.setitem(NONLOCAL._objects, "Plain", Plain)  # a registration that ends with this test
    (row,) = nonlocal_table(nn.Sequential(Plain()), torch.zeros(2, 4, 2, 3, 3))
    assert (row["P x Q"], row["algorithm"], row["params"]) == ("-", "-", 20)


def test_format():
    """A reader of the log sees each block, and the sum where there are several."""
    rows = nonlocal_table(nn.Sequential(NonLocalBlock(8), NonLocalBlock(8)), torch.zeros(1, 8, 2, 4, 4))
    text = format_nonlocal_table(rows)
    assert "P x Q" in text and "2 x 4 x 4" in text and "32 x 8" in text and "2 in all" in text
    assert "in all" not in format_nonlocal_table(rows[:1])
    assert format_nonlocal_table([]) == "Non-local blocks: none"
    assert nonlocal_table(nn.Conv3d(3, 3, 1), torch.zeros(1, 3, 1, 1, 1)) == []
