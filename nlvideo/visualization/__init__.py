"""Pictures of what a network does. Reads files and tensors; nothing in the library imports it."""

from nlvideo.visualization.attention import AttentionMaps, TopKeys, attend, chosen_positions, top_keys
from nlvideo.visualization.blocks import find_block
from nlvideo.visualization.pictures import draw_film_strip, heated_frames, overlay_frames
from nlvideo.visualization.video_file import write_video
from nlvideo.visualization.view import View, describe, load_view, load_views

__all__ = [
    "AttentionMaps",
    "TopKeys",
    "View",
    "attend",
    "chosen_positions",
    "describe",
    "draw_film_strip",
    "find_block",
    "heated_frames",
    "load_view",
    "load_views",
    "overlay_frames",
    "top_keys",
    "write_video",
]
