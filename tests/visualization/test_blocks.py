"""Finding blocks and measuring where their maps lie."""

import pytest
import torch
import torchvision
from torch import nn

from nlvideo.config import load_cfg
from nlvideo.errors import LookupFailed
from nlvideo.evaluation.inference import eval_mode
from nlvideo.modeling import NonLocalBlock, build_model, insert_nonlocal
from nlvideo.modeling.backbone.layout import STEMS
from nlvideo.modeling.backbone.resnet3d import ResNet3d
from nlvideo.visualization.blocks import block_input, find_block, query_grid, short_name


def grid_of(model, video, name=None):
    """Grid and input of a block."""
    _, block = find_block(model, name)
    x = block_input(model, block, video, None)
    return query_grid(model, block, video, x, None), x


def test_short_names():
    names = {"backbone.res3.nl1": "res3.1", "layer3.4.nonlocal_block": "layer3.4", "nl3": "nl3",
             "a.attention": "a.attention", "nl": "nl", "encoder.nlp": "encoder.nlp"}  # fmt: skip
    assert {name: short_name(name) for name in names} == names


def test_blocks_are_found_by_short_and_by_full_name():
    cfg = load_cfg(None, ["MODEL.BACKBONE.DEPTH", "18", "MODEL.NONLOCAL.ENABLED", "True", "MODEL.DEVICE", "cpu",
                          "MODEL.BACKBONE.WIDTH", "0.125",
                          "MODEL.NONLOCAL.BLOCKS", "['res3.1', 'res4.0']"])  # fmt: skip
    model = build_model(cfg)
    assert find_block(model)[0] == "res3.1"
    assert find_block(model, "res4.0") == ("res4.0", model.backbone.res4.nl0)
    assert find_block(model, "backbone.res4.nl0")[1] is model.backbone.res4.nl0
    with pytest.raises(LookupFailed, match=r"no non-local block 'res5.0' in the network. Allowed: res3.1, res4.0$"):
        find_block(model, "res5.0")


def test_a_network_without_blocks():
    with pytest.raises(ValueError, match="Sequential has no non-local block: there is no attention to show"):
        find_block(nn.Sequential(nn.Conv3d(3, 3, 1)))


@pytest.mark.parametrize("stem", STEMS)
def test_strides_are_those_of_the_network(stem):
    places = {"res2": [0], "res3": [0], "res4": [0]}
    network = ResNet3d(depth=10, width=0.125, stem=stem, nonlocal_places=places, out_features=tuple(places))
    # Sizes that no stride divides.
    video = torch.rand(3, 19, 75, 101)
    for stage, shape in network.output_shape().items():
        grid, x = grid_of(network, video, f"{stage}.0")
        assert grid.size == tuple(x.shape[2:]) and grid.clip == (19, 75, 101)
        assert grid.stride == (shape.temporal_stride, shape.stride, shape.stride)


def test_a_network_for_one_size_gets_the_quotient():
    network = nn.Sequential(nn.AdaptiveAvgPool3d((2, 4, 4)), NonLocalBlock(3))
    assert grid_of(network, torch.rand(3, 8, 16, 40))[0].stride == (4.0, 4.0, 10.0)

    class Picky(nn.Module):
        """Takes no other size."""

        def forward(self, x):
            assert x.shape[2:] == (8, 16, 40)
            return x[:, :, ::2, ::4, ::4]

    assert grid_of(nn.Sequential(Picky(), NonLocalBlock(3)), torch.rand(3, 8, 16, 40))[0].stride == (2.0, 4.0, 4.0)


def test_networks_of_others():
    video = torch.rand(3, 8, 32, 48)
    network = insert_nonlocal(torchvision.models.video.r3d_18(), {"layer2.1": NonLocalBlock(128)}).train()
    grid, x = grid_of(network, video)
    assert (grid.size, grid.stride) == ((4, 8, 12), (2.0, 4.0, 4.0)) and x.shape == (1, 128, 4, 8, 12)
    assert network.training and network.layer1[0].conv1[1].training
    # The frames are a batch for a network of images.
    network = insert_nonlocal(torchvision.models.resnet18(), {"layer2.1": NonLocalBlock(128, dim=2)}).eval()
    grid, x = grid_of(network, video)
    assert (grid.size, grid.stride) == ((8, 4, 6), (1.0, 8.0, 8.0)) and x.shape == (8, 128, 4, 6)


def test_statistics_and_modes_stay():
    network = nn.Sequential(nn.BatchNorm3d(3), nn.Sequential(nn.Dropout(), NonLocalBlock(3)))
    network[1].eval()
    before = [module.training for module in network.modules()]
    grid_of(network, torch.rand(3, 4, 8, 8) + 5)
    assert [module.training for module in network.modules()] == before
    assert network[0].running_mean.abs().max() == 0
    with pytest.raises(RuntimeError), eval_mode(network):
        raise RuntimeError
    assert [module.training for module in network.modules()] == before


def test_nothing_behind_the_block_runs():
    class Never(nn.Module):
        """Fails when it runs."""

        def forward(self, x):
            raise AssertionError

    assert grid_of(nn.Sequential(NonLocalBlock(3), Never()), torch.rand(3, 2, 4, 4))[1].shape == (1, 3, 2, 4, 4)


def test_blocks_that_cannot_be_shown():
    with pytest.raises(ValueError, match="looks at sequences"):
        grid_of(nn.Sequential(NonLocalBlock(3, dim=1)), torch.rand(3, 2, 4, 4))
    network = nn.Sequential(nn.Identity())
    network.spare = NonLocalBlock(3)
    network.forward = lambda x: x
    with pytest.raises(ValueError, match="does not run"):
        grid_of(network, torch.rand(3, 2, 4, 4))
