"""The losses of heads: values and gradients against the literal sums, in double precision."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from nlvideo.config import get_cfg
from nlvideo.layers import ShapeSpec
from nlvideo.modeling import PoolLinearHead, build_head
from nlvideo.modeling.losses import LOSSES, classification_loss

N, K = 3, 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)


def literal(logits, targets, loss, smoothing, weights, gamma):
    """The sums of the docstring, one number after the other; targets are shares (N, K)."""
    total = torch.zeros((), dtype=torch.float64)
    for n, k in itertools.product(range(N), range(K)):
        w = 1.0 if weights is None else weights[k]
        if loss == "softmax":
            t = targets[n, k] * (1 - smoothing) + smoothing / K
            p = logits[n, k].exp() / logits[n].exp().sum()
            total = total - w * t * (1 - p) ** gamma * p.log() / N
        else:
            t = targets[n, k] * (1 - smoothing) + smoothing / 2
            p = 1 / (1 + (-logits[n, k]).exp())
            total = total - w * t * (1 - p) ** gamma * p.log() / (N * K)
            total = total - (1 - t) * p**gamma * (1 - p).log() / (N * K)
    return total


def labels_of(loss, kind):
    """The labels that a loss is given, and their shares."""
    if loss == "softmax":
        hard = torch.tensor([1, 3, 1])
        shares = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
        return (hard, F.one_hot(hard, K).double()) if kind == "hard" else (shares, shares)
    multi_hot = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    soft = 0.3 * multi_hot + 0.7 * multi_hot.flip(0)
    return (multi_hot, multi_hot) if kind == "hard" else (soft, soft)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_literal_sums(loss, kind, smoothing, weighted, gamma):
    torch.manual_seed(0)
    logits = (3 * torch.randn(N, K, dtype=torch.float64)).requires_grad_()
    labels, shares = labels_of(loss, kind)
    weights = WEIGHTS if weighted else None
    options = {"loss": loss, "label_smoothing": smoothing, "class_weights": weights, "focal_gamma": gamma}
    value = classification_loss(logits, labels, **options)
    expected = literal(logits, shares, loss, smoothing, weights, gamma)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(scalar, logits)[0] for scalar in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_weights_and_gamma_the_numbers_are_those_of_pytorch(smoothing):
    torch.manual_seed(0)
    logits, hard = torch.randn(N, K), torch.tensor([1, 3, 1])
    for labels in (hard, F.one_hot(hard, K).float()):
        value = classification_loss(logits, labels, label_smoothing=smoothing)
        assert torch.equal(value, F.cross_entropy(logits, labels, label_smoothing=smoothing))
    multi_hot = F.one_hot(hard, K).float()
    value = classification_loss(logits, multi_hot, loss="sigmoid", label_smoothing=smoothing)
    expected = F.binary_cross_entropy_with_logits(logits, multi_hot * (1 - smoothing) + smoothing / 2)
    assert torch.equal(value, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_predictions_have_finite_losses_and_gradients(loss, gamma):
    logits = torch.tensor([[200.0, -200.0, 0.0, 0.0], [-200.0, 200.0, 0.0, 0.0]], requires_grad=True)
    labels = F.one_hot(torch.tensor([0, 0]), K).float()
    value = classification_loss(logits, labels, loss=loss, focal_gamma=gamma)
    value.backward()
    # The second is wholly wrong: 400 nats, or twice 200 of 4 classes.
    assert value.item() == pytest.approx(200 if loss == "softmax" else 400 / 8, rel=0.01)
    assert torch.isfinite(logits.grad).all() and logits.grad[1, 0] < 0


def test_the_loss_of_a_batch_is_the_mean_over_its_parts():
    """Whatever classes they hold: so ranks and SOLVER.ACCUMULATE change nothing."""
    logits, labels = torch.randn(4, K), torch.tensor([1, 1, 3, 0])
    options = {"class_weights": WEIGHTS.float(), "focal_gamma": 1.0}
    parts = [classification_loss(logits[i : i + 2], labels[i : i + 2], **options) for i in (0, 2)]
    torch.testing.assert_close(classification_loss(logits, labels, **options), sum(parts) / 2)


def test_a_focal_loss_in_half_precision_is_computed_in_float32():
    logits = torch.full((1, K), 100.0, dtype=torch.bfloat16)
    value = classification_loss(logits, torch.tensor([0]), focal_gamma=2.0)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(-((3 / 4) ** 2) * math.log(1 / 4))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights: got 2 numbers, allowed: 4 numbers above 0, one for each class"),
        ({"class_weights": [1.0, 2, 0, 1]}, "class_weights: got 4 numbers, allowed: 4 numbers above 0"),
        ({"class_weights": []}, "class_weights: got 0 numbers"),
        ({"class_weights": "even"}, "class_weights: got 'even', allowed: None, 'balanced'"),
        ({"focal_gamma": -1.0}, "focal_gamma: got -1.0, allowed: 0 or more"),
        ({"label_smoothing": 1.5}, "label_smoothing: got 1.5, allowed: 0 to 1"),
        ({"loss": "hinge"}, "loss: got 'hinge', allowed: 'softmax', 'sigmoid'"),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError) as error:
        PoolLinearHead(in_channels=2, num_classes=K, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_config_reaches_the_loss():
    cfg = get_cfg()
    cfg.MODEL.HEAD.merge_from_other_cfg({"NUM_CLASSES": 2, "CLASS_WEIGHTS": [1, 3], "FOCAL_GAMMA": 2.0})
    head = build_head(cfg, ShapeSpec(6))
    logits, labels = torch.randn(2, 2), torch.tensor([0, 1])
    expected = classification_loss(logits, labels, class_weights=torch.tensor([1.0, 3]), focal_gamma=2.0)
    assert torch.equal(head.losses(logits, labels)["loss_cls"], expected)
    # A checkpoint is the same with and without them.
    assert list(head.state_dict()) == ["classifier.weight", "classifier.bias"]
    cfg.MODEL.HEAD.CLASS_WEIGHTS = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"^MODEL.HEAD.CLASS_WEIGHTS: got 3 numbers, allowed: 2 numbers above 0"):
        build_head(cfg, ShapeSpec(6))


def test_weights_that_are_not_known_yet_have_no_loss():
    """A model for tests and predictions can be built; training says what makes them known."""
    head = PoolLinearHead(in_channels=2, num_classes=K, class_weights="balanced")
    assert head.eval()(torch.randn(1, 2, 1, 1, 1)).shape == (1, K)
    with pytest.raises(ValueError, match=r"class_weights: got 'balanced', allowed in training: .*resolve_from_data"):
        head.losses(torch.randn(2, K), torch.tensor([0, 1]))
