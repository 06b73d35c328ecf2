"""Where the cells of a feature map lie in the frames that a network saw.

Coordinates count from the corner of the first frame: frame t is the interval [t, t + 1), and pixel y the interval
[y, y + 1). A cell of a map stands for the window of its stride. The cells of a row begin at the edge of the frame and
lie side by side::

    stride 4      cell 0      cell 1      cell 2
    pixel         0 1 2 3     4 5 6 7     8 9 10 11
    centre             2           6           10
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# All have three parts: of time, height and width.
Size = tuple[int, ...]
Point = tuple[float, ...]
# The first corner of a cell's window, and the corner after its last.
Window = tuple[Point, Point]


@dataclass(frozen=True)
class Grid:
    """The cells of a map over a clip."""

    size: Size  #: (T', H', W') cells
    stride: Point  #: (frames, pixels, pixels) of a cell
    clip: Size  #: (T, H, W) frames and pixels

    def cell(self, position: Sequence[float]) -> Size:
        """The cell whose window holds a position (t, y, x). A position after the last window belongs to the last cell.

        Raises:
            ValueError: the position is outside the clip.
        """
        if len(position) != 3 or not all(0 <= p < n for p, n in zip(position, self.clip, strict=True)):
            T, H, W = self.clip
            raise ValueError(
                f"position {','.join(f'{p:g}' for p in position)} is outside the clip, allowed: t,y,x with t 0 to"
                f" {T - 1} (sampled frames), y 0 to {H - 1} and x 0 to {W - 1} (pixels of the frame shown)"
            )
        return tuple(min(int(p // s), n - 1) for p, s, n in zip(position, self.stride, self.size, strict=True))

    def window(self, cell: Sequence[int]) -> Window:
        """First corner (t, y, x) of a cell's window and the corner after its last; cut off at the clip's end."""
        axes = list(zip(cell, self.stride, self.clip, strict=True))
        return tuple(min(c * s, n) for c, s, n in axes), tuple(min((c + 1) * s, n) for c, s, n in axes)

    def centre(self, cell: Sequence[int]) -> Point:
        """Centre (t, y, x) of a cell's window."""
        return tuple((a + b) / 2 for a, b in zip(*self.window(cell), strict=True))

    def shown_frame(self, cell_t: int) -> int:
        """The frame that stands for a cell: the middle one of its window, or the earlier one of two."""
        (first, *_), (end, *_) = self.window((cell_t, 0, 0))
        return max(int(first), int(-(-(first + end) // 2)) - 1)

    def upsample(self, cells: torch.Tensor) -> torch.Tensor:
        """Every frame and pixel of the clip takes the value of its cell: (T', H', W') -> (T, H, W)."""
        for axis, (stride, size, length) in enumerate(zip(self.stride, self.size, self.clip, strict=True)):
            index = (torch.arange(length) // stride).long().clamp(max=size - 1)
            cells = cells.index_select(axis, index)
        return cells


def pooled(grid: Grid, size: Size) -> Grid:
    """The grid of a block's keys: that of its queries, max-pooled by 2 along the axes that became shorter."""
    strides = []
    for before, after, stride in zip(grid.size, size, grid.stride, strict=True):
        # Pooling rounds down: of 3 cells in a row it leaves 1, which stands for the first 2.
        factor = 1 if after == before else 2 if after == before // 2 else before / after
        strides.append(stride * factor)
    return Grid(size, tuple(strides), grid.clip)
