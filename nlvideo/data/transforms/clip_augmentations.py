"""The augmentations after scale, crop and flip that a config asks for, in their fixed order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nlvideo.config import CfgNode
from nlvideo.data.transforms.augmentation import draw_box

# Called with uint8 (T, H, W, 3) and the random generator of the clip; returns the same shape. How many numbers it
# draws must not depend on the pixels.
ClipAugmentation = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def build_clip_augmentations(cfg: CfgNode) -> list[ClipAugmentation]:
    """Return what ``cfg.INPUT`` switches on: colour jitter, RandAugment, random erasing, in this order.

    Colours come first, so that they do not measure the borders of moved frames. Erasing comes last, so that nothing
    moves or changes the box.
    """
    found: list[ClipAugmentation] = []
    jitter, ops, erasing = cfg.INPUT.COLOR_JITTER, cfg.INPUT.RAND_AUGMENT, cfg.INPUT.RANDOM_ERASING
    amounts = jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE
    if any(amounts) or ops.NUM_OPS:
        # Imported here, because torchvision takes long to import and most runs do not need it.
        from nlvideo.data.transforms.photometric import ColorJitter, RandAugment

        if any(amounts):
            found.append(ColorJitter(*amounts))
        if ops.NUM_OPS:
            found.append(RandAugment(ops.NUM_OPS, ops.MAGNITUDE, [round(value) for value in cfg.MODEL.PIXEL_MEAN]))
    if erasing.PROB:
        found.append(RandomErasing(erasing.PROB, erasing.AREA_RANGE, erasing.ASPECT_RANGE, erasing.LENGTH_RANGE))
    return found


def augment_clip(
    frames: torch.Tensor, augmentations: Sequence[ClipAugmentation], rng: np.random.Generator
) -> torch.Tensor:
    """Apply augmentations, uint8 (T, H, W, 3) -> uint8 (T, H, W, 3), one after the other.

    Torch computes on one thread, as in a loader's worker: sums of floats depend on the number of threads, and clips
    must not depend on the number of workers.
    """
    if not augmentations:
        return frames
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for augment in augmentations:
            frames = augment(frames, rng)
    finally:
        torch.set_num_threads(threads)
    return frames


@dataclass(frozen=True)
class RandomErasing:
    """Covers a random box of a clip with noise (Zhong et al., AAAI 2020), which hides what is there in every frame.

    Box and noise are the same in all frames that are covered: a consecutive run of them, by default the whole clip.
    """

    prob: float = 0.5  #: probability that a clip is covered at all
    area_range: Sequence[float] = (0.02, 1 / 3)  #: share of a frame's area (torchvision's defaults, as the next)
    aspect_range: Sequence[float] = (0.3, 3.3)  #: width / height
    length_range: Sequence[float] = (1.0, 1.0)  #: share of the clip's frames; below 1 the box becomes a cuboid

    def __call__(self, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return uint8 (T, H, W, 3): a copy if a box is covered, otherwise the input itself."""
        if rng.random() >= self.prob:
            return frames
        num_frames, height, width = frames.shape[:3]
        box = draw_box(height, width, self.area_range, self.aspect_range, rng)
        if box is None:
            return frames
        length = max(1, round(rng.uniform(self.length_range[0], self.length_range[1]) * num_frames))
        first = int(rng.integers(0, num_frames - length, endpoint=True))
        top, left, box_height, box_width = box
        noise = torch.from_numpy(rng.integers(0, 256, size=(box_height, box_width, 3), dtype=np.uint8))
        erased = frames.clone()
        erased[first : first + length, top : top + box_height, left : left + box_width] = noise
        return erased
