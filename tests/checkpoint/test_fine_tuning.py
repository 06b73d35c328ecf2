"""The paths from one network's weights to another's that the configs use, with their own networks made narrow."""

import logging

import pytest
import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer
from nlvideo.checkpoint.weights import LoadReport
from nlvideo.config import load_cfg, reduced
from nlvideo.modeling import build_model
from nlvideo.modeling.backbone import inflate_2d_weights


def narrow(name: str, *opts: str) -> nn.Module:
    """The network of a config at a reduced width, in eval mode; its scores are per clip."""
    # By path: the checkpoints' layer knows nothing of names of configs.
    return build_model(reduced(load_cfg(f"configs/{name}.yaml"), opts)).eval()


def trained(name: str, *opts: str) -> nn.Module:
    """Such a network with weights as after training: no norm of it is at its start, no block is the identity."""
    torch.manual_seed(0)
    model = narrow(name, *opts)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            with torch.no_grad():
                module.weight.uniform_(0.4, 0.8)
                module.bias.normal_(std=0.1)
    nn.init.normal_(model.head.classifier.weight)
    return model


def load(model: nn.Module, source: nn.Module, folder: str) -> LoadReport:
    """Save one network as a run does, and start the other from it as MODEL.WEIGHTS does."""
    path = Checkpointer(source, str(folder)).save("model_final")
    return Checkpointer(model, str(folder), adapt_weights=inflate_2d_weights).load_weights(path)


def clip(num_frames: int) -> torch.Tensor:
    """A random clip, uint8 (1, 3, T, 48, 48)."""
    return torch.randint(0, 256, (1, 3, num_frames, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(1))


@torch.no_grad()
def scores(model: nn.Module, video: torch.Tensor) -> torch.Tensor:
    """(1, K) probabilities."""
    return model.forward_clips(video)


@pytest.fixture(autouse=True)
def at_the_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs are found from the root of the repository."""
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize(
    "baseline, network, num_frames, num_tensors",
    [
        # theta, phi, g, out: weight and bias; the norm: weight, bias, mean, variance and the count of batches.
        ("kinetics/c2d_r50_32x2", "kinetics/c2d_r50_32x2_nl5", 16, 5 * (8 + 5)),
        ("kinetics/i3d_r50_32x2", "kinetics/i3d_r50_32x2_nl5", 16, 5 * (8 + 5)),
        # The release's long clips: trained norms become frozen ones, and blocks have none.
        ("kinetics/authors/i3d_r50_8x8", "kinetics/authors/i3d_r50_32x4_nl5", 8, 5 * 8),
        ("kinetics/authors/i3d_r50_32x2", "kinetics/authors/i3d_r50_128x1_nl5", 32, 5 * 8),
    ],
)
def test_a_baseline_into_a_network_with_blocks_changes_no_score(
    tmp_path, baseline: str, network: str, num_frames: int, num_tensors: int
) -> None:
    # Of as many frames, so that both heads average over the same window.
    source, model = trained(baseline, "INPUT.NUM_FRAMES", str(num_frames)), narrow(network)
    report = load(model, source, tmp_path)
    assert report.missing == report.unexpected == [] and not report.classifier and not report.mismatched
    assert len(report.new_nonlocal) == num_tensors
    assert len(report.loaded) == report.num_model_tensors - num_tensors
    video = clip(num_frames)
    # A new block is the identity, and a frozen norm is the trained one in eval mode.
    torch.testing.assert_close(scores(model, video), scores(source, video))


@pytest.mark.parametrize("network", ["c2d_r50_128x1", "i3d_r50_128x1", "i3d_r50_128x1_nl5"])
def test_a_32_frame_network_into_its_128_frame_one_is_complete(tmp_path, network: str) -> None:
    source, model = trained(f"kinetics/{network.replace('128x1', '32x2')}"), narrow(f"kinetics/{network}")
    report = load(model, source, tmp_path)
    assert report.is_complete
    # With frozen norms the network computes in training what the source computed in eval mode, but for dropout.
    video = clip(16)
    torch.testing.assert_close(scores(model, video), scores(source, video))
    assert not torch.allclose(scores(model, clip(32)), scores(model, video))


GROUPED = ["MODEL.NONLOCAL.TEMPORAL_GROUPS", "4", "MODEL.NONLOCAL.TEMPORAL_GROUP_STAGES", "['res3']",
           "INPUT.NUM_FRAMES", "32"]  # fmt: skip


def test_a_32_frame_network_into_a_128_frame_one_with_groups_in_res3(tmp_path) -> None:
    source = trained("kinetics/c2d_r50_32x2_nl5")
    options = ["MODEL.NORM", "FrozenBN", "INPUT.NUM_FRAMES", "32"]
    full = narrow("kinetics/c2d_r50_32x2_nl5", *options)
    grouped = narrow("kinetics/c2d_r50_32x2_nl5", *options, *GROUPED)
    assert load(full, source, tmp_path).is_complete and load(grouped, source, tmp_path).is_complete
    # In a still video every group of frames sees what all of them see; in any other they differ.
    still = clip(1).expand(-1, -1, 32, -1, -1)
    torch.testing.assert_close(scores(grouped, still), scores(full, still))
    assert not torch.allclose(scores(grouped, clip(32)), scores(full, clip(32)), atol=1e-6)
    assert [grouped.get_submodule(f"backbone.{name}").temporal_groups for name in ("res3.nl1", "res4.nl1")] == [4, 1]


def test_a_head_of_other_classes_is_replaced_and_said(tmp_path, caplog) -> None:
    source = trained("kinetics/i3d_r101_128x1_nl5")
    model = narrow("charades/i3d_r101_128x1_nl5", "MODEL.HEAD.NUM_CLASSES", "11")
    before = model.head.classifier.weight.detach().clone()
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        report = load(model, source, tmp_path)
    assert {name: shapes[0][0] for name, shapes in report.classifier.items()} == {
        "head.classifier.weight": 8, "head.classifier.bias": 8,
    }  # fmt: skip
    assert report.missing == report.unexpected == report.new_nonlocal == []
    assert torch.equal(model.head.classifier.weight, before)
    assert "classifier of other classes (skipped)" in caplog.text and "model (11, 256)" in caplog.text


def test_converted_weights_of_other_classes_start_a_training_without_their_head(tmp_path, caplog) -> None:
    source, path = trained("quickstart/c2d"), tmp_path / "converted.pth"
    origin = {"overrides": {"MODEL.HEAD.NUM_CLASSES": 8, "MODEL.BACKBONE.TEMPORAL": "c2d"}, "tolerated": {}}
    torch.save({"model": source.state_dict(), "converted_from": origin}, path)
    model = narrow("quickstart/c2d", "MODEL.HEAD.NUM_CLASSES", "3")
    cfg = load_cfg("configs/quickstart/c2d.yaml", ["MODEL.HEAD.NUM_CLASSES", "3"])
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        report = Checkpointer(model, str(tmp_path), cfg=cfg).load_weights(str(path))
    assert list(report.classifier) == ["head.classifier.weight", "head.classifier.bias"] and not report.missing
    assert "classifier of other classes (skipped)" in caplog.text and "file (8," in caplog.text


def test_a_head_of_as_many_classes_is_kept_and_a_file_without_one_starts_anew(tmp_path, caplog) -> None:
    source, model = trained("quickstart/c2d"), narrow("quickstart/c2d_nl")
    before = model.head.classifier.weight.detach().clone()
    path = tmp_path / "headless.pth"
    torch.save({name: value for name, value in source.state_dict().items() if not name.startswith("head.")}, path)
    with caplog.at_level(logging.WARNING, logger="nlvideo"):
        report = Checkpointer(model, str(tmp_path)).load_weights(str(path))
    assert report.missing == ["head.classifier.weight", "head.classifier.bias"] and "missing in the file" in caplog.text
    assert torch.equal(model.head.classifier.weight, before)
    assert not load(model, source, tmp_path).missing
    assert torch.equal(model.head.classifier.weight, source.head.classifier.weight)


def test_blocks_with_a_norm_into_blocks_without_are_not_taken_for_complete(tmp_path) -> None:
    """Their output convolution was trained with a norm after it: the report names what is left over."""
    source = trained("kinetics/authors/i3d_r50_8x8_nl5")
    report = load(narrow("kinetics/authors/i3d_r50_32x4_nl5"), source, tmp_path)
    assert not report.is_complete
    assert "backbone.res4.nl5.bn.weight" in report.unexpected and report.new_nonlocal == []
