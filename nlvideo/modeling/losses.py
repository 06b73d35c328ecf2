"""The losses of all heads: cross-entropy over classes or of yes and no per class, with class weights and focal loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from nlvideo.layers.precision import widened
from nlvideo.utils.messages import check_one_of

LOSSES = ("softmax", "sigmoid")


def check_loss_options(
    loss: str, num_classes: int, label_smoothing: float, class_weights: Sequence[float] | str | None, focal_gamma: float
) -> None:
    """Raise ValueError for options that `classification_loss` does not take; ``class_weights`` may be "balanced"."""
    check_one_of("loss", loss, LOSSES)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}, allowed: 0 to 1")
    if focal_gamma < 0:
        raise ValueError(f"focal_gamma: got {focal_gamma}, allowed: 0 or more")
    if class_weights is None or isinstance(class_weights, str):
        check_one_of("class_weights", class_weights, (None, "balanced"))
    elif len(class_weights) != num_classes or min(class_weights) <= 0:
        allowed = f"{num_classes} numbers above 0, one for each class"
        raise ValueError(f"class_weights: got {len(class_weights)} numbers, allowed: {allowed}")


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: str = "softmax",
    label_smoothing: float = 0.0,
    class_weights: torch.Tensor | None = None,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """The loss of a batch in float32 or wider, averaged over clips (and over classes for "sigmoid").

    With t_k the label, p_k the probability and w_k the weight of class k, a clip has the loss

    - "softmax": sum_k -w_k t_k (1 - p_k)^gamma log p_k
    - "sigmoid": sum_k -w_k t_k (1 - p_k)^gamma log p_k - (1 - t_k) p_k^gamma log(1 - p_k), divided by the classes

    For hard labels this is the focal loss of Lin et al. (ICCV 2017), and cross-entropy where gamma is 0. A weight
    multiplies the loss of the videos that have the class. The sum of weights does not divide the loss: so neither the
    number of ranks nor ``SOLVER.ACCUMULATE`` changes it, and hard labels equal the same labels as shares.

    Args:
        logits: (N, K).
        labels: for "softmax" int64 (N,), or float (N, K) with the share of each class, rows that sum to 1; for
            "sigmoid" float (N, K), multi-hot or anything from 0 to 1.
        loss: one of `LOSSES`.
        label_smoothing: share of every label that is spread evenly: over all classes for "softmax", over yes and no
            of each class for "sigmoid".
        class_weights: w, (K,); None: all 1.
        focal_gamma: gamma; 0: no focal loss.

    Raises:
        ValueError: labels of another shape, or shares of another sum; the sum is checked on the CPU alone, because
            a GPU would have to wait for it.
    """
    _check_labels(loss, logits, labels)
    (logits,) = widened(logits)
    is_plain = class_weights is None and not focal_gamma
    if loss == "sigmoid":
        targets = labels.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
        if is_plain:
            return F.binary_cross_entropy_with_logits(logits, targets)
        log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
        yes, no = -targets * log_yes, (targets - 1) * log_no
        if focal_gamma:
            yes, no = yes * (focal_gamma * log_no).exp(), no * (focal_gamma * log_yes).exp()
        return (yes + no if class_weights is None else yes * class_weights + no).mean()
    if is_plain:
        targets = labels.to(logits.dtype) if labels.dim() == 2 else labels
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    targets = labels if labels.dim() == 2 else F.one_hot(labels, logits.shape[1])
    targets = targets.to(logits.dtype) * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    log_p = logits.log_softmax(dim=1)
    terms = -targets * log_p
    if focal_gamma:
        # At a probability of 1 the gradient of a power below 1 is infinite, times a loss of 0.
        terms = terms * (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny) ** focal_gamma
    return (terms if class_weights is None else terms * class_weights).sum(dim=1).mean()


def _check_labels(loss: str, logits: torch.Tensor, labels: torch.Tensor) -> None:
    are_shares = loss == "softmax" and labels.dim() == 2 and labels.is_floating_point()
    expected = logits.shape if loss == "sigmoid" or are_shares else logits.shape[:1]
    if labels.shape != expected:
        raise ValueError(f"labels: loss {loss!r} expects shape {tuple(expected)}, got {tuple(labels.shape)}")
    sums = labels.sum(dim=1) if are_shares and labels.device.type == "cpu" else None
    if sums is not None and not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        wrong = sums[(sums - 1).abs().argmax()].item()
        raise ValueError(
            f"labels: loss 'softmax' expects shape {(len(logits),)}, or shares of the classes that sum to 1; got shape"
            f" {tuple(labels.shape)} with a sum of {wrong:g}. Several labels of a clip need loss 'sigmoid'"
        )
