"""Save a run so that it can be killed at any moment, and resume it."""

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nlvideo.checkpoint.earlier_run import TAG, EarlierRun, checkpoints_in
from nlvideo.checkpoint.plain import first_not_finite, to_plain
from nlvideo.checkpoint.read.read_file import read_file
from nlvideo.checkpoint.weights import LoadReport, compare_weights, find_weights, load_weights
from nlvideo.config import CfgNode
from nlvideo.utils import comm
from nlvideo.utils.files.file_io import PathManager, atomic_write
from nlvideo.utils.messages import some

logger = logging.getLogger(__name__)

# States in which NaN and infinity are errors. Other states may hold them on purpose.
_FINITE = ("model", "optimizer", "ema")


class Checkpointer:
    """Writes and reads ``<save_dir>/<name>.pth``: one dict ``{"model": ..., <checkpointable>: ..., <extra>: ...}``.

    A file gets its name when it is complete. The file ``last_checkpoint`` names the one to resume from. Files hold
    tensors and plain Python types only, and finite weights. When a fresh start saves its first file, what an earlier
    run has left in the folder is moved away.

    Example:
        >>> checkpointer = Checkpointer(model, "output", optimizer=optimizer, scheduler=scheduler)
        >>> extra = checkpointer.resume_or_load("r50.pth", resume=True)
        >>> checkpointer.save("model_0000999", iteration=999)
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        *,
        adapt_weights: Callable[[Mapping[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None,
        cfg: CfgNode | None = None,
        **checkpointables: Any,
    ):
        """Name what a checkpoint holds.

        Args:
            model: also inside DistributedDataParallel.
            save_dir: created at the first save.
            adapt_weights: called with the weights of a file and the model before :meth:`load_weights` compares them, to
                change names or shapes, e.g. ``nlvideo.modeling.backbone.inflate_2d_weights``. A resume never calls it.
            cfg: what the model was built from; weights of other frameworks are compared with it.
            **checkpointables: anything with ``state_dict()`` and ``load_state_dict()``, loaded in this order; a
                scheduler goes after its optimizer.

        Raises:
            ValueError: a checkpointable without these methods.
        """
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.save_dir = save_dir
        self._adapt_weights, self._cfg = adapt_weights, cfg
        for name, item in checkpointables.items():
            if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
                kind = type(item).__name__
                raise ValueError(f"checkpointable {name!r}: {kind} has no state_dict and load_state_dict")
        self._checkpointables = checkpointables
        self._earlier: EarlierRun | None = None

    def save(self, name: str, *, tag_last: bool = True, **extra: Any) -> str:
        """Write ``<name>.pth`` on rank 0. Call it on every rank, because states may be gathered from all of them.

        Args:
            name: without folder and ending.
            tag_last: make this the checkpoint to resume from. If False, it is that only where there is no other.
            **extra: plain values; :meth:`resume_or_load` returns them.

        Returns:
            Path of the file. It is complete when rank 0 returns; other ranks return earlier.

        Raises:
            ValueError: something is neither a tensor nor a plain type, or an extra has the name of a checkpointable.
            FloatingPointError: weights, their average or the optimizer's state are not finite. Nothing is written.
        """
        taken = extra.keys() & {"model", *self._checkpointables}
        if taken:
            raise ValueError(f"extra {sorted(taken)}: these names belong to the model and the checkpointables")
        states = {key: item.state_dict() for key, item in self._checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        if not comm.is_main_process():
            return path
        content = {"model": self.model.state_dict(), **states, **extra}
        content = {key: to_plain(value, key) for key, value in content.items()}
        if where := _not_finite(content):
            raise FloatingPointError(
                f"{path} is not saved: {where} is not finite. The losses were finite, but a gradient was not. Earlier"
                " checkpoints are unchanged; lower SOLVER.BASE_LR, warm up longer (SOLVER.WARMUP_*) or clip gradients"
            )

        def write(file: BinaryIO) -> None:
            """Move the earlier run only when the content is on disk. A full disk then changes nothing."""
            torch.save(content, file)
            file.flush()
            self.set_earlier_run_aside()

        PathManager.mkdirs(self.save_dir)
        atomic_write(path, write)
        if tag_last or self.last_checkpoint() is None:
            atomic_write(os.path.join(self.save_dir, TAG), lambda file: file.write(f"{name}.pth\n".encode()))
        logger.info("Saved checkpoint %s", path)
        return path

    @property
    def has_earlier_run(self) -> bool:
        """Whether the folder still holds the files of an earlier run, which this one may not replace yet."""
        return self._earlier is not None and self._earlier.is_there

    def set_earlier_run_aside(self) -> None:
        """Move what an earlier run has left in the folder of a fresh start. Call it before a file is replaced."""
        if self._earlier is not None and comm.is_main_process():
            self._earlier.set_aside()

    def last_checkpoint(self) -> str | None:
        """Return the path of the checkpoint to resume from, or None."""
        return last_checkpoint_in(self.save_dir)

    def resume_or_load(self, path: str, resume: bool) -> dict[str, Any]:
        """Continue the run in ``save_dir``, or start from the weights at ``path``.

        Args:
            path: weights of a fresh start (``MODEL.WEIGHTS``); "" for none.
            resume: continue from the last checkpoint. Where there is none, this is a fresh start.

        Returns:
            What was saved as extra; empty for a fresh start.

        Raises:
            ValueError: as :meth:`resume` and :meth:`load_weights`; or there are checkpoints, but no file says which of
                them is the last.
            FileNotFoundError: the file is missing.
        """
        last = self.last_checkpoint() if resume else None
        if last is not None:
            return self.resume(last)
        if resume and checkpoints_in(Path(self.save_dir)):
            what = f"--resume: {self.save_dir} holds checkpoints, but no {TAG} that names one"
            raise ValueError(f"{what}. {self._way_out(self.save_dir)}")
        if resume:
            logger.info("Nothing to resume in %s: a fresh start", self.save_dir)
        self._earlier = EarlierRun(self.save_dir)
        if path:
            self.load_weights(path)
        else:
            logger.info("No weights to load: random initialisation")
        return {}

    def load_weights(self, path: str, *, entry: str = "", complete: bool = False) -> LoadReport:
        """Load the weights that fit from a checkpoint, a plain state dict or a file of another framework.

        Args:
            path: as MODEL.WEIGHTS: a file, a URL, ``torchvision://NAME`` or a network of the authors' release.
            entry: the entry of the file with the weights, e.g. ``"ema"`` of our own checkpoints; "": the usual one.
            complete: refuse a file that does not have exactly the tensors of the model.

        Raises:
            ValueError, FileNotFoundError, LookupFailed: as ``nlvideo.checkpoint.read_file`` and ``load_weights``.
        """
        content = read_file(path)
        return load_weights(
            self.model, content, path, cfg=self._cfg, adapt_weights=self._adapt_weights, entry=entry, complete=complete
        )

    def resume(self, path: str) -> dict[str, Any]:
        """Restore model and checkpointables from a file of :meth:`save`, and return its extra.

        Raises:
            ValueError: the file is damaged, not finite, or of another architecture or optimizer. Only in the last case
                the model has changed. For a bad file the message lists others in its folder.
            FileNotFoundError: the file is missing.
        """
        current = self.model.state_dict()
        try:
            content = read_file(path)
            weights = find_weights(content, path, current, source="", entry="model").weights
            if where := _not_finite(content):
                raise ValueError(f"cannot resume from {path}: {where} is not finite")
        except (ValueError, FileNotFoundError) as error:
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"{error}. {self._way_out(*os.path.split(path))}") from error
        if differences := compare_weights(current, weights, path, counters=True).differences():
            raise ValueError(
                f"cannot resume from {path}: it holds another architecture; {differences}. "
                "Resume with the configuration it was trained with, or start in another OUTPUT_DIR"
            )
        self.model.load_state_dict(weights)
        content.pop("model")
        for name, item in self._checkpointables.items():
            if name not in content:
                logger.warning("%s holds no %r: it starts new, unlike in an uninterrupted run", path, name)
                continue
            try:
                item.load_state_dict(content.pop(name))
            except (ValueError, KeyError, RuntimeError) as error:
                raise ValueError(f"cannot resume from {path}: its {name!r} does not fit: {error}") from error
        logger.info("Resumed from %s", path)
        return content

    def _way_out(self, folder: str, broken: str = "") -> str:
        """Say how to resume from another file in the folder, the latest first."""
        names = []
        for path in sorted(Path(folder).glob("*.pth"), key=os.path.getmtime, reverse=True):
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                whole = {"model", *self._checkpointables} <= content.keys() and not _not_finite(content)
                names += [path.name] if whole and path.name != broken else []
            except Exception as error:  # whatever is wrong with it: it is not one to resume from
                logger.debug("%s is left out: %s", path, error)
        if not names:
            return f"{folder} holds no other checkpoint to resume from. A start without --resume moves its files aside"
        tag = os.path.join(folder, TAG)
        return f"To go on from one of {some(names, 8)}, write its name into {tag}: echo {names[0]} > {shlex.quote(tag)}"


def last_checkpoint_in(folder: str) -> str | None:
    """Return the path of the checkpoint that a run saved last in its folder, or None."""
    tag = os.path.join(folder, TAG)
    if not PathManager.exists(tag):
        return None
    with PathManager.open(tag, "r") as file:
        return os.path.join(folder, file.read().strip())


def _not_finite(content: Mapping[str, Any]) -> str | None:
    return first_not_finite({key: content[key] for key in _FINITE if key in content})
