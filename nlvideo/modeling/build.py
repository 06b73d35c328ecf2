"""From a config to a model on its device."""

import logging

import torch
from torch import nn

from nlvideo.config import CfgNode
from nlvideo.config.validate import check_resolved
from nlvideo.modeling.meta_arch import META_ARCH
from nlvideo.modeling.nonlocal_block.summary import describe_input, format_nonlocal_table, nonlocal_table

_logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model that ``cfg.MODEL`` describes, on ``cfg.MODEL.DEVICE``, and log its non-local blocks.

    A device with a number, such as "cuda:1", becomes the current one of this process.

    Raises:
        KeyError: ``MODEL.META_ARCHITECTURE`` is not registered.
        ValueError: a value of the config is not allowed, or the machine does not have the device.
    """
    check_resolved(cfg, "MODEL.HEAD.NUM_CLASSES")
    device = resolve_device(cfg.MODEL.DEVICE)
    if device.index is not None:
        # PyTorch's random state, pinned memory and peaks of memory are those of the current device.
        torch.cuda.set_device(device)
    model = META_ARCH.get(cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")(cfg).to(device)
    # A model of another META_ARCHITECTURE need not have a backbone, or may take something else than clips.
    network, side = getattr(model, "backbone", None), cfg.INPUT.CROP_SIZE
    clip: torch.Tensor = torch.zeros(1, 3, cfg.INPUT.NUM_FRAMES, side, side)
    if hasattr(model, "example_input"):
        network, clip = model, model.example_input
    if network is not None:
        rows = nonlocal_table(network, clip) if cfg.MODEL.NONLOCAL.ENABLED else []
        # Also without blocks, so that every log says whether they were on.
        _logger.info("For one %s: %s", describe_input(clip), format_nonlocal_table(rows))
    return model


def resolve_device(name: str) -> torch.device:
    """The device that a value of MODEL.DEVICE stands for: "auto" is CUDA where the machine has it, else the CPU.

    Raises:
        ValueError: a CUDA device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "no"
        raise ValueError(f"MODEL.DEVICE: got {name!r}, but this machine has {found} CUDA device(s)")
    return device
