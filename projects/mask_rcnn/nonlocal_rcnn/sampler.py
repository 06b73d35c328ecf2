"""Batches of images of one orientation, so that little of a batch is padding."""

from collections.abc import Sequence

import numpy as np

from nlvideo.config import CfgNode
from nlvideo.data import SAMPLER
from nlvideo.data.catalog import Record
from nlvideo.data.records.records import labels_of
from nlvideo.data.samplers import StreamSampler


@SAMPLER.register()
class AspectRatioSampler(StreamSampler):
    """Shuffled epochs in which the images of an optimizer step are all wide, or all tall.

    Images without an object are left out, as in Detectron. An epoch has every other image once, and up to ``batch`` - 1
    of each orientation twice, which fill the last batches.

    Args:
        batch: images of an optimizer step, over all ranks.

    Raises:
        ValueError: the records are not of images of known sizes, or none has an object.
    """

    def __init__(self, records: Sequence[Record], *, batch: int = 1, **kwargs: int):
        super().__init__(records, **kwargs)
        self.batch = batch
        wide: list[int] = []
        tall: list[int] = []
        for index in np.flatnonzero(labels_of(records).counts).tolist():
            record = records[index]
            if "width" not in record:
                raise ValueError(f"{record['file_name']}: a record without its width, allowed: those of COCO's format")
            (wide if record["width"] >= record["height"] else tall).append(index)
        if not wide and not tall:
            raise ValueError("no image has an object to train on, allowed: at least one")
        self.members = [np.array(members) for members in (wide, tall)]
        self.batches = [-(-len(members) // batch) for members in self.members]

    @staticmethod
    def options(cfg: CfgNode) -> dict[str, int]:
        """Return the arguments that the config gives."""
        return {"batch": cfg.SOLVER.CLIPS_PER_BATCH}

    def index_at(self, position: int) -> int:
        """Return the index of the record at a position of the stream."""
        step, offset = divmod(position, self.batch)
        epoch, number = divmod(step, sum(self.batches))
        number = int(self.permutation(sum(self.batches), epoch, 1)[number])
        is_tall = number >= self.batches[0]
        members = self.members[is_tall]
        place = (number - self.batches[0] * is_tall) * self.batch + offset
        return int(members[self.permutation(len(members), epoch, 2 + is_tall)[place % len(members)]])
