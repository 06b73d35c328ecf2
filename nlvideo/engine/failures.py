"""Training videos that cannot be read: each is recorded once, and too many of them end the run."""

import logging
import os
from collections.abc import Callable
from typing import Any

from nlvideo.engine.checkpoint_hooks import PeriodicCheckpointer
from nlvideo.engine.hooks import total_over_ranks
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.errors import TooManyFailedVideos
from nlvideo.utils import comm
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

# Listing more than these on one line does not help.
_MAX_LISTED = 20


class FailedVideos(HookBase):
    """Logs each training video that cannot be read once, keeps the list in a file, and ends the run if there are many.

    Files are counted over all ranks, and each only once however often it is drawn. Must come before the hook that saves
    checkpoints, so that a resumed run knows them all. Without the number of training videos there is no limit.

    Args:
        path: a JSON file, ``{"num_videos": int, "failed": [{"file_name", "reason"}, ...]}``. It is written whenever a
            video is added, and removed where a run starts over; None: no file.
        max_fraction: of the training videos that may fail (``DATALOADER.MAX_FAILED_FRACTION``).
        checkpoints: saves the state before the run ends; None: it is lost.
        may_write: whether the file may be replaced now. It may still be that of an earlier run.

    Attributes:
        reasons: why each file failed, by path; in the order in which they were drawn, and the same on every rank.
        num_videos: training videos in all; 0 where the loader does not say.
    """

    trainer: SimpleTrainer

    def __init__(
        self,
        path: str | None = None,
        max_fraction: float = 1.0,
        checkpoints: PeriodicCheckpointer | None = None,
        may_write: Callable[[], bool] = lambda: True,
    ):
        self._path, self._max_fraction, self._checkpoints, self._may_write = path, max_fraction, checkpoints, may_write
        # Whether the file is not what it should be.
        self._is_old = True
        self.reasons: dict[str, str] = {}
        self.num_videos = 0

    def before_train(self) -> None:
        """Count the training videos, and write the file as it was where the run goes on."""
        self.num_videos = self.trainer.dataset_size
        self._write()

    def after_step(self) -> None:
        """Take the step's failures from the trainer.

        Raises:
            TooManyFailedVideos: more than ``max_fraction``, on every rank at the same iteration.
        """
        new = {path: reason for path, reason in self.trainer.failed_files if path not in self.reasons}
        self.trainer.failed_files.clear()
        # Objects are exchanged only where a rank has new ones. The sum tells every rank whether one has.
        if total_over_ranks(len(new)):
            for path, reason in (item for failed in comm.all_gather_object(new) for item in failed.items()):
                if path not in self.reasons:
                    logger.warning("Cannot read %s (%s): replaced by another video", path, reason)
                    self.reasons[path] = reason
            self._is_old = True
        self._write()
        if self.num_videos and len(self.reasons) > self._max_fraction * self.num_videos:
            saved = self._checkpoints.save_now() if self._checkpoints else ""
            self._write()
            listed = some([f"{path} ({reason})" for path, reason in self.reasons.items()], _MAX_LISTED)
            way_on = f". The state is saved as {saved}; --resume with a larger fraction goes on" if saved else ""
            raise TooManyFailedVideos(
                f"{len(self.reasons)} of {self.num_videos} training videos could not be read, more than"
                f" DATALOADER.MAX_FAILED_FRACTION = {self._max_fraction:g} allows: {listed}{way_on}"
            )

    def after_train(self) -> None:
        """Log how many there were."""
        self._write()
        if self.reasons:
            where = f"; {self._path} lists them" if self._path else ""
            counts = f"{len(self.reasons)} of {self.num_videos}" if self.num_videos else len(self.reasons)
            logger.warning("%s training videos could not be read and were replaced%s", counts, where)

    def _write(self) -> None:
        if not (self._path and self._is_old and comm.is_main_process() and self._may_write()):
            return
        self._is_old = False
        if not self.reasons:
            # The list of an earlier run in this folder would be taken for this run's.
            if os.path.exists(self._path):
                os.remove(self._path)
            return
        failed = [{"file_name": path, "reason": reason} for path, reason in self.reasons.items()]
        write_json(self._path, {"num_videos": self.num_videos, "failed": failed})

    def state_dict(self) -> dict[str, Any]:
        """Return the failed files, so that a resumed run counts them, too."""
        return {"failed": dict(self.reasons)} if self.reasons else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the failed files back."""
        self.reasons = dict(state_dict["failed"])
