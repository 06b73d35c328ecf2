"""torchvision's ResNets of images and its video networks become ours; other ResNets are refused with a reason."""

import pytest
import torch
import torchvision

from nlvideo.checkpoint.convert import convert, recognise
from nlvideo.checkpoint.convert.torchvision import video_settings
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH, inflate_2d_weights
from nlvideo.modeling.backbone.torchvision_layout import ARCHITECTURES


def state_of(name, **keywords):
    """State dict of a network of torchvision's that takes no memory."""
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **keywords).state_dict()


def model_of(converted, opts=(), device="cpu"):
    """Our network for converted weights."""
    words = [word for item in converted.overrides.items() for word in item]
    with torch.device(device):
        return META_ARCH.get("VideoClassifier")(load_cfg(None, [*words, *opts]))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "resnet152"])
def test_every_tensor_has_its_place(name):
    state = state_of(name)
    assert recognise(state) == "torchvision"
    converted = convert(state)
    assert [theirs for theirs, _ in converted.mapped] == list(state) and converted.dropped == []
    model = model_of(converted, device="meta")
    inflated = inflate_2d_weights(converted.weights, model)
    assert {k: t.shape for k, t in inflated.items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert converted.overrides["MODEL.BACKBONE.DEPTH"] == int(name.removeprefix("resnet"))
    assert converted.overrides["MODEL.BACKBONE.STRIDE_IN_1X1"] is False
    assert converted.overrides["MODEL.HEAD.NUM_CLASSES"] == 1000
    assert "MODEL.BACKBONE.TEMPORAL" not in converted.overrides and "image network" in converted.notes[0]


@torch.no_grad()
def test_one_frame_scores_like_the_image():
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None, num_classes=5).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    converted = convert(network.state_dict())
    model = model_of(converted).eval()
    model.load_state_dict(inflate_2d_weights(converted.weights, model))
    image = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network((image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert expected.std() > 0.05
    torch.testing.assert_close(model.forward_clips(image[:, :, None]), expected.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet34", r"a ResNet of \[3, 4, 6, 3\] basic blocks, allowed: .*DEPTH \[10, 18, 50, 101, 152\]"),
        ("resnext50_32x4d", r"grouped convolutions \(ResNeXt\) in res2: ours are ungrouped"),
        ("wide_resnet50_2", "res2 has 128 inner and 256 outer channels, allowed: 64 and 256 after a stem of 64"),
    ],
)
def test_networks_that_ours_cannot_express(name, message):
    state = state_of(name)
    assert recognise(state) == "torchvision"
    with pytest.raises(ValueError, match=message) as error:
        convert(state)
    assert "\n" not in str(error.value)


def test_a_detector_around_a_resnet_is_not_a_resnet():
    state = {**state_of("resnet18"), "rpn.conv.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"torchvision: cannot express rpn.conv.weight \(1,\): our ResNets have no"):
        convert(state)


def test_kernels_with_a_time_axis():
    state = state_of("resnet18")
    state["conv1.weight"] = torch.zeros(64, 3, 5, 7, 7)
    with pytest.raises(ValueError, match="the first kernel has a time axis"):
        convert(state, "torchvision")


def test_without_a_classifier():
    state = {name: tensor for name, tensor in state_of("resnet18").items() if not name.startswith("fc.")}
    assert "MODEL.HEAD.NUM_CLASSES" not in convert(state).overrides


def test_other_networks_are_not_recognised():
    with pytest.raises(ValueError, match="weights with the names features.0.weight, .* are of no known source: caffe2"):
        convert(state_of("alexnet"))
    assert recognise(state_of("alexnet")) == ""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_of_a_video_network_has_its_place(name):
    state = state_of(name, num_classes=7)
    assert recognise(state) == "torchvision"
    converted = convert(state)
    assert [theirs for theirs, _ in converted.mapped] == list(state) and converted.dropped == []
    model = model_of(converted, device="meta")
    assert {k: t.shape for k, t in converted.weights.items()} == {k: t.shape for k, t in model.state_dict().items()}
    assert converted.overrides == {**video_settings(name), "MODEL.HEAD.NUM_CLASSES": 7}
    without = {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "head.", "classifier."))}
    assert convert(without).overrides == video_settings(name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_settings_of_a_video_network_are_those_of_its_weights(name):
    settings, (weights, *_) = video_settings(name), torchvision.models.get_model_weights(name)
    transforms, said = weights.transforms(), weights.meta["_docs"]
    assert f"`clip_len={settings['INPUT.NUM_FRAMES']}`" in said
    assert f"`frame_rate={30 / settings['INPUT.FRAME_STRIDE']:g}`" in said
    for key, expected in (("PIXEL_MEAN", transforms.mean), ("PIXEL_STD", transforms.std)):
        assert settings[f"MODEL.{key}"] == pytest.approx([255 * value for value in expected])
    assert [settings["TEST.CROP_SIZE"]] * 2 == [settings["INPUT.CROP_SIZE"]] * 2 == transforms.crop_size
    assert settings["TEST.SHORT_SIDE"] == settings["INPUT.SHORT_SIDE_RANGE"][0] == transforms.resize_size[0]


def test_a_swin_of_another_size_is_not_recognised():
    state = state_of("swin3d_t")
    state["patch_embed.proj.weight"] = torch.zeros(64, 3, 2, 4, 4)
    assert recognise(state) == ""
