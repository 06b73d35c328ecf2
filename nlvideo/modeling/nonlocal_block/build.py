"""The registry of non-local blocks, and where they go in a ResNet."""

from collections.abc import Sequence

from torch import nn

from nlvideo.config import CfgNode
from nlvideo.config.configurable import build_registered
from nlvideo.errors import LookupFailed
from nlvideo.utils.messages import did_you_mean
from nlvideo.utils.registry import Registry

NONLOCAL = Registry(
    "NONLOCAL",
    """Residual modules that relate distant positions of a feature map.

    Called as ``cls(cfg, in_channels, stage="res4", **args)``; ``stage`` is the stage of the network that it stands in,
    ``args`` are the pairs of ``MODEL.NONLOCAL.ARGS``. Returns an ``nn.Module`` with ``forward(x: float (N, C, T, H, W))
    -> (N, C, T, H, W)``. Logs and reports find the blocks of a registered class.

    A block may also have: ``algorithm``, where "dense" is counted as the cost; ``algorithm_for(size)``, the algorithm
    that runs on a map of this size; ``attention_size(size)``, sets of positions, queries and keys of each; and
    ``attention(x, positions)``, the weights (N, positions, T', H', W') that are drawn.

    `NonLocalBase` has all that blocks share, and `SoftmaxBase` what a softmax over keys needs. A subclass takes one
    file, a constructor and ``context``: see ``nlvideo/modeling/nonlocal_variants``.
    """,
)

# Residual blocks of ResNet-50. The paper counts the non-local blocks of this network (Table 2c).
R50_BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}


def build_nonlocal_block(cfg: CfgNode, in_channels: int, stage: str = "res4", dim: int = 3) -> nn.Module:
    """The block that ``cfg.MODEL.NONLOCAL.NAME`` names.

    Args:
        cfg: the whole config.
        in_channels: channels of the feature map.
        stage: the stage that the block stands in.
        dim: axes of the map: 3 for video; 2 for images, of which a block that takes them has an argument ``dim``.

    Raises:
        KeyError: the name is not registered.
        ValueError: an argument in ``MODEL.NONLOCAL.ARGS`` that the block does not take, that has a key of its own, or
            whose value is wrong.
    """
    # The place in the network decides the axes.
    place = {"stage": stage} if dim == 3 else {"stage": stage, "dim": dim}
    return build_registered(NONLOCAL, cfg, "MODEL.NONLOCAL", in_channels, reserved=("dim",), **place)


def nonlocal_placement(cfg: CfgNode, blocks_per_stage: dict[str, int]) -> dict[str, list[int]]:
    """Indices of the residual blocks that get a non-local block after them: ``{"res3": [1, 3], "res4": [1, 3, 5]}``.

    ``MODEL.NONLOCAL.BLOCKS`` names the places. Where it is empty, each of ``STAGES`` gets a block after every
    ``EVERY``-th residual block. A stage that is deeper than ResNet-50's gets as many as that one, spread as in the
    authors' code: after blocks 6, 13 and 20 of the 23 in res4 of ResNet-101 (Table 2c: "corresponding" blocks).

    Args:
        cfg: the whole config.
        blocks_per_stage: residual blocks of each stage.

    Returns:
        Stages without a block are left out. Empty where ``ENABLED`` is False.

    Raises:
        KeyError: an unknown stage.
        ValueError: a place that does not exist or is given twice, or no place at all.
    """
    node = cfg.MODEL.NONLOCAL
    if not node.ENABLED:
        return {}
    if node.BLOCKS:
        places = _explicit_places(node.BLOCKS, blocks_per_stage)
    else:
        for stage in node.STAGES:
            _check_stage("MODEL.NONLOCAL.STAGES", stage, blocks_per_stage)
        # In the order of the network, and once even where a stage is listed twice.
        stages = [stage for stage in blocks_per_stage if stage in node.STAGES]
        places = {stage: _regular_places(stage, blocks_per_stage[stage], node.EVERY) for stage in stages}
    places = {stage: indices for stage, indices in places.items() if indices}
    if not places:
        raise ValueError(
            f"MODEL.NONLOCAL.ENABLED is True but STAGES={list(node.STAGES)} with EVERY={node.EVERY} and "
            f"BLOCKS={list(node.BLOCKS)} give no block in a network of {blocks_per_stage} residual blocks"
        )
    return places


def _regular_places(stage: str, num_blocks: int, every: int) -> list[int]:
    usual = R50_BLOCKS.get(stage, num_blocks)
    if num_blocks <= usual:
        return list(range(every - 1, num_blocks, every))
    count = usual // every
    return [num_blocks // count * (i + 1) - 1 for i in range(count)]


def _explicit_places(blocks: Sequence[str], blocks_per_stage: dict[str, int]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {stage: [] for stage in blocks_per_stage}
    for place in blocks:
        stage, _, index = place.partition(".")
        _check_stage("MODEL.NONLOCAL.BLOCKS", stage, blocks_per_stage)
        if not index.isdecimal() or int(index) >= blocks_per_stage[stage]:
            last = blocks_per_stage[stage] - 1
            raise ValueError(f"MODEL.NONLOCAL.BLOCKS: got {place!r}, allowed: {stage}.0 to {stage}.{last}")
        if int(index) in places[stage]:
            raise ValueError(f"MODEL.NONLOCAL.BLOCKS: {place!r} is given twice")
        places[stage].append(int(index))
    return {stage: sorted(indices) for stage, indices in places.items()}


def _check_stage(key: str, stage: str, blocks_per_stage: dict[str, int]) -> None:
    if stage not in blocks_per_stage:
        hint = did_you_mean(stage, blocks_per_stage)
        raise LookupFailed(f"{key}: unknown stage {stage!r}. {hint} Allowed: {', '.join(blocks_per_stage)}")
