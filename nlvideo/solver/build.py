"""Build optimizer, learning-rate schedule and gradient clipping from a configuration."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nlvideo.config import CfgNode
from nlvideo.config.validate import ALLOWED
from nlvideo.layers.norm import BatchNorm
from nlvideo.solver.lr_schedule import IterationLR, lr_factor
from nlvideo.utils.messages import check_one_of

logger = logging.getLogger(__name__)

_NORMS = (
    BatchNorm | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    weight_decay_norm: float,
    lr_factors: Mapping[nn.Parameter, float] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters by the factor on their learning rate, and into those of norms and all others.

    Biases of convolutions and of the classifier decay like their weights, as in the authors' code.

    Args:
        model: parameters that do not require gradients are left out; shared ones appear once.
        weight_decay: of all parameters but those of norms.
        weight_decay_norm: of weight and bias of norms.
        lr_factors: from `learning_rate_factors`; None: 1 for all.

    Returns:
        Groups ``{"params", "weight_decay"}`` as optimizers take them, with "lr_factor" where `lr_factors` were given.

    Raises:
        ValueError: nothing in the model is trainable.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                factor = 1.0 if lr_factors is None else lr_factors[parameter]
                groups[factor, isinstance(module, _NORMS)].append(parameter)
    if not groups:
        raise ValueError("no parameter of the model requires a gradient: nothing to train (MODEL.BACKBONE.FREEZE_AT?)")
    return [
        {
            "params": groups[factor, is_norm],
            "weight_decay": weight_decay_norm if is_norm else weight_decay,
            **({} if lr_factors is None else {"lr_factor": factor}),
        }
        for factor, is_norm in sorted(groups)
    ]


def stages_of(model: nn.Module, key: str) -> dict[str, list[nn.Module]]:
    """Return the stages of a model's backbone, see the `BACKBONE` registry: name -> sub-modules, from the stem on.

    Raises:
        ValueError: the model does not say what its stages are; ``key`` of the config needs them.
    """
    backbone: Any = getattr(model, "backbone", None)
    if not hasattr(backbone, "stages"):
        what = "a model without a backbone" if backbone is None else f"{type(backbone).__name__}, which has no stages()"
        raise ValueError(f"{key}: not possible with {what}, allowed: the default of this key")
    return backbone.stages()


def learning_rate_factors(model: nn.Module, head_factor: float, layer_decay: float) -> dict[nn.Parameter, float] | None:
    """Return the factor on the learning rate of each parameter, and log them; None where all are 1.

    Args:
        model: has a backbone with ``stages()``.
        head_factor: of all that is not the backbone (``SOLVER.HEAD_LR_FACTOR``).
        layer_decay: of the last stage; its square of the stage before, ... (``SOLVER.LAYER_DECAY``).

    Raises:
        ValueError: the model does not say what its stages are.
    """
    if head_factor == layer_decay == 1:
        return None
    stages = stages_of(model, "SOLVER.HEAD_LR_FACTOR" if layer_decay == 1 else "SOLVER.LAYER_DECAY")
    factors = dict.fromkeys(model.parameters(), head_factor)
    shown = {"head": head_factor}
    # From the head backwards. What two stages share learns as in the first of them.
    for depth, (name, modules) in enumerate(reversed(stages.items()), start=1):
        shown[name] = layer_decay**depth
        for module in modules:
            factors.update(dict.fromkeys(module.parameters(), shown[name]))
    text = ", ".join(f"{name} {factor:.4g}" for name, factor in shown.items())
    logger.info("Factors on the learning rate (SOLVER.HEAD_LR_FACTOR, SOLVER.LAYER_DECAY): %s", text)
    return factors


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build ``SOLVER.OPTIMIZER`` over the trainable parameters of ``model``.

    PyTorch keeps the learning rate outside its momentum buffer: the authors' ``SCALE_MOMENTUM`` is not needed.

    Raises:
        ValueError: an unknown optimizer, nothing to train, or factors for the stages of a model that has none.
    """
    solver = cfg.SOLVER
    factors = learning_rate_factors(model, solver.HEAD_LR_FACTOR, solver.LAYER_DECAY)
    groups = parameter_groups(model, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, factors)
    for group in groups if factors else ():
        group["lr"] = solver.BASE_LR * group["lr_factor"]
    # With fused=None PyTorch chooses among the other forms.
    common = {"lr": solver.BASE_LR, "fused": True if solver.FUSED else None}
    check_one_of("SOLVER.OPTIMIZER", solver.OPTIMIZER, ALLOWED["SOLVER.OPTIMIZER"])
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **common)
    else:
        optimizer = torch.optim.AdamW(groups, betas=tuple(solver.BETAS), **common)
    if solver.OPTIMIZER == "SGD" and solver.MOMENTUM:
        for group in groups:
            for parameter in group["params"]:
                # Zeros give the first step that PyTorch makes without them. But where a gradient scaler skips the first
                # step, the fused kernels leave the momentum that PyTorch makes there without any value.
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    optimizer.register_load_state_dict_pre_hook(keep_settings)
    optimizer.register_load_state_dict_post_hook(match_layouts)
    return optimizer


def keep_settings(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Return a saved state with the settings of this optimizer (momentum, weight decay, ...) in place of its own.

    The config says what they are, and the checkpoint where the run was. PyTorch would take both from the checkpoint.

    Raises:
        ValueError: the state is of another kind of optimizer.
    """
    ours, saved = optimizer.param_groups, state_dict["param_groups"]
    if len(ours) != len(saved):
        return None  # PyTorch says what is wrong.
    if any(("betas" in mine) != ("betas" in theirs) for mine, theirs in zip(ours, saved, strict=True)):
        raise ValueError(f"it is not of {type(optimizer).__name__}: SOLVER.OPTIMIZER was another one")
    groups = [{**mine, "params": theirs["params"]} for mine, theirs in zip(ours, saved, strict=True)]
    return {**state_dict, "param_groups": groups}


def match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Bring the state of an optimizer into the memory format of the parameters.

    They differ where a run goes on with another MODEL.CHANNELS_LAST, and fused kernels would mix up their elements.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> IterationLR:
    """Build the schedule of ``SOLVER``; call its ``step()`` after each optimizer step.

    Raises:
        ValueError: a schedule that does not fit into ``SOLVER.MAX_ITER``.
    """
    solver = cfg.SOLVER
    names = {"steps": "STEPS", "gamma": "GAMMA", "end_factor": "END_LR_FACTOR", "warmup_iters": "WARMUP_ITERS"}
    others = {name: solver[key] for name, key in {**names, "start_factor": "WARMUP_FACTOR"}.items()}
    return IterationLR(optimizer, lr_factor(solver.LR_SCHEDULE, solver.MAX_ITER, **others))


def build_gradient_clipper(cfg: CfgNode) -> Callable[[Iterable[nn.Parameter]], Tensor | None] | None:
    """Build ``SOLVER.CLIP_GRADIENTS``; None when it is off.

    Returns:
        A function of the parameters that clips their gradients in place. ``"norm"`` scales all gradients together, so
        that their common norm is at most the maximum, and returns the norm from before. ``"value"`` clamps each element
        and returns None.

    Raises:
        ValueError: an unknown type.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    check_one_of("SOLVER.CLIP_GRADIENTS.TYPE", clip.TYPE, ALLOWED["SOLVER.CLIP_GRADIENTS.TYPE"])
    if clip.TYPE == "norm":
        return partial(nn.utils.clip_grad_norm_, max_norm=clip.MAX)
    return partial(nn.utils.clip_grad_value_, clip_value=clip.MAX)
