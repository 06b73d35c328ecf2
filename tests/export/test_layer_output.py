"""What any layer of a model gives."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.export.features import LayerOutput
from nlvideo.modeling import build_model


@pytest.fixture
def model(tiny_cfg: Callable[..., CfgNode]) -> nn.Module:
    """A tiny network with a non-local block."""
    torch.manual_seed(0)
    return build_model(tiny_cfg("MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.BLOCKS", "['res3.1']")).eval()


CLIPS = torch.randint(0, 256, (3, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))


def by_hand(model: nn.Module, *names: str) -> torch.Tensor:
    """The map after some modules of the backbone, one after the other."""
    x = (CLIPS.float() - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        for name in names:
            x = model.backbone.get_submodule(name)(x)
    return x


def test_a_stage_by_its_short_and_its_full_name(model: nn.Module) -> None:
    expected = by_hand(model, "stem", "res2", "pool2", "res3")
    for name in ("res3", "backbone.res3"):
        found = LayerOutput(model, name, "none")(CLIPS)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        pooled = LayerOutput(model, name)(CLIPS)
        torch.testing.assert_close(pooled, expected.mean(dim=(2, 3, 4)), atol=1e-5, rtol=1e-5)
    assert found.shape == (3, 16, 2, 4, 4) and found.dtype == torch.float32 and found.is_contiguous()


def test_layers_inside_a_stage(model: nn.Module) -> None:
    before = by_hand(model, "stem", "res2", "pool2", "res3.0", "res3.1")
    torch.testing.assert_close(LayerOutput(model, "res3.1", "none")(CLIPS), before, atol=1e-5, rtol=1e-5)
    block = by_hand(model, "stem", "res2", "pool2", "res3.0", "res3.1", "res3.nl1.theta")
    torch.testing.assert_close(LayerOutput(model, "res3.nl1.theta", "none")(CLIPS), block, atol=1e-5, rtol=1e-5)


def test_vectors_stay_as_they_are(model: nn.Module) -> None:
    scores = LayerOutput(model, "head")(CLIPS)
    assert scores.shape == (3, 4)
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(3))


def test_nothing_behind_the_layer_runs_and_no_hook_is_left(model: nn.Module) -> None:
    run = []
    model.backbone.res5.register_forward_hook(lambda *_: run.append("res5"))
    LayerOutput(model, "res4")(CLIPS)
    assert run == [] and not model.backbone.res4._forward_hooks
    with torch.no_grad():
        model.forward_clips(CLIPS)
    assert run == ["res5"]


def test_unknown_layers_and_pools(model: nn.Module) -> None:
    with pytest.raises(KeyError, match="layer: no layer 'rse5': did you mean 'res5' or .* The largest are backbone"):
        LayerOutput(model, "rse5")
    with pytest.raises(KeyError, match="no layer 'backbone.res4.7': did you mean 'backbone.res4.[01]'"):
        LayerOutput(model, "backbone.res4.7")
    with pytest.raises(ValueError, match="pool: got 'max', allowed: 'avg', 'none'"):
        LayerOutput(model, "res5", "max")


def test_the_backbone_gives_what_the_head_reads(model: nn.Module) -> None:
    assert torch.equal(LayerOutput(model, "backbone")(CLIPS), LayerOutput(model, "res5")(CLIPS))


def test_channels_of_swin_are_never_taken_for_a_place(
    tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules give (N, T, H, W, C), except a convolution, the backbone, and what is inside a non-local block."""
    names = ["MODEL.BACKBONE.NAME", "TorchvisionVideo", "MODEL.BACKBONE.ARCH", "swin3d_t", "INPUT.CROP_SIZE", "32"]
    blocks = ["MODEL.NONLOCAL.ENABLED", "True", "MODEL.NONLOCAL.BLOCKS", "['features.2.1']"]
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: nn.init.zeros_(tensor))  # much faster
    swin = build_model(tiny_cfg(*names, *blocks)).eval()
    clips = torch.zeros(2, 3, 4, 64, 64, dtype=torch.uint8)
    for layer, shape in {
        "backbone": (768, 2, 2, 2), "norm": (768, 2, 2, 2), "features.0": (96, 2, 16, 16),
        "features.2.1": (192, 2, 8, 8), "features.2.1.nonlocal_block": (192, 2, 8, 8),
        "features.2.1.nonlocal_block.block.theta": (96, 2, 8, 8), "patch_embed.proj": (96, 2, 16, 16),
    }.items():  # fmt: skip
        assert LayerOutput(swin, layer, "none")(clips).shape[1:] == shape, layer
        assert LayerOutput(swin, layer)(clips).shape == (2, shape[0]), layer


def test_layers_without_features(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="layer: head.dropout does not run at test"):
        LayerOutput(model, "head.dropout")(CLIPS)
    with pytest.raises(ValueError, match=r"pool: got 'avg', but head.classifier gives \(3, 1, 4\)"):
        LayerOutput(model, "head.classifier")(CLIPS)
    assert LayerOutput(model, "head.classifier", "none")(CLIPS).shape == (3, 1, 4)
    assert not model.backbone._forward_hooks
