"""Inflation of 2D weights, checked against true 2D networks, in float64 so that rounding cannot blur the comparison."""

import pytest
import torch
import torchvision
from torch import nn

from nlvideo.modeling.backbone import ResNet3d, inflate_2d_weights


def _shake_norms(model: nn.Module) -> None:
    # Fresh statistics are 0 and 1 and last norms are 0: with those a network could be wrong and no test would see it.
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var") or (("bn" in name or "downsample.1" in name) and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)


def _names_of_ours(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for stage in range(1, 5):
            name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
        name = name.replace("downsample.0", "shortcut.conv").replace("downsample.1", "shortcut.bn")
        if name.startswith(("conv1", "bn1")):
            name = "stem." + name.replace("conv1", "conv").replace("bn1", "bn")
        renamed[name] = tensor
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("fc.")}


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    """A ResNet-50 of images with random weights and statistics, without its classifier."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    network.fc = nn.Identity()
    _shake_norms(network)
    return network.double().eval()


def test_c2d_on_one_frame_is_the_image_network(resnet50: nn.Module) -> None:
    model = ResNet3d(depth=50, temporal="c2d", stem="paper").double().eval()
    model.load_state_dict(inflate_2d_weights(_names_of_ours(resnet50.state_dict()), model))
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        features = model(image[:, :, None])["res5"].mean(dim=(2, 3, 4))
        assert torch.allclose(features, resnet50(image), rtol=1e-9, atol=1e-9)


def test_c2d_on_a_still_video_is_the_image_network(resnet50: nn.Module) -> None:
    model = ResNet3d(depth=50, temporal="c2d", stem="paper").double().eval()
    model.load_state_dict(inflate_2d_weights(_names_of_ours(resnet50.state_dict()), model))
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = model(image[:, :, None].expand(-1, -1, 16, -1, -1))["res5"].mean(dim=(3, 4))
        assert features.shape == (1, 2048, 2)
        assert torch.allclose(features, resnet50(image)[..., None].expand(-1, -1, 2), rtol=1e-9, atol=1e-9)


def _narrow_image_network(depth: int, stem: str) -> tuple[ResNet3d, dict[str, torch.Tensor]]:
    """A C2D network, which on one frame is a 2D network, and its weights as a 2D network would store them."""
    torch.manual_seed(0)
    model = ResNet3d(depth=depth, width=0.125, stem=stem, zero_init_residual=False).double().eval()
    _shake_norms(model)
    state = {name: t.squeeze(2) if t.dim() == 5 else t for name, t in model.state_dict().items()}
    assert not any(tensor.dim() == 5 for tensor in state.values())
    return model, state


@pytest.mark.parametrize(("depth", "stem", "frames"), [(50, "paper", 192), (18, "paper", 160), (50, "small", 64)])
@pytest.mark.parametrize("temporal", ["i3d_3x1x1", "i3d_3x3x3"])
def test_i3d_on_a_still_video_is_the_image_network_away_from_the_ends(
    depth: int, stem: str, frames: int, temporal: str
) -> None:
    image_network, state = _narrow_image_network(depth, stem)
    model = ResNet3d(depth=depth, width=0.125, stem=stem, temporal=temporal).double().eval()
    model.load_state_dict(inflate_2d_weights(state, model))
    image = torch.rand(1, 3, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        # Two equal frames: pool1 of the small stem needs them, and C2D mixes them by maxima only.
        expected = image_network(image.expand(-1, -1, 2, -1, -1))["res5"][:, :, 0]
        video = model(image.expand(-1, -1, frames, -1, -1))["res5"]
    assert torch.allclose(video[:, :, video.shape[2] // 2], expected, rtol=1e-9, atol=1e-9)
    # At the very end the padding of time shows: the test would not be worth much otherwise.
    assert not torch.allclose(video[:, :, 0], expected, rtol=1e-3, atol=1e-3)


def test_average_inflation_divides_each_slice_by_their_number() -> None:
    model = ResNet3d(depth=50, width=0.125, temporal="i3d_3x1x1")
    kernels = {"stem.conv.weight": torch.randn(8, 3, 7, 7), "res2.0.conv1.weight": torch.randn(8, 8, 1, 1)}
    inflated = inflate_2d_weights(kernels, model)
    assert inflated["stem.conv.weight"].shape == (8, 3, 5, 7, 7)
    for frame in range(5):
        assert torch.equal(inflated["stem.conv.weight"][:, :, frame], kernels["stem.conv.weight"] / 5)
    assert torch.equal(inflated["res2.0.conv1.weight"][:, :, 1], kernels["res2.0.conv1.weight"] / 3)


def test_centred_inflation_keeps_the_kernel_in_the_middle() -> None:
    model = ResNet3d(depth=50, width=0.125, temporal="i3d_3x1x1")
    kernel = torch.randn(8, 3, 7, 7)
    inflated = inflate_2d_weights({"stem.conv.weight": kernel}, model, how="center")["stem.conv.weight"]
    assert torch.equal(inflated[:, :, 2], kernel)
    assert inflated.abs().sum() == pytest.approx(kernel.abs().sum())


def test_kernels_of_one_frame_are_only_reshaped() -> None:
    model = ResNet3d(depth=50, width=0.125, temporal="c2d")
    kernel = torch.randn(8, 8, 3, 3)
    for how in ("average", "center"):
        inflated = inflate_2d_weights({"res2.0.conv2.weight": kernel}, model, how=how)
        assert torch.equal(inflated["res2.0.conv2.weight"], kernel[:, :, None])


def test_everything_else_is_handed_on_unchanged() -> None:
    model = ResNet3d(depth=50, width=0.125)
    state = {"stem.bn.weight": torch.rand(8), "fc.weight": torch.rand(4, 4, 1, 1), "res2.0.conv2.weight": torch.rand(1)}
    inflated = inflate_2d_weights(state, model)
    assert all(inflated[name] is tensor for name, tensor in state.items()) and len(inflated) == 3


def test_3d_weights_pass_through() -> None:
    model = ResNet3d(depth=18, width=0.125, temporal="i3d_3x1x1")
    state = model.state_dict()
    inflated = inflate_2d_weights(state, model)
    assert all(inflated[name] is state[name] for name in state)


def test_a_kernel_of_another_size_is_named() -> None:
    model = ResNet3d(depth=50, width=0.125)
    message = r"stem.conv.weight: a 2D kernel \(8, 3, 3, 3\) does not inflate to \(8, 3, 1, 7, 7\)"
    with pytest.raises(ValueError, match=message):
        inflate_2d_weights({"stem.conv.weight": torch.randn(8, 3, 3, 3)}, model)


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ValueError, match="how: got 'copy', allowed: 'average', 'center'"):
        inflate_2d_weights({}, nn.Identity(), how="copy")
