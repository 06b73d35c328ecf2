"""Saving, resuming and loading weights, of our own and of other frameworks."""

from nlvideo.checkpoint.catalog import resolve_weights
from nlvideo.checkpoint.checkpointer import Checkpointer, last_checkpoint_in
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.checkpoint.trained import load_model_for_test
from nlvideo.checkpoint.weights import LoadReport, load_weights, load_weights_into, weights_of

__all__ = [
    "Checkpointer",
    "LoadReport",
    "last_checkpoint_in",
    "load_model_for_test",
    "load_weights",
    "load_weights_into",
    "read_file",
    "resolve_weights",
    "weights_of",
]
