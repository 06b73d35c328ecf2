"""Norms folded into convolutions: every config, block and kind of pair; what stays as it is; the switch."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from nlvideo.checkpoint import Checkpointer
from nlvideo.config import load_cfg
from nlvideo.config.reduced import reduced
from nlvideo.data import get_dataset
from nlvideo.data.dataset_mapper import MAPPER
from nlvideo.evaluation import Evaluator, inference_on_dataset
from nlvideo.export import extract_features, load_features
from nlvideo.export import features as features_module
from nlvideo.export.export_files import ClipScorer
from nlvideo.export.features import LayerOutput
from nlvideo.layers import FrozenBatchNorm, SyncBatchNorm, fuse_for_inference, get_norm
from nlvideo.layers.blocks import Bottleneck3d
from nlvideo.model_zoo import Predictor
from nlvideo.modeling import NONLOCAL, NonLocalBlock, build_model, build_nonlocal_block, insert_nonlocal

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def networks():
    """A config for each network of the zoo, at a small size. Many differ in their training alone."""
    found = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        if "base" not in path.stem:
            cfg = reduced(load_cfg(str(path)), ["MODEL.HEAD.INIT_STD", "0.1"])
            found.setdefault((cfg.MODEL.dump(), cfg.INPUT.NUM_FRAMES), pytest.param(cfg, id=path.stem))
    return list(found.values())


def disturbed(model):
    """The network in eval mode, its statistics, scales and shifts random, so that no norm is near the identity."""
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                module.weight.data.uniform_(0.3, 0.9)
                module.bias.data.normal_(0, 0.2)
    return model.eval()


def norms(model):
    """How many batch norms a network has."""
    return sum(hasattr(module, "running_var") for module in model.modules())


def assert_same_scores(first, second, clips, tolerance=1e-5):
    with torch.no_grad():
        expected, actual = first(clips), second(clips)
    assert expected.std(dim=-1).min() > 1e-4, "scores that say nothing prove nothing"
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("cfg", networks())
def test_every_config_scores_the_same_without_a_norm(cfg):
    model = disturbed(build_model(cfg))
    clips = torch.randint(0, 256, (2, 3, cfg.INPUT.NUM_FRAMES, 48, 48), dtype=torch.uint8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fused = fuse_for_inference(model)
    assert norms(fused) == 0
    assert_same_scores(model.forward_clips, fused.forward_clips, clips)
    assert_same_scores(model.forward_clips, ClipScorer(model), clips)
    assert norms(ClipScorer(model)) == 0
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", sorted(NONLOCAL))
@pytest.mark.parametrize("attend", ["spacetime", "space", "time"])
def test_every_block_gives_the_same_map(name, attend):
    opts = ["MODEL.NONLOCAL.NAME", name, "MODEL.NONLOCAL.ATTEND", attend, "MODEL.NONLOCAL.ZERO_INIT", "False"]
    block = disturbed(build_nonlocal_block(load_cfg(None, [*opts, "MODEL.NONLOCAL.INIT_STD", "0.3"]), 16))
    fused = fuse_for_inference(block)
    assert norms(fused) == 0
    x = torch.randn(2, 16, 4, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), block(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
def test_norms_of_each_kind_and_dimension(norm):
    for dim, conv in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), start=1):
        model = disturbed(nn.Sequential(conv(4, 6, 3, bias=dim == 2, groups=2), get_norm(norm, 6, dim=dim), nn.ReLU()))
        fused = fuse_for_inference(model)
        assert (
            type(fused[0]) is conv
            and type(fused[1]) is nn.Identity
            and type(model[1]) is type(get_norm(norm, 6, dim=dim))
        )
        x = torch.randn(2, 4, *[7] * dim)
        torch.testing.assert_close(fused(x), model(x), atol=1e-6, rtol=1e-5)


class Ordered(nn.Module):
    """A norm before its convolution: the names alone would make a pair of them."""

    def __init__(self):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1)

    def forward(self, x):
        """Norm, then convolution."""
        return self.conv1(self.bn1(x))


def _shared():
    conv = nn.Conv3d(4, 4, 1)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm3d(4)), nn.Sequential(conv, nn.BatchNorm3d(4)))


def _interrupted():
    return insert_nonlocal(nn.Sequential(nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)), {"0": NonLocalBlock(4, norm="none")})


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        Ordered,
        _shared,
        lambda: nn.Sequential(nn.Conv3d(4, 4, 1), nn.ReLU(), nn.BatchNorm3d(4)),
        lambda: nn.Sequential(nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4, track_running_stats=False)),
        lambda: nn.Sequential(nn.Conv3d(4, 4, 1), nn.GroupNorm(2, 4)),
        lambda: nn.Sequential(nn.ConvTranspose3d(4, 4, 1), nn.BatchNorm3d(4)),
        _interrupted,
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Conv3d(4, 4, 1)), nn.BatchNorm3d(4)),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv3d(4, 4, 1)), nn.BatchNorm3d(4)),
        lambda: nn.Sequential(nn.Conv3d(4, 4, 1).half(), nn.BatchNorm3d(4)),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_left_alone(make):
    model = make().eval()
    assert fuse_for_inference(model) is model


def test_a_convolution_may_end_a_sequence_inside():
    model = disturbed(
        nn.Sequential(nn.Sequential(nn.Conv3d(4, 5, 1), nn.ReLU(), nn.Conv3d(5, 6, 1)), nn.BatchNorm3d(6))
    )
    fused, x = fuse_for_inference(model), torch.randn(1, 4, 2, 3, 3)
    assert norms(fused) == 0
    torch.testing.assert_close(fused(x), model(x), atol=1e-6, rtol=1e-5)


def test_what_a_hook_or_a_caller_wants_stays(caplog):
    model = disturbed(Bottleneck3d(8, 4, 8))
    seen = []
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    # A change of the input has nothing to do with the norm.
    model.conv3.register_forward_pre_hook(lambda module, inputs: inputs[0] + 1)
    with caplog.at_level(logging.INFO):
        fused = fuse_for_inference(model, keep=[model.conv2])
    assert [type(norm) for norm in (fused.bn1, fused.bn2, fused.bn3)] == [nn.BatchNorm3d, nn.BatchNorm3d, nn.Identity]
    assert "conv1" in caplog.text and "conv2" in caplog.text and "conv3" not in caplog.text
    x = torch.randn(1, 8, 2, 4, 4)
    torch.testing.assert_close(fused(x), model(x), atol=1e-6, rtol=1e-5)
    assert len(seen) == 2 and torch.equal(*seen)


def test_what_does_not_change_is_shared_and_the_gradient_still_flows():
    model = disturbed(nn.Sequential(nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1)))
    fused = fuse_for_inference(model)
    assert fused[2].weight is model[2].weight and fused[0].weight is not model[0].weight
    assert fused(torch.randn(1, 4, 2, 2, 2)).requires_grad and not model.training


@pytest.mark.parametrize("switch", ["key", "compiled", "no copy"])
def test_what_keeps_the_norms(switch, caplog):
    cfg = reduced(load_cfg(str(CONFIGS / "quickstart/c2d_nl.yaml")), ["TEST.FUSE", str(switch != "key")])
    model = build_model(cfg).eval()
    if switch == "compiled":
        model = torch.compile(model, backend="eager")
    if switch == "no copy":
        model.stream = (number for number in range(3))
    assert fuse_for_inference(model) is model
    assert ("cannot be copied" in caplog.text) == (switch == "no copy")


def test_a_copy_is_that_of_the_weights_at_its_time():
    """As an evaluation during training makes it: the training goes on with the network itself."""
    model = disturbed(
        nn.Sequential(nn.Conv3d(4, 4, 1), FrozenBatchNorm(4), nn.Conv3d(4, 4, 1), SyncBatchNorm(4))
    ).train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    fuse_for_inference(model)(torch.randn(2, 4, 2, 2, 2))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def _counted_norms(monkeypatch):
    """A list that grows by one in each pass through a batch norm."""
    passes, forward = [], nn.BatchNorm3d.forward

    def counted(self, x):
        passes.append(self)
        return forward(self, x)

    monkeypatch.setattr(nn.BatchNorm3d, "forward", counted)
    return passes


class _Scores(Evaluator):
    """Keeps the scores of every video."""

    def reset(self):
        """Forget them."""
        self.scores = []

    def process(self, inputs, outputs):
        """Keep those of some videos."""
        self.scores += [output["scores"] for output in outputs]

    def evaluate(self):
        """Return nothing."""
        return {}


@pytest.mark.parametrize("fuse", [True, False])
def test_the_switch_decides_for_tests_predictions_features_and_exports(fuse, tmp_path, monkeypatch):
    opts = ["TEST.FUSE", str(fuse), "MODEL.HEAD.INIT_STD", "0.1"]
    cfg = reduced(load_cfg(str(CONFIGS / "quickstart/c2d_nl.yaml")), opts)
    model = disturbed(build_model(cfg))
    clip = torch.randint(0, 256, (3, cfg.INPUT.NUM_FRAMES, 48, 48), dtype=torch.uint8)
    (expected,) = model([{"video": clip[None], "video_id": "v"}])
    Checkpointer(model, str(tmp_path)).save("model")
    passes, found = _counted_norms(monkeypatch), {}

    evaluator = _Scores("toy", 8)
    model.train()
    inference_on_dataset(model, [[{"video": clip[None], "video_id": "v"}]], evaluator)
    found["test"] = (evaluator.scores[0], len(passes))
    assert all(module.training for module in model.modules()) and norms(model) > 0
    model.eval()

    predictor = Predictor(cfg, str(tmp_path / "model.pth"))
    passes.clear()
    found["prediction"] = (predictor.model([{"video": clip[None], "video_id": "v"}])[0]["scores"], len(passes))

    passes.clear()
    found["export"] = (ClipScorer(model)(clip[None])[0], len(passes))
    for scores, count in found.values():
        assert (count == 0) == fuse
        torch.testing.assert_close(scores, expected["scores"], atol=1e-5, rtol=0)


def test_features_of_a_convolution_are_those_it_was_trained_to_give(video_lists, tmp_path, monkeypatch):
    cfg = reduced(load_cfg(str(CONFIGS / "quickstart/c2d.yaml")))
    model = disturbed(build_model(cfg))
    copies = []
    monkeypatch.setattr(features_module, "LayerOutput", lambda *args: copies.append(args[0]) or LayerOutput(*args))
    for layer, has_norm in (("res3.0.conv1", True), ("res3.0.bn1", False)):
        extract_features(model, cfg, video_lists[1], layer, str(tmp_path / layer), videos_per_shard=1)
        assert norms(copies[-1]) == has_norm
        found = load_features(str(tmp_path / layer)).features[0]
        record = get_dataset(video_lists[1])[0]
        views = MAPPER.get("VideoMapper")(cfg, False)({**record, "label": 0}, None)["video"]
        expected = LayerOutput(model, layer)(views).mean(dim=0)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_mixed_precision_at_test_is_close_and_asked_for():
    cfg = load_cfg(str(CONFIGS / "quickstart/c2d_nl.yaml"))
    assert cfg.TEST.AMP == ""
    models = [disturbed(build_model(reduced(cfg, ["TEST.AMP", amp]))) for amp in ("", "bfloat16")]
    models[1].load_state_dict(models[0].state_dict())
    clip = torch.randint(0, 256, (1, 3, models[0].head.window[0] * 2, 48, 48), dtype=torch.uint8)
    seen = []
    models[1].backbone.stem.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    exact, close = (model([{"video": clip, "video_id": "v"}])[0]["scores"] for model in models)
    assert seen == [torch.bfloat16] and close.dtype == torch.float32
    assert 0 < (exact - close).abs().max() < 0.02
