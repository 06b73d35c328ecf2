"""Files that torchvision's classes write: from a path and by name to a network of ours, with and without blocks."""

import logging
from pathlib import Path

import pytest
import torch
import torchvision

from nlvideo.checkpoint import Checkpointer, catalog
from nlvideo.checkpoint.conversion import convert_checkpoint, write_conversion
from nlvideo.checkpoint.convert.torchvision import video_settings
from nlvideo.checkpoint.trained import load_trained_model
from nlvideo.config import CfgNode, load_cfg
from nlvideo.modeling import build_model

ARCH = "r3d_18"
BLOCK = ["MODEL.NONLOCAL.ENABLED", True, "MODEL.NONLOCAL.BLOCKS", ["layer3.1"]]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``torch.save(r3d_18().state_dict())`` writes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(torchvision.models.get_model(ARCH, weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def without_classifier(file: Path) -> Path:
    """The same without its classifier."""
    path = file.with_name("backbone.pth")
    torch.save({name: tensor for name, tensor in torch.load(file).items() if not name.startswith("fc.")}, path)
    return path


def _config(*opts: object, arch: str = ARCH) -> CfgNode:
    words = [word for item in video_settings(arch).items() for word in item]
    return load_cfg(None, [*words, "MODEL.DEVICE", "cpu", "MODEL.HEAD.DROPOUT", 0.0, *opts])


def _load(cfg: CfgNode, path: object, caplog: pytest.LogCaptureFixture) -> tuple:
    model = build_model(cfg)
    with caplog.at_level(logging.INFO, logger="nlvideo"):
        report = Checkpointer(model, "unused", cfg=cfg).load_weights(str(path))
    return model, report


def test_a_local_file_scores_as_torchvision_does(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, report = _load(_config(), file, caplog)
    assert report.is_complete and "weights of torchvision: 122 tensors taken over" in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    theirs = torchvision.models.get_model(ARCH, weights=None)
    theirs.load_state_dict(torch.load(file))
    clip = torch.randint(0, 256, (1, 3, 4, 24, 24), dtype=torch.uint8)
    model.eval().head.train()  # logits, not probabilities
    pixels = (clip - model.pixel_mean) / model.pixel_std
    with torch.no_grad():
        torch.testing.assert_close(model.forward_clips(clip), theirs.eval()(pixels), rtol=1e-4, atol=1e-5)


def test_other_classes_leave_the_classifier_out(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, report = _load(_config("MODEL.HEAD.NUM_CLASSES", 5), file, caplog)
    assert set(report.classifier) == {"head.classifier.weight", "head.classifier.bias"} and not report.missing
    assert "classifier of other classes (skipped)" in caplog.text
    assert torch.equal(model.backbone.stem[0].weight, torch.load(file)["stem.0.weight"])


def test_a_file_without_a_classifier(without_classifier: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, report = _load(_config(), without_classifier, caplog)
    assert report.missing == ["head.classifier.weight", "head.classifier.bias"]
    with pytest.raises(ValueError, match="only in the model: head.classifier.weight, head.classifier.bias"):
        load_trained_model(_config(), str(without_classifier))


def test_the_address_finds_the_file_and_its_hash_is_checked(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "r3d_18-b3b3357e.pth"
    served = file.with_name(cached.name)
    served.write_bytes(file.read_bytes())
    address = catalog.torchvision_url
    monkeypatch.setattr(catalog, "torchvision_url", lambda name: address(name) and served.as_uri())
    for name in ("torchvision://r3d_18/KINETICS400_V1", "torchvision://r3d_18/DEFAULT"):
        with pytest.raises(ValueError, match=f"{name}: .* is damaged: invalid hash value"):
            _load(_config(), name, caplog)
    # A file that torchvision has put there is taken.
    cached.parent.mkdir(parents=True, exist_ok=True)
    served.rename(cached)
    assert _load(_config(), "torchvision://r3d_18/KINETICS400_V1", caplog)[1].is_complete


def test_other_pixel_statistics_are_named_in_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    _load(_config("MODEL.PIXEL_STD", [57.375] * 3), file, caplog)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    values = "MODEL.PIXEL_STD: file [58.14765, 56.46975, 55.332195], config [57.375, 57.375, 57.375]"
    assert len(warnings) == 1 and values in warnings[0]


def test_a_baseline_starts_a_network_with_blocks_and_both_go_on_from_ours(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """New blocks are listed as such; names of the wrapper count in neither direction."""
    plain, _ = _load(_config(), file, caplog)
    model, report = _load(_config(*BLOCK), file, caplog)
    assert not report.missing and not report.unexpected and report.new_nonlocal
    assert all(name.startswith("backbone.layer3.1.nonlocal_block.") for name in report.new_nonlocal)
    assert "new non-local blocks (expected)" in caplog.text and "backbone.layer3.1.nonlocal_block" in caplog.text
    assert torch.equal(model.backbone.layer3[1].module.conv1[0].weight, torch.load(file)["layer3.1.conv1.0.weight"])
    ours = Path(Checkpointer(plain, str(tmp_path)).save("plain"))
    assert len(_load(_config(*BLOCK), ours, caplog)[1].loaded) == len(plain.state_dict())
    # The same network, and a resumed run.
    again = Path(Checkpointer(model, str(tmp_path)).save("blocks"))
    other, report = _load(_config(*BLOCK), again, caplog)
    assert report.is_complete
    Checkpointer(other, str(tmp_path)).resume(str(again))
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.BACKBONE.ARCH", "r2plus1d_18"], "MODEL.BACKBONE.ARCH: file 'r3d_18', config 'r2plus1d_18'"),
        (
            ["MODEL.BACKBONE.NAME", "ResNet3d", "MODEL.BACKBONE.ARCH", ""],
            "MODEL.BACKBONE.NAME: file 'TorchvisionVideo', config 'ResNet3d'",
        ),
    ],
)
def test_weights_of_another_network(opts: list, message: str, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=message) as error:
        _load(_config(*opts), file, caplog)
    assert "\n" not in str(error.value)


def test_images_do_not_start_a_video_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(ValueError, match="is of another network than the config's"):
        _load(_config(), path, caplog)


def test_a_file_converts_to_a_checkpoint_and_its_config(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "r3d.pth"
    config = write_conversion(convert_checkpoint(str(file), opts=["MODEL.DEVICE", "cpu"]), str(out))
    cfg = load_cfg(config)
    assert all(cfg.value_at(key) == value for key, value in video_settings(ARCH).items())
    model, names = load_trained_model(cfg, str(out))
    categories = torchvision.models.get_model_weights(ARCH)["DEFAULT"].meta["categories"]
    assert names == categories and torch.equal(model.head.classifier.bias, torch.load(file)["fc.bias"])
    # Straight from torchvision's file as well.
    assert load_trained_model(_config(), str(file))[1] == categories
    with pytest.raises(ValueError, match="are of no known source"):
        ours = Checkpointer(model, str(tmp_path)).save("ours")
        convert_checkpoint(ours)
