"""Which positions attend to which, and how a feature map is folded into sets of positions.

A map of 1 or 2 axes counts as a video with one frame (and one row). All positions of a set attend to each other:

| attend | a set | sets per clip |
|---|---|---|
| "spacetime" | all positions of T / temporal_groups consecutive frames | temporal_groups |
| "space" | all positions of one frame | T |
| "time" | one place (h, w) over T / temporal_groups consecutive frames | temporal_groups H W |

Legend of shape suffixes: N clips, D channels, T, H, W axes, B = N x sets per clip, P positions of a set, K chosen
positions, G groups of frames.
"""

from collections.abc import Sequence
from numbers import Integral

import torch

from nlvideo.config.validate import ALLOWED

ATTEND = ALLOWED["MODEL.NONLOCAL.ATTEND"]
Size = tuple[int, int, int]


def video_size(x: torch.Tensor) -> Size:
    """(T, H, W) of a map of 1, 2 or 3 axes after (N, C)."""
    T, H, W = (1,) * (5 - x.dim()) + tuple(x.shape[2:])
    return T, H, W


def num_groups(attend: str, temporal_groups: int, num_frames: int) -> int:
    """Groups of frames; a position attends only inside its own group.

    Raises:
        ValueError: where the frames do not split into ``temporal_groups``.
    """
    if attend == "space":
        return num_frames
    if num_frames % temporal_groups:
        raise ValueError(f"temporal_groups={temporal_groups} does not divide the {num_frames} frames of the map")
    return temporal_groups


def fold(u: torch.Tensor, attend: str, temporal_groups: int) -> torch.Tensor:
    """(N, D, T, H, W) or fewer axes -> (B, P, D): one row of the batch for each set.

    Args:
        u: queries, keys or values as a map.
        attend: "space", "time" or "spacetime".
        temporal_groups: G.
    """
    T, H, W = video_size(u)
    G = num_groups(attend, temporal_groups, T)
    u = u.reshape(*u.shape[:2], G, T // G, H, W)
    if attend == "time":
        return u.permute(0, 2, 4, 5, 3, 1).reshape(-1, T // G, u.shape[1])
    return u.permute(0, 2, 3, 4, 5, 1).reshape(-1, T // G * H * W, u.shape[1])


def unfold(y_BPD: torch.Tensor, x: torch.Tensor, attend: str, temporal_groups: int) -> torch.Tensor:
    """(B, P, D) -> (N, D, T, H, W): the inverse of ``fold``, onto the grid of ``x``.

    Args:
        y_BPD: one row of the batch for each set.
        x: a map of the wanted batch, axes and sizes.
        attend: as in ``fold``.
        temporal_groups: as in ``fold``.
    """
    T, H, W = video_size(x)
    N, D, G = x.shape[0], y_BPD.shape[2], num_groups(attend, temporal_groups, T)
    if attend == "time":
        y = y_BPD.view(N, G, H, W, T // G, D).permute(0, 5, 1, 4, 2, 3)
    else:
        y = y_BPD.view(N, G, T // G, H, W, D).permute(0, 5, 1, 2, 3, 4)
    return y.reshape(N, D, *x.shape[2:])


def locate(positions: Sequence[int | Sequence[int]], size: Sequence[int]) -> torch.Tensor:
    """Flat indices of chosen positions: int64 (K,).

    Args:
        positions: flat indices, or tuples with one index per axis, e.g. (t, h, w).
        size: lengths of the axes.

    Raises:
        ValueError: for a position outside the map.
    """
    flat = []
    for position in positions:
        if isinstance(position, (int, Integral)):
            coordinates, lengths = [int(position)], [torch.Size(size).numel()]
        else:
            coordinates, lengths = [int(index) for index in position], list(size)
        if len(coordinates) != len(lengths) or not all(0 <= c < n for c, n in zip(coordinates, lengths, strict=True)):
            raise ValueError(f"position {position!r} is not in a map of {' x '.join(map(str, size))}")
        index = 0
        for coordinate, length in zip(coordinates, lengths, strict=True):
            index = index * length + coordinate
        flat.append(index)
    return torch.tensor(flat, dtype=torch.int64)


def attended(flat_K: torch.Tensor, size: Size, key_size: Size, attend: str, temporal_groups: int) -> torch.Tensor:
    """Which keys each chosen position attends to: bool (K, T, H', W').

    Args:
        flat_K: flat indices of the positions.
        size: (T, H, W) of their map.
        key_size: (T, H', W') of the keys' map.
        attend: as in ``fold``.
        temporal_groups: as in ``fold``.
    """
    T, H, W = size
    frames_per_group = T // num_groups(attend, temporal_groups, T)
    t_K, h_K, w_K = flat_K // (H * W), flat_K // W % H, flat_K % W
    key_t, key_h, key_w = (torch.arange(n, device=flat_K.device) for n in key_size)
    same_group = (t_K[:, None] // frames_per_group == key_t // frames_per_group)[:, :, None, None]
    mask = same_group.expand(-1, -1, *key_size[1:])
    if attend == "time":
        mask = mask & (h_K[:, None] == key_h)[:, None, :, None] & (w_K[:, None] == key_w)[:, None, None, :]
    return mask


def with_offsets(
    theta: torch.Tensor, phi: torch.Tensor, table: torch.Tensor, num_heads: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys whose product is theta_i . (phi_j + the sum over the axes of r[offset of j from i]).

    A query gets theta_i . r for each place that a key may have along an axis, and a key gets 1 at its own place and 0
    at the others. So the product has the term without a tensor of pairs: T' + H' + W' channels more per head.

    Args:
        theta: (N, D, T, H, W) or fewer axes.
        phi: (N, D, T', H', W'); a pooled key is where the first of its positions is.
        table: r, (axes, 2 R + 1, D): offsets -R to R of each axis. Larger ones count as R.
        num_heads: the channels are so many groups, each with its own product.

    Returns:
        (N, D + heads (T' + H' + W'), T, H, W), and the same for the keys.
    """
    theta, phi = (u.unflatten(1, (num_heads, -1)) for u in (theta, phi))
    largest, axes = table.shape[1] // 2, "thw"[: theta.dim() - 3]
    queries, keys = [theta], [phi]
    for axis, name in enumerate(axes):
        length, count = theta.shape[3 + axis], phi.shape[3 + axis]
        query_L, key_K = torch.arange(length, device=theta.device), torch.arange(count, device=theta.device)
        offset_LK = (key_K * (length // count) - query_L[:, None]).clamp(-largest, largest) + largest
        r_LKGD = table[axis][offset_LK].unflatten(2, (num_heads, -1)).to(theta.dtype)
        queries.append(torch.einsum(f"ngd{axes},{name}kgd->ngk{axes}", theta, r_LKGD))
        own = torch.eye(count, dtype=phi.dtype, device=phi.device)
        shape = [count if i in (0, axis + 1) else 1 for i in range(len(axes) + 1)]
        keys.append(own.view(shape).expand(*phi.shape[:2], count, *phi.shape[3:]))
    return torch.cat(queries, 2).flatten(1, 2), torch.cat(keys, 2).flatten(1, 2)


def split_heads(u_BPD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, P, heads x D) -> (B x heads, P, D): each head as a set of its own."""
    return u_BPD if num_heads == 1 else u_BPD.unflatten(2, (num_heads, -1)).transpose(1, 2).flatten(0, 1)


def join_heads(u_BPD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B x heads, P, D) -> (B, P, heads x D): the inverse of ``split_heads``."""
    return u_BPD if num_heads == 1 else u_BPD.unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2)
