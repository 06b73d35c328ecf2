"""Saving, resuming and loading weights."""

from nlvideo.checkpoint.checkpointer import Checkpointer
from nlvideo.checkpoint.weights import LoadReport, load_weights_into, read_checkpoint, weights_of

__all__ = ["Checkpointer", "LoadReport", "load_weights_into", "read_checkpoint", "weights_of"]
