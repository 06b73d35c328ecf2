"""How the views of a test are made, as plain values: what files of features and exported models carry along."""

from typing import Any

from nlvideo.config import CfgNode


def view_recipe(cfg: CfgNode) -> dict[str, Any]:
    """Return what turns a video into the clips that a model is tested on, and their scores into one; plain types only.

    docs/export.md says what each value means, for use without nlvideo.

    Args:
        cfg: of the model.
    """
    return {
        "mapper": cfg.DATALOADER.MAPPER,
        "clip_sampler": cfg.TEST.CLIP_SAMPLER,
        "num_clips": cfg.TEST.NUM_CLIPS,
        "num_frames": cfg.INPUT.NUM_FRAMES,
        "frame_stride": cfg.INPUT.FRAME_STRIDE,
        "short_video": cfg.INPUT.SHORT_VIDEO,
        "short_side": cfg.TEST.SHORT_SIDE,
        "crop_size": cfg.TEST.CROP_SIZE,
        "num_crops": cfg.TEST.NUM_CROPS,
        "flip": cfg.TEST.FLIP,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "average": cfg.TEST.AVERAGE,
        "activation": cfg.MODEL.HEAD.LOSS,
    }
