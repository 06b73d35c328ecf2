"""Optimizers, learning-rate schedules, gradient clipping and weight averaging."""

from nlvideo.solver.build import build_gradient_clipper, build_lr_scheduler, build_optimizer, parameter_groups
from nlvideo.solver.ema import ModelEma
from nlvideo.solver.lr_schedule import IterationLR, lr_factor
from nlvideo.solver.world_size import scale_to_world_size

__all__ = [
    "IterationLR",
    "ModelEma",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "lr_factor",
    "parameter_groups",
    "scale_to_world_size",
]
