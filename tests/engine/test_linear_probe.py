"""A classifier that is fitted to features of a fixed backbone."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo import model_zoo
from nlvideo.config import CfgNode
from nlvideo.data import build_test_loader
from nlvideo.data.video.video_reader import VideoReader
from nlvideo.engine.linear_probe import fit_classifier, linear_probe, video_features
from nlvideo.engine.setup import default_setup
from nlvideo.modeling import PoolLinearHead, build_model
from nlvideo.utils.system.env import seed_everything


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_classifier_is_the_best_one(loss: str) -> None:
    """The gradient of loss and penalty, over standardised features, is zero."""
    torch.manual_seed(0)
    features = 5 + torch.randn(60, 4) * torch.tensor([1.0, 10.0, 0.1, 0.0])
    labels = torch.randint(0, 3, (60,)) if loss == "softmax" else torch.randint(0, 2, (60, 3)).float()
    head = PoolLinearHead(in_channels=4, num_classes=3, loss=loss).train()
    value = fit_classifier(head, features, labels)
    spread = torch.tensor([*features.std(dim=0, correction=0)[:3], 1.0])
    weight = (head.classifier.weight * spread).detach().requires_grad_()
    bias = head.classifier.bias.detach().requires_grad_()
    own = head.losses(features @ (weight / spread).T + bias, labels)["loss_cls"]
    assert own.item() == pytest.approx(value, abs=1e-4)
    (own + weight.square().sum() / 120).backward()
    assert weight.grad.abs().max() < 1e-3 and bias.grad.abs().max() < 1e-3
    assert weight[:, 3].abs().max() == 0


@pytest.mark.parametrize(
    ("average", "head"), [("softmax", "PoolLinearHead"), ("logits", "PoolLinearHead"), ("softmax", "ConsensusHead")]
)
def test_only_the_classifier_changes_and_the_folder_is_a_model(
    tiny_cfg: Callable[..., CfgNode],
    video_lists: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    average: str,
    head: str,
) -> None:
    read: list[str] = []
    monkeypatch.setattr(VideoReader, "close", lambda self: read.append(self.path))
    opts = ["DATASETS.TEST", str([video_lists[0]]), "TEST.AVERAGE", average, "TEST.NUM_CLIPS", "1"]
    opts += ["MODEL.HEAD.NAME", head]
    cfg = default_setup(tiny_cfg(*opts), argparse.Namespace(resume=False))
    results = linear_probe(cfg)
    # Twice: its features once, and the test.
    assert len(read) == 16 and results["classification"]["num_videos"] == 8
    # The videos differ in little but their length.
    assert results["classification"]["top1"] > 25
    trained = model_zoo.get(cfg.OUTPUT_DIR).state_dict()
    seed_everything(cfg.SEED)
    start = build_model(cfg).state_dict()
    changed = {name for name in start if not torch.equal(start[name], trained[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}


def test_a_video_that_cannot_be_read_is_left_out(
    tiny_cfg: Callable[..., CfgNode], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_cfg("DATALOADER.NUM_WORKERS", "0")
    (tmp_path / "bad.mp4").write_bytes(b"")
    lines = Path(cfg.DATASETS.TRAIN[0].removeprefix("list:")).read_text().splitlines()
    (tmp_path / "list.txt").write_text("\n".join([lines[0], f"{tmp_path}/bad.mp4 1"]))
    features, _ = video_features(
        build_model(cfg), cfg.with_overrides(["DATASETS.TRAIN", [f"list:{tmp_path}/list.txt"]])
    )
    assert len(features) == 1 and "bad.mp4" in caplog.text and "it is left out" in caplog.text


def test_features_are_those_of_the_test_views(tiny_cfg: Callable[..., CfgNode]) -> None:
    cfg = tiny_cfg("DATALOADER.NUM_WORKERS", "0")
    model = build_model(cfg)
    features, labels = video_features(model, cfg)
    again, _ = video_features(model, cfg)
    assert torch.equal(features, again) and labels.tolist() == [i % 4 for i in range(8)]
    views = next(iter(build_test_loader(cfg, cfg.DATASETS.TRAIN[0])))[0]["video"]
    assert len(views) == 2
    maps = []
    model.backbone.register_forward_hook(lambda module, inputs, output: maps.append(output["res5"]))
    with torch.no_grad():
        model.eval().forward_clips(views)
    torch.testing.assert_close(features[0], maps[0].mean(dim=(0, 2, 3, 4)))


def test_a_head_without_a_linear_classifier_is_refused(
    tiny_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny_cfg())
    model.head = nn.Identity()
    monkeypatch.setattr("nlvideo.engine.trainer.build_model", lambda cfg: model)
    with pytest.raises(ValueError, match="MODEL.HEAD.NAME: got 'PoolLinearHead', allowed for a linear probe"):
        linear_probe(tiny_cfg())
