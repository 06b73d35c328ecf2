"""The augmentations after scale, crop and flip that a config asks for, in their fixed order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from nlvideo.config import CfgNode
from nlvideo.data.transforms.random_boxes import RandomErasing

# Called with uint8 (T, H, W, 3) and the clip's source of chance; returns the same shape. All chance comes from there,
# and nothing is drawn that depends on the pixels.
ClipAugmentation = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


def build_clip_augmentations(cfg: CfgNode) -> list[ClipAugmentation]:
    """Return what ``cfg.INPUT`` switches on: colour jitter, RandAugment, random erasing, in this order; by default none.

    Colours first, so that no frame's border takes part in what is measured; erasing last, so that nothing moves or
    changes the box.
    """
    found: list[ClipAugmentation] = []
    jitter, ops, erasing = cfg.INPUT.COLOR_JITTER, cfg.INPUT.RAND_AUGMENT, cfg.INPUT.RANDOM_ERASING
    if any((jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE)):
        # Here, because torchvision takes long to import and most runs do without.
        from nlvideo.data.transforms.photometric import ColorJitter

        found.append(ColorJitter(jitter.BRIGHTNESS, jitter.CONTRAST, jitter.SATURATION, jitter.HUE))
    if ops.NUM_OPS:
        from nlvideo.data.transforms.rand_augment import RandAugment

        found.append(RandAugment(ops.NUM_OPS, ops.MAGNITUDE, [round(value) for value in cfg.MODEL.PIXEL_MEAN]))
    if erasing.PROB:
        found.append(RandomErasing(erasing.PROB, erasing.AREA_RANGE, erasing.ASPECT_RANGE, erasing.LENGTH_RANGE))
    return found


def augment_clip(
    frames: torch.Tensor, augmentations: Sequence[ClipAugmentation], rng: np.random.Generator
) -> torch.Tensor:
    """Apply augmentations, uint8 (T, H, W, 3) -> uint8 (T, H, W, 3), one after the other."""
    if not augmentations:
        return frames
    with one_thread():
        for augment in augmentations:
            frames = augment(frames, rng)
    return frames


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, as in a loader's worker.

    Sums of floats depend on how many threads share them, and so would the stream on the number of workers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
