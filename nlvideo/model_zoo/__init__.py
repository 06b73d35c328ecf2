"""Configurations by name."""

from nlvideo.model_zoo.model_zoo import get_config, get_config_file, list_configs, list_networks

__all__ = ["get_config", "get_config_file", "list_configs", "list_networks"]
