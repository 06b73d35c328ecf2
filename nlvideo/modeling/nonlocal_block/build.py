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
    -> (N, C, T, H, W)``. Logs and reports list all modules of a registered class.

    A block may also have: ``algorithm``, its name (costs are counted with "dense"); ``algorithm_for(size)``, the name
    of the algorithm that runs on a map of this size; ``attention_size(size)``, the number of sets of positions, of
    queries in a set and of keys in a set; and ``attention(x, positions)``, the weights (N, positions, T', H', W') for
    pictures.

    `NonLocalBase` has what all blocks share, and `SoftmaxBase` what a softmax over keys needs. A new block is one file:
    a subclass with a constructor and ``context``. Examples are in ``nlvideo/modeling/nonlocal_variants``.
    """,
)

# Residual blocks per stage of ResNet-50. The numbers of non-local blocks in Table 2c of the paper are for this network.
R50_BLOCKS = {"res2": 3, "res3": 4, "res4": 6, "res5": 3}


def build_nonlocal_block(cfg: CfgNode, in_channels: int, stage: str = "res4", dim: int = 3) -> nn.Module:
    """The block that ``cfg.MODEL.NONLOCAL.NAME`` names.

    Args:
        cfg: the whole config.
        in_channels: channels of the feature map.
        stage: the stage that the block stands in.
        dim: axes of the map: 3 for video, 2 for images. With 2, the block must have an argument ``dim``.

    Raises:
        LookupFailed: the name is not registered.
        ValueError: ``MODEL.NONLOCAL.ARGS`` has an argument that the block does not take, one that another config key
            sets, or a wrong value.
    """
    # ``dim`` follows from the network. So ARGS may not set it.
    place = {"stage": stage} if dim == 3 else {"stage": stage, "dim": dim}
    return build_registered(NONLOCAL, cfg, "MODEL.NONLOCAL", in_channels, reserved=("dim",), **place)


def nonlocal_placement(cfg: CfgNode, blocks_per_stage: dict[str, int]) -> dict[str, list[int]]:
    """Indices of the residual blocks that get a non-local block after them: ``{"res3": [1, 3], "res4": [1, 3, 5]}``.

    ``MODEL.NONLOCAL.BLOCKS`` names the places. Where it is empty, each of ``STAGES`` gets a block after every
    ``EVERY``-th residual block. A stage with more residual blocks than in ResNet-50 gets as many non-local blocks as
    that stage of ResNet-50. They are spread as in the authors' code: res4 of ResNet-101 has 23 residual blocks, and
    gets them after 6, 13 and 20, counted from 0 (Table 2c: "corresponding" blocks).

    Args:
        cfg: the whole config.
        blocks_per_stage: residual blocks of each stage.

    Returns:
        Stages without a block are left out. The dict is empty if ``ENABLED`` is False.

    Raises:
        LookupFailed: an unknown stage.
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
        # Stages are in the order of the network. A stage that is listed twice counts once.
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
    # At equal distances.
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
