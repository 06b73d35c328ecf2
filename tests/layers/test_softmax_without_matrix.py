"""The symmetric softmax: its panels, when it runs, what it keeps."""

import pytest
import torch

from nlvideo.layers import nonlocal_ops
from nlvideo.layers.nonlocal_ops import softmax_aggregate
from nlvideo.layers.symmetric_softmax import panels, symmetric_softmax
from nlvideo.modeling import NonLocalBlock


@pytest.mark.parametrize("positions, max_logits", [(1, 1), (7, 14), (100, 10**6), (3136, 2**21), (5, 1)])
def test_panels_meet_every_pair_once(positions, max_logits):
    """A pair (i, j) with i in front of j, or both in one panel, belongs to exactly one panel."""
    seen = torch.zeros(positions, positions, dtype=torch.int32)
    for i, r, b in panels(positions, max_logits):
        assert (r.start, r.stop, b.start, b.stop) == (i.start, positions, i.stop, positions)
        assert i.stop - i.start == 1 or (i.stop - i.start) * positions <= max_logits
        seen[i, r] += 1
        seen[b, i] += 1
    assert (seen == 1).all()


def test_it_runs_where_queries_are_keys(monkeypatch):
    calls = []
    real = nonlocal_ops.symmetric_softmax
    monkeypatch.setattr(nonlocal_ops, "symmetric_softmax", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    monkeypatch.setattr(nonlocal_ops, "SYMMETRIC_POSITIONS", 10)
    x, value = torch.randn(1, 12, 3), torch.randn(1, 12, 2)
    expected = softmax_aggregate(x, x, value, scale=1.0, algorithm="dense")
    torch.testing.assert_close(softmax_aggregate(x, x, value, scale=1.0, algorithm="fused"), expected)
    softmax_aggregate(x, x.clone(), value, scale=1.0, algorithm="fused")
    softmax_aggregate(x[:, :9], x[:, :9], value[:, :9], scale=1.0, algorithm="fused")
    assert len(calls) == 1
    # A Gaussian block without pooling is such a case; with pooling its keys are others.
    for subsample in (False, True):
        NonLocalBlock(4, pairwise="gaussian", subsample=subsample, algorithm="fused")(torch.randn(1, 4, 2, 4, 4))
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_no_widened_copy_of_its_arguments(dtype):
    x, value = (torch.randn(1, 40, c, dtype=dtype, requires_grad=True) for c in (8, 4))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        out = symmetric_softmax(x, value, scale=1.0)
    assert out.dtype == dtype
    assert [(tuple(t.shape), t.dtype) for t in kept[:2]] == [((1, 40, 8), dtype), ((1, 40, 4), dtype)]
    assert sum(t.numel() for t in kept) <= 40 * (8 + 4 + 4 + 1)
