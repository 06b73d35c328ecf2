"""Where chosen positions of a clip attend: rows of a non-local block's matrix, on the frames that the network saw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from nlvideo.evaluation.inference import eval_mode
from nlvideo.visualization.blocks import Preprocess, block_input, decision_gradient, find_block, query_grid
from nlvideo.visualization.grid import Grid, Point, Size, pooled

# Fig. 3: "the 20 highest weighted arrows for each x_i". Fewer are shown where they have this share of the weight.
NUM_ARROWS, SHARE = 20, 0.9


@dataclass(frozen=True)
class AttentionMaps:
    """Weights f(x_i, x_j) / C(x) of chosen query positions i over all keys j of a clip.

    Weights are 0 where a query does not attend. Those of the Gaussian forms sum to 1; those of the dot product may be
    negative.
    """

    block: str  #: short name of the block, e.g. "res3.1"
    pairwise: str  #: its pairwise function; "" for a block that has none of that name
    positions: torch.Tensor  #: float (K, 3), the queries' (t, y, x): sampled frame, and pixels of ``frames``
    weights: torch.Tensor  #: float32 (K, T', H', W') on the grid of the keys
    frames: np.ndarray  #: uint8 (T, H, W, 3), as the network saw them
    queries: Grid  #: of the block's input
    keys: Grid  #: of the (pooled) keys


@dataclass(frozen=True)
class TopKeys:
    """The keys of one query with the highest weights, highest first."""

    cells: torch.Tensor  #: int64 (n, 3), (t', h', w') on the grid of the keys
    centres: torch.Tensor  #: float (n, 3), (t, y, x) of the centres of their windows in the clip
    weights: torch.Tensor  #: float32 (n,), all above 0
    share: float  #: of the weight above 0 of all keys, the part that these have, 0 to 1


def attend(
    model: nn.Module,
    sample_video: torch.Tensor,
    block: str | None,
    positions: Sequence[Sequence[float]],
    *,
    preprocess: Preprocess | None = None,
) -> AttentionMaps:
    """Say where positions of a clip attend. Only their rows of the P x Q matrix are computed.

    Args:
        model: a `VideoClassifier`, or any network with non-local blocks that takes one tensor. It runs in eval mode, on
            its own device, as far as the block.
        sample_video: (C, T, H, W), C = 3 or 1, uint8: the clip as the model gets it, cropped and resized. Floats are
            taken as the input of the network, and shown from their least to their largest value.
        block: name of the block, see `find_block`; None: the first.
        positions: (t, y, x) for each query: sampled frame, and pixels of the frame.
        preprocess: turns uint8 (1, C, T, H, W) into the input of a network that is no `VideoClassifier`; None: divides
            by 255. A network of images (blocks with ``dim=2``) gets the frames as a batch, (T, C, H, W).

    Raises:
        ValueError: a position outside the clip, or a network or block that cannot be shown.
        LookupFailed: there is no such block.
    """
    name, module = find_block(model, block)
    frames = as_frames(sample_video)
    x = block_input(model, module, sample_video, preprocess)
    queries = query_grid(model, module, sample_video, x, preprocess)
    cells = [queries.cell(position) for position in positions]
    with eval_mode(model):
        weights = _rows(module, x, cells).float().cpu()
    return AttentionMaps(
        block=name,
        pairwise=getattr(module, "pairwise", ""),
        positions=torch.tensor([list(position) for position in positions], dtype=torch.float32).view(-1, 3),
        weights=weights,
        frames=frames,
        queries=queries,
        keys=pooled(queries, tuple(weights.shape[1:])),
    )


def top_keys(maps: AttentionMaps, k: int = NUM_ARROWS, share: float = SHARE) -> list[TopKeys]:
    """The keys of every query with the highest weights (Fig. 3), wherever they are in space and time.

    As few are taken as have ``share`` of the weight, and at most ``k``. Only weights above 0 count: a key of weight 0
    adds nothing to the response, and one of negative weight (dot product) is subtracted from it.

    Raises:
        ValueError: ``k`` below 1, or ``share`` not above 0 and up to 1.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, allowed: 1 or more")
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}, allowed: above 0 and up to 1")
    return [top_cells(row, maps.keys, k, share) for row in maps.weights]


def top_cells(row: torch.Tensor, grid: Grid, k: int = NUM_ARROWS, share: float = SHARE) -> TopKeys:
    """The cells of the highest weights of one map (T', H', W'); see `top_keys`."""
    weights, flat = row.flatten().sort(descending=True, stable=True)
    weights = weights[weights > 0]
    sums = weights.double().cumsum(0)
    total = float(sums[-1]) if len(sums) else 1.0
    # A key is needed where those before it do not reach the share.
    count = min(k, int((sums - weights < share * total).sum()))
    cells = torch.stack(torch.unravel_index(flat[:count], row.shape), dim=1)
    centres = torch.tensor([grid.centre(cell) for cell in cells.tolist()]).view(-1, 3)
    return TopKeys(cells, centres, weights[:count], float(sums[count - 1]) / total if count else 0.0)


def chosen_positions(
    model: nn.Module, video: torch.Tensor, block: str | None, count: int, *, preprocess: Preprocess | None = None
) -> list[Point]:
    """Choose the positions where what a block adds to its input, z_i - x_i (Eq. 6), changes the decision most.

    The decision is how far the best class is ahead of the second: the difference of their logits, or of the logarithms
    of their probabilities. The change at a position is the absolute product of z_i - x_i with the decision's gradient
    at z_i: to first order, what is lost where the block leaves x_i as it is. All positions together cost one pass
    forward and one backward. Equal changes, and all where the network returns no scores, are ordered by the length of
    z_i - x_i.

    Args:
        model, video, block, preprocess: as in `attend`; the model runs to its end, and returns scores (N, K).
        count: how many.

    Returns:
        (t, y, x) in the clip, whole frames and pixels: the middles of cells. The largest change comes first. Positions
        near a chosen one, within a quarter of the map's short side in any frame, come after all others.

    Raises:
        ValueError: ``count`` is not between 1 and the cells of the map, or the block adds nothing anywhere.
        LookupFailed: there is no such block.
    """
    name, module = find_block(model, block)
    x, z, gradient = decision_gradient(model, module, video, preprocess)
    grid = query_grid(model, module, video, x, preprocess)
    added = (z - x).float()
    length, change = added.norm(dim=1).flatten(), (added * gradient).sum(dim=1).abs().flatten()
    if not 1 <= count <= len(length):
        raise ValueError(f"count: got {count}, allowed: 1 to {len(length)}, the positions of {name}")
    if not length.any():
        raise ValueError(f"non-local block {name} adds nothing to its input: it is untrained, or the weights lack it")
    order = length.argsort(descending=True, stable=True)
    order = order[change[order].argsort(descending=True, stable=True)]
    cells = torch.stack(torch.unravel_index(order, grid.size), dim=1)
    reach = min(grid.size[1:]) / 4
    chosen: list[tuple[int, ...]] = []
    late: list[tuple[int, ...]] = []
    for cell in map(tuple, cells.tolist()):
        near = any(max(abs(a - b) for a, b in zip(cell[1:], other[1:], strict=True)) <= reach for other in chosen)
        (late if near else chosen).append(cell)
    # A window of 8 pixels has its centre between two of them: whole pixels are named.
    return [(grid.shown_frame(cell[0]), *map(int, grid.centre(cell)[1:])) for cell in (chosen + late)[:count]]


def _rows(block: nn.Module, x: torch.Tensor, cells: list[Size]) -> torch.Tensor:
    """Weights (K, T', H', W') of query cells."""
    attention: Any = getattr(block, "attention", None)
    if attention is None:
        raise ValueError(f"{type(block).__name__} has no attention(x, positions): its weights cannot be shown")
    if x.dim() == 5:
        return attention(x, cells)[0]
    # Frames are a batch: a query attends to its own frame.
    rows = []
    for t, h, w in cells:
        row = attention(x[t : t + 1], [(h, w)])[0, 0]
        rows.append(row.new_zeros(x.shape[0], *row.shape).index_copy(0, torch.tensor([t], device=x.device), row[None]))
    return torch.stack(rows)


def as_frames(video: torch.Tensor) -> np.ndarray:
    """(C, T, H, W) -> uint8 (T, H, W, 3); floats from their least to their largest value.

    Raises:
        ValueError: another shape.
    """
    if video.dim() != 4 or video.shape[0] not in (1, 3):
        raise ValueError(f"sample_video: got {tuple(video.shape)}, allowed: (C, T, H, W) with C = 3 or 1")
    frames = video.detach().cpu().permute(1, 2, 3, 0)
    if frames.is_floating_point():
        low, high = frames.min(), frames.max()
        frames = (255 * (frames - low) / (high - low).clamp(min=1e-12)).round()
    return np.ascontiguousarray(frames.to(torch.uint8).expand(*frames.shape[:3], 3).numpy())
