"""ConsensusHead and AttentiveHead against their literal formulas, and all heads on sequences."""

import math

import pytest
import torch
import torch.nn.functional as F

from nlvideo.config import load_cfg
from nlvideo.layers import ShapeSpec
from nlvideo.modeling import HEAD, AttentiveHead, ConsensusHead, PoolLinearHead, build_head

C, K = 16, 5
ACTIVATIONS = {"softmax": lambda x: x.softmax(dim=-1), "sigmoid": torch.sigmoid}


def make(cls, **options):
    """A head in double precision without dropout, and random weights everywhere."""
    torch.manual_seed(0)
    head = cls(**{"in_channels": C, "num_classes": K, "init_std": 1.0, "dropout": 0.0, **options}).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def same_with_gradients(head, x, value, expected):
    """Compare values, and the gradients of the map and of all parameters."""
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    mine, theirs = (
        torch.autograd.grad(scalar.square().sum(), [x, *head.parameters()], retain_graph=True, allow_unused=True)
        for scalar in (value, expected)
    )
    for one, other in zip(mine, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", ACTIVATIONS)
@pytest.mark.parametrize("consensus", ["logits", "probabilities"])
def test_frames_agree(consensus, loss):
    head = make(ConsensusHead, consensus=consensus, loss=loss).train()
    x = torch.randn(2, C, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    frames = [head.classifier(x[:, :, t].mean(dim=(2, 3))) for t in range(3)]
    activate = ACTIVATIONS[loss]
    if consensus == "logits":
        expected = sum(frames) / 3
        same_with_gradients(head, x, head(x), expected)
    else:
        same_with_gradients(head, x, activate(head(x)), sum(map(activate, frames)) / 3)
        # Its loss is that of the mean probability.
        labels = torch.tensor([1, 3]) if loss == "softmax" else torch.eye(K, dtype=torch.float64)[[1, 3]]
        p = sum(map(activate, frames)) / 3
        if loss == "softmax":
            by_hand = -p[range(2), labels].log().mean()
        else:
            by_hand = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
        assert head.losses(head(x), labels)["loss_cls"].item() == pytest.approx(by_hand.item())


def test_dropout_differs_between_frames():
    """Each frame is dropped out by itself: equal frames give unequal logits, whose mean is less noisy."""
    head = make(ConsensusHead, dropout=0.5).train()
    head.classifier.weight.data.fill_(1.0)
    head.classifier.bias.data.zero_()
    x = torch.ones(2000, C, 4, 1, 1, dtype=torch.float64)
    assert head(x).std(dim=0)[0].item() == pytest.approx(math.sqrt(C / 4), rel=0.1)


@pytest.mark.parametrize("consensus", ["logits", "probabilities"])
def test_larger_frames_have_positions_and_all_frames_count(consensus):
    head = make(ConsensusHead, consensus=consensus, window=(3, 3)).eval()
    x = torch.randn(2, C, 6, 4, 5, dtype=torch.float64)
    expected = []
    for top in range(2):
        for left in range(3):
            logits = head.classifier(x[..., top : top + 3, left : left + 3].mean(dim=(3, 4)).mT)
            p = logits.mean(dim=1).softmax(dim=1) if consensus == "logits" else logits.softmax(dim=2).mean(dim=1)
            expected.append(p)
    torch.testing.assert_close(head(x), sum(expected) / 6, rtol=1e-6, atol=1e-6)
    assert head.logits(x).shape == (2, 6, K)
    # A frame of the training size is one position, and scores like a training clip.
    small = x[..., :3, :3]
    torch.testing.assert_close(head(small), head.train()(small).softmax(dim=1), rtol=1e-6, atol=1e-6)


def attend(head, x):
    """The formula of the docstring: one query, one head and one position after the other."""
    x = x.flatten(2)
    n, _, positions = x.shape
    width = C // head.num_heads
    clips = []
    for i in range(n):
        features = [F.layer_norm(x[i, :, j], (C,), head.norm_in.weight, head.norm_in.bias) for j in range(positions)]
        seen = []
        for query in head.queries:
            parts = []
            for h in range(head.num_heads):
                own = slice(h * width, (h + 1) * width)
                keys = torch.stack([head.key.weight[own] @ feature for feature in features])
                weights = (keys @ query[own] * width**-0.5).softmax(dim=0)
                values = torch.stack([head.value.weight[own] @ f + head.value.bias[own] for f in features])
                parts.append(weights @ values)
            seen.append(F.layer_norm(torch.cat(parts), (C,), head.norm_out.weight, head.norm_out.bias))
        clips.append(torch.cat(seen))
    return head.classifier(torch.stack(clips))


@pytest.mark.parametrize("queries, heads", [(1, 1), (1, 4), (3, 2), (2, 16)])
@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 1), (7,), (5, 3, 3)])
def test_queries_attend(size, queries, heads):
    head = make(AttentiveHead, num_queries=queries, num_heads=heads).train()
    x = torch.randn(2, C, *size, dtype=torch.float64, requires_grad=True)
    same_with_gradients(head, x, head(x), attend(head, x))
    assert tuple(head.classifier.weight.shape) == (K, queries * C)
    # The whole map is one position in eval mode.
    logits = head.eval().logits(x)
    assert logits.shape == (2, 1, K)
    torch.testing.assert_close(head(x), attend(head, x).softmax(dim=1), rtol=1e-5, atol=1e-6)


def test_where_a_query_looks():
    head = make(AttentiveHead, num_queries=2, num_heads=1)
    x = torch.randn(3, C, 2, 3, 4, dtype=torch.float64)
    weights = head.attention(x)
    assert weights.shape == (3, 2, 2, 3, 4)
    torch.testing.assert_close(weights.flatten(2).sum(dim=2), torch.ones(3, 2, dtype=torch.float64))
    features = F.layer_norm(x.flatten(2).mT, (C,), head.norm_in.weight, head.norm_in.bias)
    expected = (features @ head.key.weight.T @ head.queries.T * C**-0.5).softmax(dim=1).mT
    torch.testing.assert_close(weights.flatten(2), expected)
    # The mean over the heads.
    head = make(AttentiveHead, num_heads=4)
    one = head.attention(x[..., :1, :1, :1])
    torch.testing.assert_close(one, torch.ones_like(one))


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_query_learns_where_to_look(optimizer):
    """One position of twelve has the class, with the mark that says so: the mean of the map says little."""
    torch.manual_seed(0)
    head = AttentiveHead(in_channels=C, num_classes=2, num_heads=2, dropout=0.0).train()
    optimizer = optimizer(head.parameters(), 1e-2, **({} if optimizer is torch.optim.AdamW else {"momentum": 0.9}))
    for _ in range(200):
        x, labels = torch.randn(32, C, 2, 2, 3), torch.randint(0, 2, (32,))
        places = torch.randint(0, 12, (32,))
        x.flatten(2)[range(32), 0, places] = 4.0
        x.flatten(2)[range(32), 1, places] = 2.0 * labels - 1
        optimizer.zero_grad()
        head.losses(head(x), labels)["loss_cls"].backward()
        optimizer.step()
    assert (head(x).argmax(dim=1) == labels).float().mean() > 0.9
    assert (head.attention(x).flatten(1).argmax(dim=1) == places).float().mean() > 0.9


@pytest.mark.parametrize("positions", [64, 256])
def test_nothing_kept_grows_faster_than_the_map(positions):
    """No tensor that is kept for backward is larger than the map."""
    head = AttentiveHead(in_channels=C, num_classes=K, num_queries=2, num_heads=4).train()
    x, kept = torch.randn(1, C, positions, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        head(x)
    assert max(kept) <= C * positions


@pytest.mark.parametrize("name", HEAD)
@pytest.mark.parametrize("loss", ACTIVATIONS)
def test_a_sequence_is_a_map_of_one_axis(name, loss):
    head = make(HEAD.get(name), loss=loss)
    if name == "PoolLinearHead":
        head.window = (2, 2, 2)
    x = torch.randn(2, C, 6, dtype=torch.float64)
    head.train()
    torch.testing.assert_close(head(x), head(x[..., None, None]))
    head.eval()
    if name == "PoolLinearHead":
        head.window = None
    torch.testing.assert_close(head(x), head(x[..., None, None]))
    labels = torch.tensor([0, 1]) if loss == "softmax" else torch.zeros(2, K)
    head.train().losses(head(x), labels)["loss_cls"].backward()
    with pytest.raises(ValueError, match=r"expected a map \(N, C, T, H, W\) or a sequence \(N, C, L\), got \(2, 16, 3"):
        head(torch.randn(2, C, 3, 3, dtype=torch.float64))


def test_a_sequence_has_no_window():
    """PoolLinearHead averages all of it: how many of its steps a frame has is not known."""
    head = make(PoolLinearHead, window=(2, 2, 2)).eval()
    x = torch.randn(2, C, 9, dtype=torch.float64)
    torch.testing.assert_close(head(x), head.classifier(x.mean(dim=2)).softmax(dim=1))


def build(name, *args):
    """The head of a config with these MODEL.HEAD.ARGS, for maps of 32 channels and stride 32 x 8."""
    cfg = load_cfg(
        None, ["MODEL.HEAD.NAME", name, "MODEL.HEAD.NUM_CLASSES", 3, "MODEL.HEAD.ARGS", list(map(list, args))]
    )
    return build_head(cfg, ShapeSpec(32, stride=32, temporal_stride=8))


def test_heads_of_a_config():
    head = build("ConsensusHead")
    assert (head.consensus, head.window, head.dropout.p) == ("logits", (7, 7), 0.5)
    assert build("ConsensusHead", ("consensus", "probabilities")).consensus == "probabilities"
    head = build("AttentiveHead", ("num_queries", 3), ("num_heads", 4))
    assert (len(head.queries), head.num_heads, head.classifier.in_features) == (3, 4, 96)
    assert build("AttentiveHead").num_heads == 8


@pytest.mark.parametrize(
    "name, args, message",
    [
        ("ConsensusHead", ("consensus", "vote"), "consensus: got 'vote', allowed: 'logits', 'probabilities'"),
        ("ConsensusHead", ("window", 3), "ConsensusHead has no argument 'window' of its own. Allowed: 'consensus'"),
        ("PoolLinearHead", ("dropout", 0.1), "PoolLinearHead has no argument 'dropout' of its own. Allowed: none"),
        ("AttentiveHead", ("num_heads", 5), "num_heads: got 5, allowed: divisors of 32 channels"),
        ("AttentiveHead", ("num_queries", 0), "num_queries: got 0, allowed: 1 or more"),
        ("AttentiveHead", ("queries", 2), "no argument 'queries' of its own. did you mean 'num_queries'"),
    ],
)
def test_arguments_that_are_not_allowed(name, args, message):
    with pytest.raises(ValueError, match="^MODEL.HEAD.ARGS: ") as error:
        build(name, args)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", HEAD)
def test_heads_compile_and_run_in_half_precision(name):
    torch._dynamo.reset()
    head, x = make(HEAD.get(name)).float().train(), torch.randn(2, C, 2, 4, 4)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), head(x))
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.losses(head(x), torch.tensor([0, 1]))
        scores = head.eval()(x)
    assert losses["loss_cls"].dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, head(x), atol=0.1, rtol=0.1)
