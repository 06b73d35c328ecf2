"""Variants against other packages' blocks with the same weights."""

import pytest
import torch
from torch import nn

from nlvideo.modeling import NONLOCAL

CHANNELS = 8


@pytest.mark.parametrize("pooling, options", [("att", ["add"]), ("att", ["multiply", "add"]), ("avg", ["multiply"])])
def test_global_context_equals_mmcv(pooling, options):
    """The same weights; theirs are for images."""
    bricks = pytest.importorskip("mmcv.cnn.bricks.context_block", reason="mmcv is not installed")
    names = {"add": "channel_add", "multiply": "channel_mul"}
    theirs = bricks.ContextBlock(CHANNELS, 1 / 4, pooling, [names[name] for name in options])
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    pooling = {"att": "attention", "avg": "average"}[pooling]
    ours = NONLOCAL.get("GlobalContext")(CHANNELS, dim=2, ratio=4, fusion=options, pooling=pooling)
    state = {name.replace("conv_mask", "mask"): value for name, value in theirs.state_dict().items()}
    for name, theirs_name in names.items():
        state = {key.replace(f"{theirs_name}_conv", f"transforms.{name}"): value for key, value in state.items()}
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    ours.load_state_dict({key: value.view(shapes[key]) for key, value in state.items()})
    x = torch.randn(2, CHANNELS, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fusion", [["add"], ["multiply"]])
def test_global_context_equals_timm(fusion):
    """The same weights; theirs has another eps."""
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    add = fusion == ["add"]
    theirs = layers.GlobalContext(CHANNELS, fuse_add=add, fuse_scale=not add, rd_ratio=1 / 2, rd_divisor=1)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    mlp = theirs.mlp_add if add else theirs.mlp_scale
    mlp.norm.eps = 1e-5
    ours = NONLOCAL.get("GlobalContext")(CHANNELS, dim=2, ratio=2, fusion=fusion)
    ours.mask.load_state_dict(theirs.conv_attn.state_dict())
    reduce, norm, _, expand = ours.transforms[fusion[0]]
    for our, their in ((reduce, mlp.fc1), (norm, mlp.norm), (expand, mlp.fc2)):
        our.load_state_dict({key: value.view(getattr(our, key).shape) for key, value in their.state_dict().items()})
    x = torch.randn(2, CHANNELS, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block_size, size", [(3, (6, 9)), (2, (2, 4))])
def test_bilinear_attention_equals_timm(block_size, size):
    """The same weights; theirs is for images whose sides are multiples of the block."""
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    theirs = layers.BatNonLocalAttn(CHANNELS, block_size=block_size, groups=2, rd_channels=4, drop_rate=0.5).eval()
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.1, 1)
    options = {"ratio": 2, "groups": 2, "size": block_size, "normalisation": "sigmoid", "dropout": 0.5}
    ours = NONLOCAL.get("BilinearAttentionTransform")(CHANNELS, dim=2, **options).eval()
    names = {"reduce": "conv1", "gather": "ba.conv1", "mix": "ba.conv2"}
    names = {f"{our}.{n}": f"{name}.{part}" for our, name in names.items() for n, part in enumerate(("conv", "bn"))}
    names |= {"out": "conv2.conv", "bn": "conv2.bn", "rows": "ba.conv_p", "columns": "ba.conv_q"}
    for our, name in names.items():
        module, state = ours.get_submodule(our), theirs.get_submodule(name).state_dict()
        # A convolution before a norm has no bias in theirs.
        bias = {"bias": torch.zeros(module.bias.shape)} if isinstance(module.bias, nn.Parameter) else {}
        state = {**bias, **state}
        module.load_state_dict({key: value.reshape(getattr(module, key).shape) for key, value in state.items()})
    x = torch.randn(2, CHANNELS, *size)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("terms", ["1000", "1010", "0010", "1101"])
def test_heads_and_positions_equal_generalized_attention_of_mmcv(terms):
    """The terms of its logits that `NonLocalBlock` has: pairs, keys alone as the bias of queries, and offsets.

    A bias of the offsets is zero here. Without that term theirs mixes up the axes of the queries.
    """
    bricks = pytest.importorskip("mmcv.cnn.bricks.generalized_attention", reason="mmcv is not installed")
    theirs = bricks.GeneralizedAttention(CHANNELS, num_heads=2, kv_stride=1, attention_type=terms).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    H, W = 5, 4
    pairs, offsets, keys, _ = (term == "1" for term in terms)
    options = {"num_heads": 2, "subsample": False, "scale": False, "norm": "none", "relative_position": 4 * offsets}
    ours = NONLOCAL.get("NonLocalBlock")(CHANNELS, CHANNELS, dim=2, **options)
    state = {"g": theirs.value_conv, "out": theirs.proj_conv, "phi": theirs.key_conv}
    with torch.no_grad():
        for name, conv in {**state, **({"theta": theirs.query_conv} if pairs else {})}.items():
            getattr(ours, name).weight.copy_(conv.weight)
        ours.out.weight *= theirs.gamma
        ours.out.bias.copy_(theirs.proj_conv.bias * theirs.gamma)
        if keys:
            ours.theta.bias.copy_(theirs.appr_bias)
        if not pairs:
            nn.init.zeros_(ours.theta.weight)
        if offsets:
            nn.init.zeros_(theirs.geom_bias)
            by_axis = theirs.get_position_embedding(H, W, H, W, 1, 1, "cpu", torch.float32, CHANNELS)
            layers = (theirs.appr_geom_fc_y, theirs.appr_geom_fc_x)
            for axis, (layer, encoded) in enumerate(zip(layers, reversed(by_axis))):
                for o in range(1 - len(encoded), len(encoded)):  # of the key from the query
                    ours.relative[axis, 4 + o] = layer(encoded[max(0, -o), max(0, o)]) / 2**0.5
    x = torch.randn(2, CHANNELS, H, W)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
