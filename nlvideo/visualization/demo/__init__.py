"""A page to try a model on: drop a video, see its classes, its moments, and what attends to what.

The parts from the inside out: ``limits`` (what may be uploaded) and ``uploads`` (where it goes, and that it goes),
``moments`` (what is asked of the model), ``handlers`` (what a click does), ``page``
and ``server`` (Gradio). Only the last two need the extra ``demo``.
"""

from nlvideo.visualization.demo.examples import ABOUT_EXAMPLES, are_of_beacon, write_examples
from nlvideo.visualization.demo.handlers import Demo
from nlvideo.visualization.demo.limits import Limits
from nlvideo.visualization.demo.moments import Inspector
from nlvideo.visualization.demo.server import ended_by_signal, free_port, is_private, start
from nlvideo.visualization.demo.uploads import UploadFolder

__all__ = [
    "ABOUT_EXAMPLES",
    "Demo",
    "Inspector",
    "Limits",
    "UploadFolder",
    "are_of_beacon",
    "ended_by_signal",
    "free_port",
    "is_private",
    "start",
    "write_examples",
]
