"""A page to try a model on: drop a video, see its classes, its moments, and what attends to what.

The parts from the inside out: ``uploads``, ``moments`` (what is asked of the model), ``handlers`` (what a click does)
and ``page`` (Gradio). Only the last one needs the extra ``demo``.
"""

from nlvideo.visualization.demo.examples import ABOUT_EXAMPLES, are_of_beacon, write_examples
from nlvideo.visualization.demo.handlers import Demo
from nlvideo.visualization.demo.moments import Inspector
from nlvideo.visualization.demo.page import ended_by_signal, free_port, start
from nlvideo.visualization.demo.uploads import Limits, UploadFolder

__all__ = [
    "ABOUT_EXAMPLES",
    "Demo",
    "Inspector",
    "Limits",
    "UploadFolder",
    "are_of_beacon",
    "ended_by_signal",
    "free_port",
    "start",
    "write_examples",
]
