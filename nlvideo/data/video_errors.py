"""The one error for everything that can be wrong with a video."""


class VideoDecodeError(RuntimeError):
    """A video that cannot be read; ``path`` says which one and ``reason`` why. It pickles across workers."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
