"""The detectors: torchvision's own to the bit, with blocks where the paper has them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nonlocal_rcnn import model as models
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from nlvideo.checkpoint.weights import load_weights
from nlvideo.config import CfgNode, load_cfg
from nlvideo.modeling import NonLocalBlock, build_model, model_costs
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Small numbers of regions, and detections from random weights.
FEW = {
    "rpn_pre_nms_top_n_train": 60, "rpn_pre_nms_top_n_test": 60, "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 16, "box_detections_per_img": 5, "box_score_thresh": 0.0,
}  # fmt: skip
KINDS = {"mask": models.MaskRCNN, "keypoint": models.KeypointRCNN}


def _block(width: int, stage: str) -> NonLocalBlock:
    return NonLocalBlock(width, dim=2, norm="none", pairwise="dot_product")


def _ours(kind: str, blocks: tuple[str, ...] = (), **more: Any) -> torch.nn.Module:
    fixed = {"arch": "resnet18", "num_classes": 2, "num_keypoints": 3, "short_side": 64, "max_size": 96, **FEW}
    return KINDS[kind](blocks=blocks, make_nonlocal=_block, **{**fixed, **more})


@pytest.fixture(scope="module")
def originals() -> dict[str, torch.nn.Module]:
    """torchvision's own detectors, built by its own functions."""
    made = {}
    for kind, cls in (("mask", detection.MaskRCNN), ("keypoint", detection.KeypointRCNN)):
        torch.manual_seed(1)
        body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
        own = {"num_keypoints": 3} if kind == "keypoint" else {}
        made[kind] = cls(body, 3, min_size=64, max_size=96, _skip_resize=True, **FEW, **own)
    return made


def _batch(kind: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    images = [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((64, 80), (72, 64))]
    targets = []
    for image in images:
        target = {"boxes": torch.tensor([[4.0, 6, 40, 50], [20, 20, 60, 60]]), "labels": torch.tensor([1, 2])}
        masks = torch.zeros(2, *image.shape[1:], dtype=torch.uint8)
        masks[:, 10:40, 10:40] = 1
        points = torch.tensor([[[10.0, 20, 2], [30, 40, 1], [0, 0, 0]], [[30.0, 30, 2], [50, 50, 2], [40, 30, 2]]])
        targets.append({**target, "masks": masks} if kind == "mask" else {**target, "keypoints": points})
    return {"images": images, "targets": targets, "video_id": ["a", "b"]}


def _losses(run: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return run()


@pytest.mark.parametrize("blocks", [(), ("layer3.0", "head")], ids=["no blocks", "blocks at their start"])
@pytest.mark.parametrize("kind", KINDS)
def test_is_torchvisions_own_to_the_bit(
    kind: str, blocks: tuple[str, ...], originals: dict[str, torch.nn.Module]
) -> None:
    theirs = originals[kind]
    ours = _ours(kind, tuple(name.replace("head", f"{kind}_head.1") for name in blocks))
    assert len(nonlocal_modules(ours)) == len(blocks)
    load_weights(ours, theirs.state_dict(), "theirs.pth")
    assert [p.requires_grad for n, p in ours.named_parameters() if "nonlocal" not in n] == [
        p.requires_grad for p in theirs.parameters()
    ]
    batch = _batch(kind)
    pixels = [image.float() / 255 for image in batch["images"]]
    wanted, found = (_losses(run) for run in (lambda: theirs.train()(pixels, batch["targets"]),
                                              lambda: ours.train()(batch)))  # fmt: skip
    assert wanted.keys() == found.keys() and len(wanted) == 5
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    with torch.no_grad():
        expected = theirs.eval()(pixels)
        outputs = ours.eval()([{"image": image, "video_id": str(i)} for i, image in enumerate(batch["images"])])
    assert [output["video_id"] for output in outputs] == ["0", "1"]
    for one, other in zip(expected, outputs):
        assert len(one["boxes"]) and one.keys() == other["detections"].keys()
        assert all(torch.equal(value, other["detections"][name]) for name, value in one.items())


@pytest.mark.parametrize("arch", ["resnet50", "resnet101", "resnext101_32x8d"])
def test_has_the_names_of_torchvisions_detectors(arch: str) -> None:
    with torch.device("meta"):
        ours = models.MaskRCNN(arch=arch, num_classes=90)
        if arch == "resnet50":
            theirs = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        else:
            theirs = detection.MaskRCNN(resnet_fpn_backbone(backbone_name=arch, weights=None), 91)
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items() if "num_batches" not in name}
              for model in (ours, theirs)]  # fmt: skip
    assert shapes[0] == shapes[1]


def _old(name: str) -> str:
    """The name that a tensor had in torchvision's files of COCO."""
    name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    return re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)


@pytest.mark.parametrize("blocks", [(), ("layer3.0",)])
def test_old_files_of_torchvision_load_as_torchvision_loads_them(blocks: tuple[str, ...]) -> None:
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    saved = detection.MaskRCNN(body, 91)
    old = {_old(name): value for name, value in saved.state_dict().items()}
    assert old.keys() != saved.state_dict().keys()
    reread = detection.MaskRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 91)
    reread.load_state_dict(old)
    for classes in (90, 80):
        ours = _ours("mask", blocks, num_classes=classes)
        report = load_weights(ours, old, "old.pth")
        assert not report.missing and not report.unexpected and not report.mismatched
        used = [n for n in range(91) if classes == 90 or n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
        wanted = reread.roi_heads.box_predictor.bbox_pred.bias.view(91, 4)[used].flatten()
        assert torch.equal(ours.roi_heads.box_predictor.bbox_pred.bias, wanted)
        assert torch.equal(ours.roi_heads.mask_head[3][0].weight, reread.roi_heads.mask_head[3][0].weight)
        assert torch.equal(ours.rpn.head.conv[0][0].bias, reread.rpn.head.conv[0][0].bias)


def test_the_backbone_starts_from_imagenet() -> None:
    original, ours = resnet18(), _ours("mask", ("layer3.0",))
    report = load_weights(ours, original.state_dict(), "resnet18.pth")
    assert not report.unexpected and {name.split(".")[1] for name in report.missing} == {
        "fpn", "head", "box_head", "box_predictor", "mask_head", "mask_predictor",
    }  # fmt: skip
    assert torch.equal(ours.backbone.body.layer4[1].conv2.weight, original.layer4[1].conv2.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_also_without_objects(kind: str) -> None:
    ours = _ours(kind, ("layer3.0", f"{kind}_head.1"), freeze_at=0)
    for block in nonlocal_modules(ours).values():
        torch.nn.init.normal_(block.out.weight)
    batch = _batch(kind)
    sum(ours.train()(batch).values()).backward()
    assert all(p.grad is not None for p in ours.parameters() if p.requires_grad)
    assert all(p.grad.any() for block in nonlocal_modules(ours).values() for p in block.parameters())
    for target in batch["targets"]:
        target.update({name: value[:0] for name, value in target.items()})
    ours.zero_grad()
    losses = ours(batch)
    sum(losses.values()).backward()
    assert losses[f"loss_{kind}"] == 0 and all(p.grad is not None for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize(("config", "places"), [
    ("mask_rcnn_r50_nl", ["backbone.body.layer3.4"]), ("mask_rcnn_r101_nl", ["backbone.body.layer3.21"]),
    ("keypoint_r101_nl4", [f"roi_heads.keypoint_head.{i}" for i in (3, 7, 11, 15)]),
])  # fmt: skip
def test_blocks_are_at_the_papers_places(config: str, places: list[str]) -> None:
    rows = model_costs(load_cfg(str(CONFIGS / f"{config}.yaml")))["nonlocal_blocks"]
    assert [row["name"] for row in rows] == [f"{place}.nonlocal_block" for place in places]
    assert [row["T x H x W"] for row in rows] == ["50 x 68" if "layer" in place else "14 x 14" for place in places]


def test_the_block_of_the_backbone_costs_less_than_5_percent() -> None:
    gmacs = [model_costs(load_cfg(str(CONFIGS / f"mask_rcnn_r50{end}.yaml")))["gmacs"] for end in ("", "_nl")]
    assert 1.02 < gmacs[1] / gmacs[0] < 1.05


@pytest.mark.parametrize(("changes", "message"), [
    ({"MODEL__NONLOCAL__ENABLED": True}, "MODEL.NONLOCAL.ENABLED is True but BLOCKS is []"),
    ({"MODEL__NONLOCAL__ENABLED": True, "MODEL__NONLOCAL__BLOCKS": ["layer3.1"]},
     "MODEL.NONLOCAL.BLOCKS: got 'layer3.1', allowed: 'layer1.0', "),
    ({"MODEL__NONLOCAL__ENABLED": True, "MODEL__NONLOCAL__BLOCKS": ["layer3.0"] * 2}, "'layer3.0' is given twice"),
    ({"MODEL__BACKBONE__ARCH": "resnext152_32x8d"}, "torchvision has no ResNeXt-152"),
    ({"MODEL__BACKBONE__ARCH": "resnet5"}, "MODEL.BACKBONE.ARCH: got 'resnet5', allowed: 'resnet10'"),
    ({"MODEL__RCNN__ANCHOR_SIZES": [8, 16]}, "MODEL.RCNN.ANCHOR_SIZES: got [8, 16], allowed: 5 sides"),
    ({"MODEL__RCNN__ARGS": [["rpn_batch", 3]]}, "MODEL.RCNN.ARGS: got 'rpn_batch', allowed: rpn_pre_nms_top_n_train"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str, tiny_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(tiny_cfg(**changes))


def test_norms_are_frozen_or_not() -> None:
    from torchvision.ops.misc import FrozenBatchNorm2d

    frozen = _ours("mask", frozen_eps=0.0)
    assert {m.eps for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d)} == {0.0}
    unfrozen = _ours("mask", norm="BN", freeze_at=0)
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in unfrozen.modules())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in unfrozen.modules()) == 20


def test_clips_are_no_images() -> None:
    with pytest.raises(ValueError, match="MaskRCNN takes images"):
        _ours("mask").eval()([{"video": torch.zeros(1, 3, 1, 64, 64), "video_id": "a"}])
