"""Pictures of what a network does. Reads files and tensors; nothing in the library imports it."""

from nlvideo.visualization.attention import AttentionMaps, TopKeys, attend, chosen_positions, top_keys
from nlvideo.visualization.blocks import find_block
from nlvideo.visualization.gradcam import ClassMaps, grad_cam
from nlvideo.visualization.pictures import draw_film_strip, draw_heat_strip, heated_frames, overlay_frames
from nlvideo.visualization.video_file import write_video
from nlvideo.visualization.view import View, describe, describe_class, load_view, load_views

__all__ = [
    "AttentionMaps",
    "ClassMaps",
    "TopKeys",
    "View",
    "attend",
    "chosen_positions",
    "describe",
    "describe_class",
    "draw_film_strip",
    "draw_heat_strip",
    "find_block",
    "grad_cam",
    "heated_frames",
    "load_view",
    "load_views",
    "overlay_frames",
    "top_keys",
    "write_video",
]
