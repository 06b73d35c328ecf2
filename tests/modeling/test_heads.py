"""The pooling head: training logits, fully convolutional scores, losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlvideo.config import get_cfg
from nlvideo.layers import ShapeSpec
from nlvideo.modeling.head import HEAD, PoolLinearHead, build_head


def _head(**keywords: object) -> PoolLinearHead:
    torch.manual_seed(0)
    return PoolLinearHead(**{"in_channels": 6, "num_classes": 5, "init_std": 1.0, **keywords})


def test_training_gives_logits_of_the_global_average() -> None:
    head = _head(dropout=0.0).train()
    x = torch.randn(2, 6, 2, 3, 4)
    assert torch.allclose(head(x), head.classifier(x.mean(dim=(2, 3, 4))))


def test_dropout_acts_in_training_only() -> None:
    head = _head(dropout=0.5)
    x = torch.randn(2, 6, 2, 3, 4)
    assert not torch.equal(head.train()(x), head.train()(x))
    assert torch.equal(head.eval()(x), head.eval()(x))


@pytest.mark.parametrize(("loss", "activation"), [("softmax", lambda x: x.softmax(dim=1)), ("sigmoid", torch.sigmoid)])
@pytest.mark.parametrize("window", [None, (2, 3, 3), (4, 7, 7)])
def test_where_the_map_is_the_window_the_scores_are_those_of_global_pooling(loss: str, activation, window) -> None:
    head = _head(loss=loss, window=window).eval()
    x = torch.randn(2, 6, 2, 3, 3)  # the window of 4x7x7 is clipped to it
    assert torch.allclose(head(x), activation(head.classifier(x.mean(dim=(2, 3, 4)))), atol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_larger_map_averages_the_probabilities_of_its_windows(loss: str) -> None:
    head = _head(loss=loss, window=(2, 7, 7)).eval()
    x = torch.randn(1, 6, 2, 8, 8)
    probabilities = []
    for row in range(2):
        for column in range(2):
            logits = head.classifier(x[..., row : row + 7, column : column + 7].mean(dim=(2, 3, 4)))
            probabilities.append(logits.softmax(dim=1) if loss == "softmax" else logits.sigmoid())
    expected = torch.stack(probabilities).mean(dim=0)
    assert torch.allclose(head(x), expected, atol=1e-6)
    # Neither one softmax of a mean logit nor one global average.
    assert not torch.allclose(head(x), torch.softmax(head.classifier(x.mean(dim=(2, 3, 4))), dim=1), atol=1e-4)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_scores_are_the_mean_of_the_activated_logits_of_all_positions(loss: str) -> None:
    head = _head(loss=loss, window=(2, 7, 7)).eval()
    x = torch.randn(3, 6, 3, 8, 9)
    logits = head.logits(x)
    assert logits.shape == (3, 2 * 2 * 3, 5) and logits.dtype == torch.float32
    corner = head.classifier(x[:, :, 1:, 1:, 2:].mean(dim=(2, 3, 4)))
    assert torch.allclose(logits[:, -1], corner, atol=1e-6)
    assert torch.allclose(head(x), head.activate(logits).mean(dim=1))


def test_windows_slide_over_time_too() -> None:
    head = _head(window=(2, 3, 3)).eval()
    x = torch.randn(1, 6, 4, 3, 3)
    expected = torch.stack([head(x[:, :, start : start + 2]) for start in range(3)]).mean(dim=0)
    assert torch.allclose(head(x), expected, atol=1e-6)


def test_softmax_scores_sum_to_one() -> None:
    scores = _head(window=(1, 2, 2)).eval()(torch.randn(3, 6, 2, 5, 5))
    assert torch.allclose(scores.sum(dim=1), torch.ones(3))
    assert scores.dtype == torch.float32


def test_the_classifier_starts_small_and_unbiased() -> None:
    head = PoolLinearHead(in_channels=1000, num_classes=100)
    assert head.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.classifier.bias.abs().max() == 0
    assert sorted(head.state_dict()) == ["classifier.bias", "classifier.weight"]


def test_losses() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2])
    softmax = _head().losses(logits, labels)
    assert softmax["loss_cls"].item() == pytest.approx(-logits.log_softmax(1)[range(4), labels].mean().item())
    multi_hot = F.one_hot(labels, 5).float()
    multi_hot[0, 1] = 1
    sigmoid = _head(loss="sigmoid").losses(logits, multi_hot)["loss_cls"]
    by_hand = -(multi_hot * logits.sigmoid().log() + (1 - multi_hot) * (1 - logits.sigmoid()).log()).mean()
    assert sigmoid.item() == pytest.approx(by_hand.item(), rel=1e-5)
    sigmoid.backward()
    assert logits.grad.abs().sum() > 0


def test_a_loss_in_half_precision_is_computed_in_float32() -> None:
    logits = torch.full((1, 5), 100.0, dtype=torch.bfloat16)
    loss = _head().losses(logits, torch.tensor([0]))["loss_cls"]
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(("loss", "labels"), [("softmax", torch.rand(2, 5)), ("sigmoid", torch.tensor([0, 1]))])
def test_labels_of_the_other_loss_are_refused(loss: str, labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"loss '{loss}' expects shape"):
        _head(loss=loss).losses(torch.randn(2, 5), labels)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match="loss: got 'hinge', allowed: 'softmax', 'sigmoid'"):
        _head(loss="hinge")
    cfg = get_cfg()
    cfg.MODEL.HEAD.LOSS = "hinge"
    with pytest.raises(ValueError, match="^MODEL.HEAD.LOSS: got 'hinge', allowed: 'softmax', 'sigmoid'"):
        build_head(cfg, ShapeSpec(6))


@pytest.mark.parametrize(
    ("frames", "crop", "shape", "window"),
    [
        (32, 224, ShapeSpec(2048, stride=32, temporal_stride=8), (4, 7, 7)),
        (128, 224, ShapeSpec(2048, stride=32, temporal_stride=8), (16, 7, 7)),
        (8, 224, ShapeSpec(2048, stride=32, temporal_stride=2), (4, 7, 7)),
        (32, 288, ShapeSpec(2048, stride=32, temporal_stride=8), (4, 9, 9)),
        (7, 50, ShapeSpec(64, stride=16, temporal_stride=2), (4, 4, 4)),
    ],
)
def test_the_window_is_the_map_of_a_training_clip(frames: int, crop: int, shape: ShapeSpec, window: tuple) -> None:
    cfg = get_cfg()
    cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE = frames, crop
    cfg.MODEL.HEAD.DROPOUT, cfg.MODEL.HEAD.NUM_CLASSES, cfg.MODEL.HEAD.LOSS = 0.25, 7, "sigmoid"
    head = build_head(cfg, shape)
    assert isinstance(head, HEAD.get("PoolLinearHead"))
    assert head.window == window
    assert (head.dropout.p, head.loss) == (0.25, "sigmoid")
    assert (head.classifier.in_features, head.classifier.out_features) == (shape.channels, 7)


def test_the_head_is_differentiable_through_its_classifier() -> None:
    head = _head().train()
    head.losses(head(torch.randn(2, 6, 2, 3, 3)), torch.tensor([1, 2]))["loss_cls"].backward()
    assert all(p.grad is not None for p in head.parameters())
    assert isinstance(head.classifier, nn.Linear)


def test_shares_of_classes_are_soft_labels() -> None:
    logits = torch.randn(4, 5)
    labels = torch.tensor([0, 4, 2, 2])
    hard = _head().losses(logits, labels)["loss_cls"]
    soft = _head().losses(logits, F.one_hot(labels, 5).float())["loss_cls"]
    assert soft.item() == pytest.approx(hard.item(), rel=1e-6)
    shares = torch.tensor([[0.25, 0.75, 0, 0, 0]]).expand(4, -1)
    by_hand = -(shares * logits.log_softmax(1)).sum(dim=1).mean()
    assert _head().losses(logits, shares)["loss_cls"].item() == pytest.approx(by_hand.item(), rel=1e-6)
    sigmoid = _head(loss="sigmoid").losses(logits, shares)["loss_cls"]
    expected = -(shares * logits.sigmoid().log() + (1 - shares) * (1 - logits.sigmoid()).log()).mean()
    assert sigmoid.item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_labels_are_no_shares() -> None:
    multi_hot = torch.eye(5)[:2] + torch.eye(5)[3:]
    message = r"got shape \(2, 5\) with a sum of 2. Several labels of a clip need loss 'sigmoid'"
    with pytest.raises(ValueError, match=message):
        _head().losses(torch.randn(2, 5), multi_hot)
    with pytest.raises(ValueError, match=r"expects shape \(2, 5\), got \(2, 4\)"):
        _head().losses(torch.randn(2, 5), torch.full((2, 4), 0.25))
    with pytest.raises(ValueError, match=r"expects shape \(2,\), got \(2, 5\)"):
        _head().losses(torch.randn(2, 5), torch.ones(2, 5, dtype=torch.int64))


def test_label_smoothing() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 4, 2, 2])
    smoothed = _head(label_smoothing=0.1).losses(logits, labels)["loss_cls"]
    targets = 0.9 * F.one_hot(labels, 5) + 0.1 / 5
    assert smoothed.item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(dim=1).mean().item(), rel=1e-5)
    soft = _head(label_smoothing=0.1).losses(logits, F.one_hot(labels, 5).float())["loss_cls"]
    assert soft.item() == pytest.approx(smoothed.item(), rel=1e-6)
    multi_hot = F.one_hot(labels, 5).float()
    sigmoid = _head(loss="sigmoid", label_smoothing=0.1).losses(logits, multi_hot)["loss_cls"]
    expected = F.binary_cross_entropy_with_logits(logits, 0.9 * multi_hot + 0.05)
    assert sigmoid.item() == pytest.approx(expected.item(), rel=1e-6)
    cfg = get_cfg()
    assert build_head(cfg, ShapeSpec(8, stride=32, temporal_stride=8)).label_smoothing == 0.0
    cfg.MODEL.HEAD.LABEL_SMOOTHING = 0.2
    assert build_head(cfg, ShapeSpec(8, stride=32, temporal_stride=8)).label_smoothing == 0.2
