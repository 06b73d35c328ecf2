"""MSRA's ResNets of images: stride in the first 1x1, blue first, no deviation, affine layers or norms."""

import pytest
import torch
import torch.nn.functional as F

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH, inflate_2d_weights

# Blue, green, red.
MEAN = torch.tensor([102.9801, 115.9465, 122.7717], dtype=torch.float64).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def blobs(authors):
    """A narrow R-50.pkl: 2D kernels, scale and bias only, a bias of the first convolution, 1000 classes."""
    shapes = authors.blob_shapes(i3d=False, blocks=False, base=8, classes=10, affine=True)
    shapes = {name: shape[:2] + shape[3:] if len(shape) == 5 else shape for name, shape in shapes.items()}
    content = {name: torch.from_numpy(array) for name, array in authors.random_blobs(shapes).items()}
    content["conv1_w"] /= 50  # the pixels are not divided by anything
    content["fc1000_w"], content["fc1000_b"] = content.pop("pred_w"), content.pop("pred_b")
    return content | {"conv1_b": torch.randn(8)}


def layer(b, name, x, stride=1, padding=0):
    """Convolution, scale and shift."""
    y = F.conv2d(x, b[f"{name}_w"], b.get(f"{name}_b"), stride, padding)
    norm = "res_conv1" if name == "conv1" else name
    return y * b[f"{norm}_bn_s"].view(1, -1, 1, 1) + b[f"{norm}_bn_b"].view(1, -1, 1, 1)


def network(blobs, image):
    """MSRA's ResNet, said again in float64: RGB image (N, 3, H, W) of 0..255 -> logits."""
    b = {name: tensor.double() for name, tensor in blobs.items()}
    x = image.double()[:, [2, 1, 0]] - MEAN
    x = F.max_pool2d(F.relu(layer(b, "conv1", x, 2, 3)), 3, 2, 1)
    for stage, count in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        for index in range(count):
            name, stride = f"res{stage}_{index}", 2 if stage > 2 and index == 0 else 1
            branch = F.relu(layer(b, f"{name}_branch2a", x, stride))
            branch = F.relu(layer(b, f"{name}_branch2b", branch, 1, 1))
            shortcut = layer(b, f"{name}_branch1", x, stride) if index == 0 else x
            x = F.relu(layer(b, f"{name}_branch2c", branch) + shortcut)
    return F.linear(x.mean((2, 3)), b["fc1000_w"], b["fc1000_b"])


def our_logits(converted, image):
    """Of our C2D on one frame, which is the image network, in float64."""
    words = [word for item in converted.overrides.items() for word in item]
    model = META_ARCH.get("VideoClassifier")(load_cfg(None, words)).double().eval()
    model.load_state_dict(inflate_2d_weights(converted.weights, model), strict=False)
    x = (image.double()[:, :, None] - model.pixel_mean) / model.pixel_std
    return model.head.classifier(model.backbone(x)["res5"].mean((2, 3, 4)))


@torch.no_grad()
def test_one_frame_scores_like_the_image(blobs):
    assert recognise(blobs) == "detectron"
    converted = convert(blobs)
    assert converted.overrides["MODEL.BACKBONE.STRIDE_IN_1X1"] is True
    assert converted.overrides["MODEL.NORM"] == "FrozenBN" and converted.overrides["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = network(blobs, image)
    assert expected.std() > 0.05
    torch.testing.assert_close(our_logits(converted, image), expected, rtol=1e-4, atol=1e-4)
    # Each trap by itself gives other numbers.
    for trap in ({"MODEL.BACKBONE.STRIDE_IN_1X1": False}, {"MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]}):
        wrong = convert(blobs)
        wrong.overrides |= trap
        assert not torch.allclose(our_logits(wrong, image), expected, atol=1e-3)


@torch.no_grad()
def test_copies_under_the_names_of_torchvision(blobs):
    """As OpenMMLab keeps them; they look like torchvision's own and need to be named."""
    stages = {f"res{number + 1}": f"layer{number}" for number in range(1, 5)}
    copy = {}
    for name, tensor in convert(blobs).weights.items():
        name = name.replace("backbone.stem.conv", "conv1").replace("backbone.stem.bn", "bn1")
        name = name.replace("backbone.", "").replace("head.classifier", "fc")
        name = name.replace("shortcut.conv", "downsample.0").replace("shortcut.bn", "downsample.1")
        copy[stages.get(name.split(".")[0], name.split(".")[0]) + name[len(name.split(".")[0]) :]] = tensor
    copy["conv1.weight"] = blobs["conv1_w"]
    assert recognise(copy) == "torchvision"
    converted = convert(copy, "detectron")
    assert converted.overrides["MODEL.NORM"] == "BN"
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(our_logits(converted, image), network(blobs, image), rtol=1e-4, atol=1e-4)


def test_what_belongs_to_a_detector_is_dropped(blobs):
    more = {"conv_rpn_w": torch.zeros(2, 2, 3, 3), "bbox_pred_b": torch.zeros(4)}
    converted = convert({**blobs, **more, "res2_0_branch2a_w_momentum": blobs["conv1_w"]})
    assert converted.dropped == [
        ("conv_rpn_w", "no part of a classifier of images"),
        ("bbox_pred_b", "no part of a classifier of images"),
        ("res2_0_branch2a_w_momentum", "momentum of the optimizer"),
    ]


def test_video_kernels_are_not_detectrons(authors):
    content = {name: torch.zeros(1).expand(shape) for name, shape in authors.blob_shapes(base=8).items()}
    with pytest.raises(ValueError, match="Detectron's networks are of images, but the first kernel has a time axis"):
        convert(content, "detectron")
