"""VideoClassifier and build_model: batches to losses, views to scores."""

import pytest
import torch
from torch import nn

from nlvideo.config import CfgNode, get_cfg
from nlvideo.modeling import HEAD, META_ARCH, NonLocalBlock, build_model
from nlvideo.modeling.head import PoolLinearHead
from nlvideo.modeling.meta_arch import VideoClassifier
from nlvideo.utils.events import EventStorage


class _Backbone(nn.Module):
    """Hands the pixels on and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        """The input is the last feature; an earlier one must be left alone."""
        self.seen.append(video)
        return {"early": torch.full_like(video, float("nan")), "late": video}


def _model(loss: str = "softmax", **keywords: object) -> VideoClassifier:
    torch.manual_seed(0)
    head = PoolLinearHead(in_channels=3, num_classes=4, dropout=0.0, loss=loss, init_std=1.0)
    defaults = {"backbone": _Backbone(), "head": head, "pixel_mean": [114.75], "pixel_std": [57.375]}
    return VideoClassifier(**{**defaults, **keywords})


class _Tokens(nn.Module):
    """A backbone of sequences: patches of the clip, (N, C, L), related by a non-local block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv3d(3, 16, (1, 4, 4), stride=(1, 4, 4)), NonLocalBlock(16, dim=1)

    def forward(self, video: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"tokens": self.block(self.patches(video).flatten(2))}


@pytest.mark.parametrize("name", ["PoolLinearHead", "ConsensusHead", "AttentiveHead"])
def test_backbone_block_and_head_take_sequences(name: str) -> None:
    head = HEAD.get(name)(in_channels=16, num_classes=4)
    model = _model(backbone=_Tokens(), head=head).train()
    sum(model({"video": _video(2, 3, 4, 8, 8), "label": torch.tensor([0, 3])}).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    (result,) = model.eval()([{"video": _video(3, 3, 2, 12, 12), "video_id": "a"}])
    assert result["scores"].shape == (4,) and result["scores"].sum().item() == pytest.approx(1, abs=1e-5)


def _video(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def _tiny_cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.WIDTH, cfg.MODEL.BACKBONE.STEM = 18, 0.125, "small"
    cfg.MODEL.HEAD.NUM_CLASSES = 4
    cfg.INPUT.NUM_FRAMES, cfg.INPUT.CROP_SIZE = 4, 32
    return cfg


def test_pixels_are_normalised_per_channel() -> None:
    model = _model(pixel_mean=[10.0, 20.0, 30.0], pixel_std=[1.0, 2.0, 4.0])
    video = _video(2, 3, 2, 4, 4)
    model.forward_clips(video)
    seen = model.backbone.seen[0]
    assert seen.dtype == torch.float32
    for channel, (mean, std) in enumerate([(10, 1), (20, 2), (30, 4)]):
        assert torch.allclose(seen[:, channel], (video[:, channel].float() - mean) / std)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_reaches_weights_and_clips_and_changes_no_score(channels_last: bool) -> None:
    cfg = _tiny_cfg()
    cfg.MODEL.CHANNELS_LAST = channels_last
    model = build_model(cfg).eval()
    reference = build_model(_tiny_cfg()).to(memory_format=torch.contiguous_format).eval()
    weight = model.backbone.res3._modules["1"].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    reference.load_state_dict(model.state_dict())
    clips, seen = _video(2, 3, 4, 32, 32), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    scores = model.forward_clips(clips)
    assert seen[0].is_contiguous(memory_format=torch.channels_last_3d) == channels_last
    pixels = (clips.float() - reference.pixel_mean) / reference.pixel_std
    expected = reference.head(reference.backbone(pixels)["res5"])
    assert torch.allclose(scores, expected, atol=1e-5)


def test_one_statistic_serves_every_channel() -> None:
    model = _model()
    video = _video(1, 3, 2, 4, 4)
    model.forward_clips(video)
    assert torch.allclose(model.backbone.seen[0], (video.float() - 114.75) / 57.375)


def test_the_statistics_are_no_part_of_a_checkpoint() -> None:
    assert sorted(_model().state_dict()) == ["head.classifier.bias", "head.classifier.weight"]


def test_training_gives_a_scalar_loss_with_gradients() -> None:
    model = _model().train()
    batch = {"video": _video(4, 3, 2, 4, 4), "label": torch.tensor([0, 1, 2, 3]), "video_id": list("abcd")}
    losses = model(batch)
    assert list(losses) == ["loss_cls"] and losses["loss_cls"].shape == ()
    losses["loss_cls"].backward()
    assert model.head.classifier.weight.grad.abs().sum() > 0


def test_training_reports_its_accuracy_where_there_is_a_storage() -> None:
    model = _model().train()
    video = _video(4, 3, 2, 4, 4)
    prediction = model.forward_clips(video).argmax(dim=1)
    labels = prediction.clone()
    labels[0] = (labels[0] + 1) % 4
    with EventStorage() as storage:
        model({"video": video, "label": labels, "video_id": list("abcd")})
        value, _ = storage.latest()["top1"]
    assert float(value) == pytest.approx(75.0)


def test_of_a_mixed_clip_the_share_of_the_predicted_class_counts() -> None:
    model = _model().train()
    video = _video(4, 3, 2, 4, 4)
    prediction = model.forward_clips(video).argmax(dim=1)
    labels = torch.zeros(4, 4)
    # Shares of 1, 0.7, 0.3 and 0 for what is predicted; the rest goes to another class.
    for row, (predicted, share) in enumerate(zip(prediction, (1.0, 0.7, 0.3, 0.0))):
        labels[row, predicted], labels[row, (predicted + 1) % 4] = share, 1 - share
    with EventStorage() as storage:
        model({"video": video, "label": labels, "video_id": list("abcd")})
        value, _ = storage.latest()["top1"]
    assert float(value) == pytest.approx(50.0)


def test_multi_label_training_has_no_top1() -> None:
    model = _model(loss="sigmoid").train()
    with EventStorage() as storage:
        losses = model({"video": _video(2, 3, 2, 4, 4), "label": torch.eye(4)[:2], "video_id": ["a", "b"]})
        assert "top1" not in storage.latest()
    assert losses["loss_cls"].item() > 0


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("views_per_forward", [1, 2, 3, 100])
def test_scores_are_the_mean_over_views_however_they_are_cut(loss: str, views_per_forward: int) -> None:
    model = _model(loss=loss, views_per_forward=views_per_forward).eval()
    # Two sizes, interleaved; numbers of views that no batch size divides.
    shapes = [(3, 3, 2, 4, 4), (2, 3, 2, 6, 4), (1, 3, 2, 4, 4), (4, 3, 2, 6, 4)]
    videos = [{"video": _video(*shape), "video_id": str(i), "failed": False} for i, shape in enumerate(shapes)]
    with torch.no_grad():
        results = model(videos)
        expected = [torch.stack([model.forward_clips(view[None])[0] for view in v["video"]]).mean(0) for v in videos]
    assert [result["video_id"] for result in results] == ["0", "1", "2", "3"]
    for result, scores in zip(results, expected):
        assert torch.allclose(result["scores"], scores, atol=1e-6)
        assert result["scores"].dtype == torch.float32 and result["scores"].device.type == "cpu"


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_logits_are_averaged_before_they_become_probabilities(loss: str) -> None:
    model = _model(loss=loss, average="logits", views_per_forward=2).eval()
    model.head.window = (2, 3, 3)  # four positions on 4 x 4 pixels
    video = _video(3, 3, 2, 4, 4)
    with torch.no_grad():
        result = model([{"video": video, "video_id": "a"}])[0]
        logits = model.head.logits((video.float() - 114.75) / 57.375)
    assert logits.shape == (3, 4, 4) and list(result) == ["video_id", "scores"]
    mean = logits.mean(dim=(0, 1))
    expected = mean.softmax(dim=0) if loss == "softmax" else mean.sigmoid()
    assert torch.allclose(result["scores"], expected, atol=1e-6)
    model.average = "softmax"
    with torch.no_grad():
        assert not torch.allclose(model([{"video": video, "video_id": "a"}])[0]["scores"], expected, atol=1e-3)


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_the_scores_of_each_view_are_kept_in_the_order_of_the_views(average: str) -> None:
    model = _model(average=average, keep_views=True, views_per_forward=2).eval()
    video = _video(5, 3, 2, 4, 4)
    with torch.no_grad():
        result = model([{"video": video, "video_id": "a"}])[0]
        singles = torch.cat([model([{"video": view[None], "video_id": "a"}])[0]["views"] for view in video])
    assert result["views"].shape == (5, 4) and result["views"].dtype == torch.float32
    assert torch.allclose(result["views"], singles, atol=1e-6)
    mean = result["views"].mean(dim=0)
    assert torch.allclose(result["scores"], mean if average == "softmax" else mean.softmax(dim=0), atol=1e-6)


def test_what_to_average_is_checked() -> None:
    with pytest.raises(ValueError, match="average: got 'scores', allowed: 'softmax', 'logits'"):
        _model(average="scores")
    with pytest.raises(ValueError, match="average: got 'logits', allowed with Identity, which has none: 'softmax'"):
        _model(average="logits", head=nn.Identity())


def test_average_and_views_come_out_of_a_config() -> None:
    cfg = _tiny_cfg()
    assert (build_model(cfg).average, build_model(cfg).keep_views) == ("softmax", False)
    cfg.TEST.AVERAGE, cfg.TEST.KEEP_VIEWS = "logits", True
    model = build_model(cfg)
    assert (model.average, model.keep_views) == ("logits", True)


def test_no_forward_sees_more_views_than_allowed() -> None:
    model = _model(views_per_forward=4).eval()
    with torch.no_grad():
        model([{"video": _video(3, 3, 2, 4, 4), "video_id": str(i)} for i in range(3)])
    assert [len(seen) for seen in model.backbone.seen] == [4, 4, 1]


def test_half_precision_scores_come_out_as_float32() -> None:
    model = _model().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = model([{"video": _video(2, 3, 2, 4, 4), "video_id": "a"}])[0]
    assert result["scores"].dtype == torch.float32
    assert result["scores"].sum().item() == pytest.approx(1.0, abs=1e-5)


def test_views_per_forward_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="views_per_forward: got 0"):
        _model(views_per_forward=0)


def test_build_model_trains_and_tests_out_of_a_config() -> None:
    model = build_model(_tiny_cfg())
    assert isinstance(model, META_ARCH.get("VideoClassifier"))
    assert model.device == torch.device("cpu") and model.views_per_forward == 10
    losses = model.train()({"video": _video(2, 3, 4, 32, 32), "label": torch.tensor([0, 3]), "video_id": ["a", "b"]})
    losses["loss_cls"].backward()
    with torch.no_grad():
        scores = model.eval()([{"video": _video(3, 3, 4, 48, 40), "video_id": "a"}])[0]["scores"]
    assert scores.shape == (4,) and scores.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_names_of_the_whole_model_are_frozen() -> None:
    names = build_model(_tiny_cfg()).state_dict()
    assert {".".join(name.split(".")[:2]) for name in names} == {
        "backbone.stem",
        "backbone.res2",
        "backbone.res3",
        "backbone.res4",
        "backbone.res5",
        "head.classifier",
    }


def test_auto_is_a_gpu_where_there_is_one() -> None:
    cfg = _tiny_cfg()
    cfg.MODEL.DEVICE = "auto"
    assert build_model(cfg).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_one_clear_line() -> None:
    cfg = _tiny_cfg()
    cfg.MODEL.DEVICE = "cuda:0"
    with pytest.raises(ValueError, match="MODEL.DEVICE: got 'cuda:0', but this machine has no CUDA"):
        build_model(cfg)


@pytest.mark.parametrize("name, current", [("cuda:1", [1]), ("cuda", []), ("cpu", [])])
def test_a_device_with_a_number_becomes_the_current_one(name: str, current: list, monkeypatch) -> None:
    chosen: list = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device.index))
    monkeypatch.setattr(META_ARCH, "get", lambda *names: lambda cfg: torch.nn.Identity())
    cfg = _tiny_cfg()
    cfg.MODEL.DEVICE = name
    build_model(cfg)
    assert chosen == current


def test_an_unknown_meta_architecture_lists_the_known_ones() -> None:
    cfg = _tiny_cfg()
    cfg.MODEL.META_ARCHITECTURE = "VideoClasifier"
    with pytest.raises(KeyError, match="VideoClassifier"):
        build_model(cfg)


def test_the_log_names_the_non_local_blocks_or_their_absence(caplog: pytest.LogCaptureFixture) -> None:
    cfg = _tiny_cfg()
    with caplog.at_level("INFO", logger="nlvideo"):
        build_model(cfg)
        assert "For one clip of 4x32x32: Non-local blocks: none" in caplog.text
        caplog.clear()
        cfg.MODEL.NONLOCAL.ENABLED = True
        cfg.MODEL.NONLOCAL.BLOCKS = ["res3.0", "res4.1"]
        build_model(cfg)
    assert "Non-local blocks: none" not in caplog.text
    assert "res3.nl0" in caplog.text and "res4.nl1" in caplog.text
