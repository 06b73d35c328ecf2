"""What only the tools need. It is imported as ``nlvideo.tools.lib``."""
