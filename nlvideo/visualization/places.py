"""The figures of the pictures, as JSON: where each query attends, in the network's view and in the video."""

from typing import Any

from nlvideo.visualization.attention import NUM_ARROWS, AttentionMaps, top_keys
from nlvideo.visualization.view import View


def describe(maps: AttentionMaps, view: View, k: int = NUM_ARROWS) -> dict[str, Any]:
    """Queries and their keys of the highest weights, in numbers.

    Args:
        maps: from `attend`, of the clip of ``view``.
        view: from `load_view`.
        k: keys for each query, at most; see ``top_keys``.

    Returns:
        ``{"block", "pairwise", "num_keys", "queries": [{**place, "share", "keys": [{"weight", **place}]}]}``; the share
        is what the keys have of all weight above 0. A place is
        ``"shown": [t, y, x]`` in sampled frames and pixels of the view, of a key the centre of its window, and
        ``"video": [frame, y, x]``: the index in the file of the frame that stands for it, and pixels there.
    """
    queries = []
    for position, found in zip(maps.positions.tolist(), top_keys(maps, k)):
        keys = []
        for cell, centre, weight in zip(found.cells.tolist(), found.centres.tolist(), found.weights.tolist()):
            keys.append({"weight": weight, **_place(view, maps.keys.shown_frame(cell[0]), centre)})
        place = _place(view, int(position[0]), position)
        queries.append({**place, "share": round(found.share, 4), "keys": keys})
    return {"block": maps.block, "pairwise": maps.pairwise, "num_keys": maps.weights[0].numel(), "queries": queries}


def _place(view: View, frame: int, point: list[float]) -> dict[str, list[float]]:
    y, x = view.to_file(point[1], point[2])
    return {"shown": [round(v, 3) for v in point], "video": [view.frames[frame], round(y, 3), round(x, 3)]}
