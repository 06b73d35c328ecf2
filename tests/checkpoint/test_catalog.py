"""Addresses of weights. Nothing is downloaded: torchvision's address is that of a file on this machine."""

import hashlib
import io
import logging

import pytest
import torch
import torchvision

from nlvideo.checkpoint import Checkpointer, catalog, resolve_weights
from nlvideo.checkpoint.catalog import torchvision_url
from nlvideo.config import load_cfg
from nlvideo.modeling import META_ARCH, inflate_2d_weights
from nlvideo.utils.files.file_io import PathManager

NAME = "i3d_nonlocal_32x2_IN_pretrain_400k"


@pytest.mark.parametrize("name", [NAME, f"{NAME}.pkl"])
def test_a_released_network_has_an_address(name):
    assert resolve_weights(name) == f"https://dl.fbaipublicfiles.com/video-nonlocal/{NAME}.pkl"


def test_a_file_that_is_there_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(b"")
    assert resolve_weights(NAME) == NAME


@pytest.mark.parametrize("name", ["", "output/model.pth", "model.pth", "https://host/a.pkl", "torchvision://resnet50"])
def test_other_values_are_handed_on(name):
    assert resolve_weights(name) == name


def test_near_names_are_listed():
    with pytest.raises(FileNotFoundError, match="no checkpoint i3d_nonlocal_32x2_IN_pretrain; did you mean .*400k'"):
        resolve_weights("i3d_nonlocal_32x2_IN_pretrain")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet50", "resnet50-0676ba61.pth"),
        ("resnet50/IMAGENET1K_V2", "resnet50-11ad3fa6.pth"),
        ("resnet18", "resnet18-f37072fd.pth"),
        ("r2plus1d_18", "r2plus1d_18-91a641e6.pth"),
        ("r2plus1d_18/KINETICS400_V1", "r2plus1d_18-91a641e6.pth"),
        ("swin3d_b/DEFAULT", "swin3d_b_1k-24f7c7c6.pth"),
    ],
)
def test_torchvision_knows_the_address(name, file):
    assert torchvision_url(name) == f"https://download.pytorch.org/models/{file}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "torchvision has no model 'resnet51'. did you mean 'resnet5"),
        ("resnet50/V3", "torchvision has no weights 'V3' of it. There are: IMAGENET1K_V1, IMAGENET1K_V2"),
        (
            "r3d_18/IMAGENET1K_V1",
            "torchvision has no weights 'IMAGENET1K_V1' of it. There are: KINETICS400_V1, DEFAULT",
        ),
        ("", "torchvision has no model ''"),
    ],
)
def test_what_torchvision_does_not_have(name, message):
    with pytest.raises(KeyError) as error:
        torchvision_url(name)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not PathManager.exists(f"torchvision://{name}")


@pytest.fixture(scope="module")
def resnet18():
    """The weights of a ResNet-18, the bytes of their file, and a name with its hash."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None, num_classes=10).state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    return state, file.getvalue(), f"resnet18-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth"


@pytest.fixture()
def served(resnet18, tmp_path, monkeypatch):
    """A ResNet-18 "on the server", its hash in its name; returns the file, the cache and the weights."""
    state, data, name = resnet18
    file = tmp_path / name
    file.write_bytes(data)
    monkeypatch.setattr(catalog, "torchvision_url", lambda name: file.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(catalog, "get_cache_dir", lambda: str(tmp_path / "cache"))
    return file, tmp_path / "torch" / "hub" / "checkpoints" / file.name, state


def test_weights_are_downloaded_once_and_start_an_i3d(served, caplog):
    file, cached, state = served
    cfg = load_cfg(None, ["MODEL.BACKBONE.DEPTH", "18", "MODEL.BACKBONE.TEMPORAL", "i3d_3x1x1"])
    model = META_ARCH.get("VideoClassifier")(cfg)
    checkpointer = Checkpointer(model, "unused", adapt_weights=inflate_2d_weights, cfg=cfg)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        report = checkpointer.load_weights("torchvision://resnet18")
    assert cached.is_file() and not report.missing and len(report.classifier) == 2
    kernel = model.backbone.stem.conv.weight
    torch.testing.assert_close(kernel.sum(2), state["conv1.weight"])
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 4])
    # The authors' pixel statistics will do to start from; the log says that they are not those of the file.
    assert "MODEL.PIXEL_MEAN: file [123.675, 116.28, 103.53], config [114.75" in caplog.text
    file.unlink()
    assert checkpointer.load_weights("torchvision://resnet18").loaded == report.loaded


def test_a_file_in_the_earlier_place_is_taken(served, tmp_path):
    file, cached, _ = served
    earlier = tmp_path / "cache" / "torchvision" / file.name
    earlier.parent.mkdir(parents=True)
    file.rename(earlier)
    assert PathManager.get_local_path("torchvision://resnet18") == str(earlier) and not cached.exists()


def test_a_damaged_download_leaves_nothing(served):
    file, cached, _ = served
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ValueError, match="torchvision://resnet18: .* is damaged: invalid hash value"):
        PathManager.get_local_path("torchvision://resnet18")
    assert not cached.exists()


def test_no_server(served):
    file, _, _ = served
    file.unlink()
    with pytest.raises(
        OSError,
        match=r"torchvision://resnet18: cannot download file:.*; without a network, put that file at .*resnet18-",
    ):
        PathManager.get_local_path("torchvision://resnet18")


def test_a_name_without_a_checksum(served, monkeypatch):
    monkeypatch.setattr(catalog, "torchvision_url", lambda name: "https://host/resnet18.pth")
    with pytest.raises(ValueError, match="does not carry a checksum in its name"):
        PathManager.get_local_path("torchvision://resnet18")
