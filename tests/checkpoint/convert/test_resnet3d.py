"""Tushar-N's pytorch-resnet3d: the authors' weights under its names are the authors' network."""

from pathlib import Path

import pytest
import torch

from nlvideo.checkpoint.convert import convert, recognise

# Lines "blob of the authors, name in pytorch-resnet3d": what its converter makes of their I3D with blocks.
TABLE = Path(__file__).parent / "data/resnet3d_names.tsv"
NAMES = dict(line.split("\t") for line in TABLE.read_text().splitlines())


@pytest.mark.parametrize("blocks", [False, True])
def test_the_authors_weights_under_its_names_give_their_logits(authors, peers, blocks):
    blobs = authors.random_blobs(authors.blob_shapes(base=8, classes=7, blocks=blocks))
    assert set(blobs) <= set(NAMES) and (len(blobs) == len(NAMES)) == blocks
    state = {NAMES[blob]: torch.from_numpy(value) for blob, value in blobs.items()}
    assert recognise(state) == "pytorch-resnet3d"
    converted = convert(state)
    assert converted.undecided == {} and len(converted.mapped) == len(state)
    assert converted.overrides["MODEL.NONLOCAL.ENABLED"] is blocks
    clip = torch.randint(0, 256, (2, 3, 16, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        peers.same(peers.logits(converted, clip), authors.logits(blobs, clip, "32x2")[:, :, 0].float())


def test_the_whole_network_and_others(authors, peers):
    shapes = {NAMES[blob]: shape for blob, shape in authors.blob_shapes().items()}
    assert set(convert(peers.zeros(shapes)).weights) == {
        key for key in peers.on_meta(peers.config(convert(peers.zeros(shapes)))) if "num_batches" not in key
    }
    # Names of torchvision with a time axis are those of many networks.
    message = peers.refusal(shapes | {"layer1.0.conv2.weight": (64, 64, 3, 3, 3)})
    assert "temporal kernels in res2.0.conv1, res2.0.conv2" in message and "none of our styles" in message
    assert "cannot express layer1.0.se.weight (3,)" in peers.refusal(shapes | {"layer1.0.se.weight": (3,)})
