"""Rows of the matrix on the frames of a clip."""

import numpy as np
import pytest
import torch
import torchvision

from nlvideo.errors import LookupFailed
from nlvideo.modeling import NonLocalBlock, insert_nonlocal
from nlvideo.modeling.nonlocal_block import NonLocalBase
from nlvideo.modeling.nonlocal_block.block import PAIRWISE
from nlvideo.visualization import attend, chosen_positions, top_keys


@pytest.mark.parametrize("pairwise", PAIRWISE)
@pytest.mark.parametrize("attend_to", ["spacetime", "space", "time"])
def test_rows_are_those_of_the_block(pool_net, clip, pairwise, attend_to):
    network = pool_net(pairwise, attend=attend_to)
    maps = attend(network, clip, None, [(0, 0, 0), (5, 30, 17)])
    x = network.pool(clip[None].float() / 255)
    expected = network.nl.attention(x, [(0, 0, 0), (2, 7, 4)])[0]
    torch.testing.assert_close(maps.weights, expected)
    assert maps.queries.size == (4, 8, 12) and maps.queries.stride == (2, 4, 4)
    pool = 1 if attend_to == "time" else 2
    assert maps.keys.size == (4, 8 // pool, 12 // pool) == maps.weights.shape[1:]
    assert maps.keys.stride == (2, 4 * pool, 4 * pool)
    assert (maps.block, maps.pairwise) == ("nl", pairwise) and maps.positions.tolist() == [[0, 0, 0], [5, 30, 17]]
    assert maps.frames.shape == (8, 32, 48, 3) and np.array_equal(maps.frames[3, 2, 1], clip[:, 3, 2, 1])


@pytest.mark.parametrize("place", [(0, 0, 0), (7, 31, 47), (4, 17, 30)])
def test_a_bright_pixel_is_found_where_it_is(pool_net, place):
    # Gaussian attention on the pixels themselves: what is bright attends to the brightest.
    video = torch.full((3, 8, 32, 48), 40, dtype=torch.uint8)
    video[(slice(None), *place)] = 255
    network = pool_net(scale=False)
    network.nl.theta = torch.nn.Conv3d(3, 3, 1, bias=False)
    torch.nn.init.constant_(network.nl.theta.weight, 10.0)
    maps = attend(network, video, None, [(2, 3, 4)])
    best = top_keys(maps)[0]
    first, end = maps.keys.window(best.cells[0].tolist())
    assert all(a <= p < b for a, p, b in zip(first, place, end))
    assert best.centres[0].tolist() == [(a + b) / 2 for a, b in zip(first, end)]


def test_the_highest_keys_come_first(make_maps):
    weights = torch.zeros(2, 4, 4, 4)
    weights[0, 3, 2, 1], weights[0, 0, 0, 0], weights[0, 1, 1, 1] = 0.5, 0.2, 0.3
    weights[1] = -1.0
    weights[1, 2, 2, 2] = 0.1
    first, second = top_keys(make_maps(weights, [(0, 0, 0), (1, 1, 1)]), k=2, share=1.0)
    assert (first.share, second.share) == (pytest.approx(0.8), 1.0)
    assert first.cells.tolist() == [[3, 2, 1], [1, 1, 1]] and first.weights.tolist() == pytest.approx([0.5, 0.3])
    assert first.centres.tolist() == [[3.5, 10, 6], [1.5, 6, 6]]
    # Zeros and negative weights are no arrows.
    assert second.cells.tolist() == [[2, 2, 2]]
    everything = top_keys(make_maps(weights, [(0, 0, 0), (1, 1, 1)]), share=1.0)
    assert [len(keys.weights) for keys in everything] == [3, 1]
    with pytest.raises(ValueError, match="k: got 0, allowed: 1 or more"):
        top_keys(make_maps(weights, [(0, 0, 0), (1, 1, 1)]), 0)
    for share in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"share: got {share}, allowed: above 0 and up to 1"):
            top_keys(make_maps(weights, [(0, 0, 0), (1, 1, 1)]), share=share)


def test_keys_are_as_few_as_have_most_of_the_weight(make_maps):
    weights = torch.full((4, 4, 4, 4), 1e-6)
    weights[0, 1, 2, 3] = 0.97  # one key has it all
    weights[1, 0, 0, :3] = torch.tensor([0.5, 0.3, 0.15])
    weights[2] = 1 / 64  # they all weigh the same
    weights[3] = -5.0  # negative weights do not count
    weights[3, 0, 0, :2] = torch.tensor([3.0, 1.0])
    one, three, many, dot = top_keys(make_maps(weights, [(0, 0, 0)] * 4))
    assert one.cells.tolist() == [[1, 2, 3]] and one.share > 0.99
    assert len(three.weights) == 3 and three.share == pytest.approx(1, abs=1e-3)
    assert len(many.weights) == 20 and many.share == pytest.approx(20 / 64)
    assert len(dot.weights) == 2 and dot.share == 1


def test_no_key_above_zero(make_maps):
    keys = top_keys(make_maps(-torch.ones(1, 4, 4, 4), [(0, 0, 0)]))[0]
    assert (
        keys.share == 0 and keys.cells.shape == (0, 3) and keys.centres.shape == (0, 3) and keys.weights.shape == (0,)
    )


def change_of_the_decision(network, clip):
    """Exactly, for each position: how far the best class is ahead, less how far it is without the block there."""
    with torch.no_grad():
        x = network.pool(clip[None].float() / 255)
        added = network.nl(x) - x
        scores = network(clip[None].float() / 255)[0]
        best, second = scores.topk(2).indices
        # The mean over positions is all that follows the block.
        return ((added[:, best] - added[:, second]) / added[0, 0].numel())[0].abs()


def test_queries_are_where_the_block_changes_the_decision_most(pool_net, clip):
    network = pool_net()
    added = change_of_the_decision(network, clip)
    positions = chosen_positions(network, clip, None, 3)
    cells = [(t // 2, y // 4, x // 4) for t, y, x in positions]
    assert added[cells[0]] == pytest.approx(added.max())
    assert added[cells[1]] <= added[cells[0]]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert max(abs(a - b) for a, b in zip(cells[one][1:], cells[other][1:])) > 2  # a quarter of 8 cells
    assert all(isinstance(value, int) for position in positions for value in position)
    # All of them: those near a chosen one come last.
    assert sorted(chosen_positions(network, clip, None, 384)) == sorted(
        (2 * t, 4 * h + 2, 4 * w + 2) for t in range(4) for h in range(8) for w in range(12)
    )


def test_a_part_that_the_decision_does_not_look_at_is_no_query(pool_net, clip):
    """The block adds most to the upper half, which the classes are not taken from."""

    class LowerHalf(torch.nn.Module):
        def __init__(self, network, probabilities):
            super().__init__()
            self.network, self.probabilities = network, probabilities

        def forward(self, video):
            scores = 40 * self.network.nl(self.network.pool(video))[..., 4:, :].mean((2, 3, 4))
            return scores.softmax(1) if self.probabilities else scores

    clip[:, :, :16] = 255
    clip[:, :, 16:] //= 8
    found = [chosen_positions(LowerHalf(pool_net(), probabilities), clip, None, 3) for probabilities in (False, True)]
    assert found[0] == found[1] and all(y >= 16 for _, y, _ in found[0])
    # Without scores, what is added is all that is known.
    features = torch.nn.Module()
    features.network = pool_net()
    features.forward = lambda video: {"map": features.network.nl(features.network.pool(video))}
    assert all(y < 16 for _, y, _ in chosen_positions(features, clip, None, 1))


def test_choosing_leaves_the_network_as_it_was(pool_net, clip):
    network = pool_net().train()
    chosen_positions(network, clip, None, 1)
    assert network.training and network.nl.training and torch.is_grad_enabled() and not network.nl._forward_hooks
    assert all(parameter.grad is None for parameter in network.parameters())


def test_queries_of_a_block_that_does_nothing(pool_net, clip):
    with pytest.raises(ValueError, match="block nl adds nothing to its input: it is untrained, or the weights"):
        chosen_positions(pool_net(zero_init=True), clip, None, 1)
    for count in (0, 385):
        with pytest.raises(ValueError, match=f"count: got {count}, allowed: 1 to 384"):
            chosen_positions(pool_net(), clip, None, count)


def test_networks_of_others(clip):
    video = insert_nonlocal(torchvision.models.video.r3d_18(), {"layer1.1": NonLocalBlock(64)})
    seen = []
    maps = attend(video, clip, "layer1.1", [(7, 31, 47)], preprocess=lambda clips: seen.append(clips) or clips / 128.0)
    assert maps.weights.shape == (1, 8, 8, 12) and torch.isclose(maps.weights.sum(), torch.tensor(1.0))
    assert seen[0].shape == (1, 3, 8, 32, 48) and seen[0].dtype == torch.uint8
    images = insert_nonlocal(torchvision.models.resnet18(), {"layer1.1": NonLocalBlock(64, dim=2)})
    maps = attend(images, clip, None, [(6, 31, 47), (2, 0, 0)])
    # A frame attends to itself alone.
    assert maps.weights.shape == (2, 8, 4, 6) and maps.weights.sum((2, 3)).nonzero().tolist() == [[0, 6], [1, 2]]


def test_floats_go_to_the_network_as_they_are(pool_net, clip):
    network = pool_net()
    maps = attend(network, clip.float() / 255, None, [(0, 0, 0)])
    torch.testing.assert_close(maps.weights, attend(network, clip, None, [(0, 0, 0)]).weights)
    assert np.array_equal(maps.frames, attend(network, clip, None, [(0, 0, 0)]).frames)
    assert attend(network, torch.zeros(3, 8, 32, 48), None, [(0, 0, 0)]).frames.max() == 0


def test_grey_video(pool_net):
    network = pool_net()
    network.nl = NonLocalBlock(1, pairwise="dot_product")
    assert attend(network, torch.rand(1, 2, 8, 8), None, [(0, 0, 0)]).frames.shape == (2, 8, 8, 3)


def test_mistakes(pool_net, clip):
    network = pool_net()
    with pytest.raises(ValueError, match="position 0,32,0 is outside the clip"):
        attend(network, clip, None, [(0, 32, 0)])
    with pytest.raises(LookupFailed, match="Allowed: nl$"):
        attend(network, clip, "res3.1", [(0, 0, 0)])
    with pytest.raises(ValueError, match=r"sample_video: got \(8, 32, 48\), allowed: \(C, T, H, W\)"):
        attend(network, clip[0], None, [(0, 0, 0)])


def test_a_block_without_attention(pool_net, clip, monkeypatch):
    monkeypatch.delattr(NonLocalBlock, "attention")
    with pytest.raises(ValueError, match="NonLocalBlock cannot show where a position looks: it has no weight"):
        attend(pool_net(), clip, None, [(0, 0, 0)])
    monkeypatch.delattr(NonLocalBase, "attention")
    with pytest.raises(ValueError, match=r"NonLocalBlock has no attention\(x, positions\)"):
        attend(pool_net(), clip, None, [(0, 0, 0)])
