"""torchvision's detectors with non-local blocks in the backbone and in the heads."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import faster_rcnn, keypoint_rcnn, mask_rcnn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops.misc import FrozenBatchNorm2d

from nlvideo.config import CfgNode, configurable
from nlvideo.config.node import coerce
from nlvideo.config.validate import ALLOWED
from nlvideo.layers.norm import sync_norms
from nlvideo.modeling import META_ARCH
from nlvideo.modeling.backbone.resnet3d import freeze_stages
from nlvideo.modeling.nonlocal_block import NonLocalBlock, build_nonlocal_block, insert_nonlocal
from nlvideo.utils.messages import check_one_of, did_you_mean
from nonlocal_rcnn import weights as weight_names

# torchvision's ResNets with a residual block of two 3x3 convolutions in each stage, for small images.
_SMALL = "resnet10"
ARCHITECTURES = (
    _SMALL, "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
_STAGES = ("layer1", "layer2", "layer3", "layer4")


class PyramidBackbone(BackboneWithFPN):
    """A ResNet of torchvision with a feature pyramid, and the names of its stages.

    Args:
        body: the ResNet.
        channels: of each level of the pyramid.
    """

    def __init__(self, body: nn.Module, channels: int):
        layers = {name: str(level) for level, name in enumerate(_STAGES)}
        widths = [_out_channels(getattr(body, name)) for name in _STAGES]
        super().__init__(body, layers, widths, channels)

    def stages(self) -> dict[str, list[nn.Module]]:
        """The modules of each stage, from the stem on; the pyramid is in none."""
        return {"stem": [self.body["conv1"], self.body["bn1"]], **{name: [self.body[name]] for name in _STAGES}}


class RegionDetector(GeneralizedRCNN):
    """A detector of torchvision that takes the batches of the trainer. Its parameters have torchvision's names.

    Training batches hold "images", uint8 (3, H, W) of any sizes, and "targets", which are torchvision's. At test it
    takes a list of ``{"image", "video_id"}`` and returns a list of ``{"video_id", "detections"}``; detections are
    torchvision's dict, on the CPU, whose "labels" count from 1.

    Args:
        arch: a name in `ARCHITECTURES`.
        num_classes: without the background.
        norm: of the backbone: "BN", "SyncBN" or "FrozenBN".
        frozen_eps: added to the variance of frozen norms.
        freeze_at: stages of the backbone that do not train, from the stem on (Detectron: 2).
        channels: of the pyramid and of the mask head; four times as many in the box head, twice in the keypoint head.
        anchor_sizes: sides of the anchors, pixels, one for each of the five levels.
        short_side: of test images, pixels; training images come in their size.
        max_size: of the long side, pixels.
        pixel_mean, pixel_std: on the scale 0 to 255.
        num_keypoints: of an object.
        blocks: places of non-local blocks, such as "layer3.4" or "keypoint_head.3".
        make_nonlocal: called ``(channels, stage)`` for each of them; None: a `NonLocalBlock` with its defaults.
        channels_last: keep weights of the backbone in ``torch.channels_last``.
        arguments: numbers that torchvision's ``FasterRCNN`` takes.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    @configurable
    def __init__(
        self,
        *,
        arch: str,
        num_classes: int,
        norm: str = "FrozenBN",
        frozen_eps: float = 1e-5,
        freeze_at: int = 2,
        channels: int = 256,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        short_side: int = 800,
        max_size: int = 1333,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        num_keypoints: int = 17,
        blocks: Sequence[str] = (),
        make_nonlocal: Callable[[int, str], nn.Module] | None = None,
        channels_last: bool = False,
        **arguments: float,
    ) -> None:
        _check_arch(arch)
        if len(anchor_sizes) != len(_STAGES) + 1:
            raise ValueError(f"anchor_sizes: got {list(anchor_sizes)}, allowed: {len(_STAGES) + 1} sides")
        check_one_of("norm", norm, ALLOWED["MODEL.NORM"])
        frozen = partial(FrozenBatchNorm2d, eps=frozen_eps)
        body = _make_resnet(arch, frozen if norm == "FrozenBN" else nn.BatchNorm2d)
        made = self.make_detector(
            PyramidBackbone(sync_norms(body) if norm == "SyncBN" else body, channels),
            channels,
            num_classes,
            num_keypoints,
            rpn_anchor_generator=AnchorGenerator([(side,) for side in anchor_sizes], [(0.5, 1.0, 2.0)] * 5),
            box_head=faster_rcnn.TwoMLPHead(channels * 7 * 7, 4 * channels),
            box_predictor=faster_rcnn.FastRCNNPredictor(4 * channels, num_classes + 1),
            min_size=short_side,
            max_size=max_size,
            image_mean=[value / 255 for value in pixel_mean],
            image_std=[value / 255 for value in pixel_std],
            # Of training images alone.
            _skip_resize=True,
            **arguments,
        )
        super().__init__(made.backbone, made.rpn, made.roi_heads, made.transform)
        self.num_classes = num_classes
        self._insert(blocks, make_nonlocal or (lambda width, stage: NonLocalBlock(width, dim=2)))
        freeze_stages(self.backbone, freeze_at)
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        # A landscape photograph of 4:3, as most of COCO are, with its padding.
        width = 32 * math.ceil(short_side * 4 / 3 / 32)
        self.example_input = torch.zeros(1, 3, short_side, width, dtype=torch.uint8, device="meta")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        model, node = cfg.MODEL, cfg.MODEL.RCNN
        if model.NONLOCAL.ENABLED and not model.NONLOCAL.BLOCKS:
            what = "MODEL.NONLOCAL.ENABLED is True but BLOCKS is []"
            raise ValueError(f"{what}: in a detector it must name sub-modules; STAGES and EVERY do not count")
        return {
            "arch": model.BACKBONE.ARCH,
            "num_classes": model.HEAD.NUM_CLASSES,
            "norm": model.NORM,
            "frozen_eps": node.FROZEN_EPS,
            # Freezing that ends is a hook's.
            "freeze_at": 0 if model.BACKBONE.FREEZE_UNTIL else model.BACKBONE.FREEZE_AT,
            "channels": node.CHANNELS,
            "anchor_sizes": node.ANCHOR_SIZES,
            "short_side": cfg.TEST.SHORT_SIDE,
            "max_size": node.MAX_SIZE,
            "pixel_mean": model.PIXEL_MEAN,
            "pixel_std": model.PIXEL_STD,
            "num_keypoints": node.NUM_KEYPOINTS,
            "blocks": model.NONLOCAL.BLOCKS if model.NONLOCAL.ENABLED else (),
            "make_nonlocal": partial(build_nonlocal_block, cfg, dim=2),
            "channels_last": model.CHANNELS_LAST,
            **_checked(node.ARGS),
        }

    @staticmethod
    def make_detector(
        backbone: nn.Module, channels: int, num_classes: int, num_keypoints: int, **common: Any
    ) -> nn.Module:
        """Make torchvision's detector; ``common`` are arguments that all of them take."""
        raise NotImplementedError

    def forward(self, batch: Any) -> Any:
        """A training batch -> losses; a list of test images -> detections. See the class."""
        samples = batch["images"] if self.training else [sample.get("image") for sample in batch]
        if any(image is None for image in samples):
            raise ValueError(f"{type(self).__name__} takes images, and got something else (DATALOADER.MAPPER?)")
        images = [self._pixels(image) for image in samples]
        if self.training:
            device = images[0].device
            return super().forward(images, [{k: v.to(device) for k, v in t.items()} for t in batch["targets"]])
        found = [{name: value.cpu() for name, value in own.items()} for own in super().forward(images)]
        return [{"video_id": s["video_id"], "detections": own} for s, own in zip(batch, found, strict=True)]

    def forward_clips(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) -> (N, levels): the highest objectness on each level of the pyramid.

        All layers run once, for costs and pictures: the box head on as many made-up regions as a test proposes for an
        image, the other heads on as many as it may detect. Images are not resized.
        """
        pixels = [self.transform.normalize(image) for image in self._pixels(images)]
        features = self.backbone(self.transform.batch_images(pixels, self.transform.size_divisible))
        objectness, _ = self.rpn.head(list(features.values()))
        heads, level = self.roi_heads, features["0"]

        def _regions(count: int, pool: Any) -> torch.Tensor:
            return level.new_zeros(count, level.shape[1], *pool.output_size)

        heads.box_predictor(heads.box_head(_regions(self.rpn._post_nms_top_n["testing"], heads.box_roi_pool)))
        for kind in ("mask", "keypoint"):
            if (head := getattr(heads, f"{kind}_head")) is not None:
                regions = _regions(heads.detections_per_img, getattr(heads, f"{kind}_roi_pool"))
                getattr(heads, f"{kind}_predictor")(head(regions))
        return torch.stack([scores.flatten(1).amax(dim=1) for scores in objectness], dim=1)

    def rename_weights(self, weights: dict[str, Any]) -> dict[str, Any]:
        """Weights of torchvision -> under the names of this model; see `nonlocal_rcnn.weights`."""
        return weight_names.rename_weights(weights, self.num_classes)

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.rpn.head.cls_logits.weight.device, non_blocking=True).float() / 255

    def _insert(self, blocks: Sequence[str], make_nonlocal: Callable[[int, str], nn.Module]) -> None:
        # What BLOCKS calls a place -> the full name of the module before it, and its channels.
        places: dict[str, tuple[str, int]] = {}
        for stage in _STAGES:
            for index, block in enumerate(self.backbone.body[stage]):
                places[f"{stage}.{index}"] = f"backbone.body.{stage}.{index}", _out_channels(block)
        for head in ("mask_head", "keypoint_head"):
            layers = list(getattr(self.roi_heads, head, None) or ())
            for index, layer in enumerate(layers):
                if not isinstance(layer, nn.Conv2d):  # after the ReLU of a convolution
                    width = _out_channels(nn.Sequential(*layers[: index + 1]))
                    places[f"{head}.{index}"] = f"roi_heads.{head}.{index}", width
        for number, name in enumerate(blocks):
            check_one_of("blocks", name, places)
            if name in blocks[:number]:
                raise ValueError(f"blocks: {name!r} is given twice")
        insert_nonlocal(self, {places[n][0]: make_nonlocal(places[n][1], n.partition(".")[0]) for n in blocks})


@META_ARCH.register()
class MaskRCNN(RegionDetector):
    """torchvision's Mask R-CNN with non-local blocks (Table 5); `RegionDetector` has the arguments."""

    @staticmethod
    def make_detector(
        backbone: nn.Module, channels: int, num_classes: int, num_keypoints: int, **common: Any
    ) -> nn.Module:
        """Make torchvision's detector of boxes and masks."""
        return mask_rcnn.MaskRCNN(
            backbone,
            mask_head=mask_rcnn.MaskRCNNHeads(channels, (channels,) * 4, 1),
            mask_predictor=mask_rcnn.MaskRCNNPredictor(channels, channels, num_classes + 1),
            **common,
        )


@META_ARCH.register()
class KeypointRCNN(RegionDetector):
    """torchvision's Keypoint R-CNN with non-local blocks (Table 6); `RegionDetector` has the arguments."""

    @staticmethod
    def make_detector(
        backbone: nn.Module, channels: int, num_classes: int, num_keypoints: int, **common: Any
    ) -> nn.Module:
        """Make torchvision's detector of boxes and keypoints."""
        return keypoint_rcnn.KeypointRCNN(
            backbone,
            keypoint_head=keypoint_rcnn.KeypointRCNNHeads(channels, (2 * channels,) * 8),
            keypoint_predictor=keypoint_rcnn.KeypointRCNNPredictor(2 * channels, num_keypoints),
            **common,
        )


def _check_arch(arch: str) -> None:
    if arch.startswith("resnext152"):
        reason = "torchvision has no ResNeXt-152, the backbone of the last rows of Table 5"
        raise ValueError(f"arch: got {arch!r}, allowed: {', '.join(map(repr, ARCHITECTURES))}; {reason}")
    check_one_of("arch", arch, ARCHITECTURES)


def _make_resnet(arch: str, norm: Callable[..., nn.Module]) -> nn.Module:
    if arch == _SMALL:
        return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    return getattr(resnet, arch)(weights=None, norm_layer=norm)


def _out_channels(module: nn.Module) -> int:
    return [layer.out_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]


def _checked(pairs: Sequence[Sequence[Any]]) -> dict[str, float]:
    """The pairs of MODEL.RCNN.ARGS in the types of torchvision's defaults."""
    parameters = inspect.signature(faster_rcnn.FasterRCNN.__init__).parameters
    known = {name: p.default for name, p in parameters.items() if isinstance(p.default, (int, float))}
    allowed = {name: default for name, default in known.items() if name not in ("min_size", "max_size")}
    for name, _ in pairs:
        if name not in allowed:
            hint = did_you_mean(str(name), allowed)
            raise ValueError(f"MODEL.RCNN.ARGS: got {name!r}, allowed: {', '.join(allowed)}. {hint}".rstrip(" ."))
    return {name: coerce(value, allowed[name], f"MODEL.RCNN.ARGS: {name}") for name, value in pairs}
