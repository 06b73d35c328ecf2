"""Configuration: the tree of keys, its defaults, how it is loaded, and how classes are built from it."""

from nlvideo.config.configurable import configurable
from nlvideo.config.load import get_cfg, load_cfg
from nlvideo.config.node import CfgNode
from nlvideo.config.reduced import reduced

__all__ = ["CfgNode", "configurable", "get_cfg", "load_cfg", "reduced"]
