"""Every exception class of nlvideo, and errors as other processes get them. Nothing here imports torch or PyAV."""

import pickle
import sys


class LookupFailed(KeyError):
    """A name that does not exist. Unlike its base class it prints its message as written, without quotes."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class VideoDecodeError(RuntimeError):
    """A video that cannot be read. It pickles across workers.

    Attributes:
        path: the video.
        reason: why it cannot be read.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoTooShort(ValueError):
    """A video has fewer frames than a clip needs, and the policy for short videos is "error".

    Attributes:
        num_video_frames: of the video, at ``fps`` frames per second; 0.0: at the video's own rate.
        needed: frames of that rate that a clip covers.
    """

    def __init__(self, num_video_frames: int, needed: int, fps: float = 0.0):
        super().__init__(num_video_frames, needed, fps)
        self.num_video_frames, self.needed, self.fps = num_video_frames, needed, fps

    def __str__(self) -> str:
        rate = f" at {self.fps:g} per second" if self.fps else ""
        return f"the video has {self.num_video_frames} frames{rate}, a clip needs {self.needed}"


class AnnotationError(ValueError):
    """An annotation file that is damaged, incomplete or of another dataset."""


class WorkerDied(RuntimeError):
    """A process that reads data was ended by the system or by a crash of the decoder, or has stopped working."""


class ProcessDied(Exception):
    """The process that worked on an item ended without a result: it crashed, or the system ran out of memory."""


class TimeLimitExceeded(Exception):
    """The work made no progress during the time it was given."""


class TrainingInterrupted(Exception):
    """The loop ended early because it was asked to; the state is saved."""


class TooManyFailedVideos(RuntimeError):
    """More training videos than the run allows could not be read."""


class UploadFailed(RuntimeError):
    """The run is done, but not all of its results are in the object storage of ``OUTPUT_DIR``."""


class UnexpectedResults(Exception):
    """The results are not those of ``TEST.EXPECTED_RESULTS``."""


class RankFailed(RuntimeError):
    """A spawned rank ended with an error, and the other ranks were ended too.

    Attributes:
        exit_code: what the script should end with.
        trace: the traceback in that rank; empty for an error that its message explains.
    """

    def __init__(self, message: str, exit_code: int, trace: str = ""):
        super().__init__(message, exit_code, trace)
        self.exit_code = exit_code
        self.trace = trace

    def __str__(self) -> str:
        return self.args[0]


#: Mistakes in what the user gave, whose text says all; subclasses count.
FORESEEN = (ValueError, KeyError, OSError, ImportError)
#: Runs that failed, whose text says all; subclasses count.
RUN_ERRORS = (FloatingPointError, TooManyFailedVideos, UnexpectedResults, UploadFailed, WorkerDied)
# Errors that can be made from a text alone. Their subclasses often cannot, such as UnicodeDecodeError.
_FROM_TEXT = (LookupFailed, ValueError, OSError, ImportError, FloatingPointError, MemoryError, RuntimeError)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is PyTorch's for a device without enough memory."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process: the same, or its text in the nearest class that pickles.

    An error that cannot be unpickled would end the queue that carries it.
    """
    try:
        copy = pickle.loads(pickle.dumps(error))
        whole = type(copy) is type(error) and str(copy) == str(error)
    except Exception:
        whole = False
    if whole:
        return error
    kind = next((kind for kind in _FROM_TEXT if isinstance(error, kind)), RuntimeError)
    return kind(f"{type(error).__name__}: {error}")
