"""What blocks share whose queries meet keys in a softmax, beside `NonLocalBase`."""

from collections.abc import Sequence
from typing import Any

import torch

from nlvideo.layers.nonlocal_ops import ALGORITHMS, choose_algorithm
from nlvideo.layers.precision import widened, without_autocast
from nlvideo.modeling.nonlocal_block.base import NonLocalBase
from nlvideo.utils.messages import check_one_of


class SoftmaxBase(NonLocalBase):
    """A block that sums its values with ``softmax_aggregate(..., algorithm=self.algorithm)``.

    A subclass sets ``inner_channels`` and ``scale``, and ``num_keys`` where the keys are not the positions of ``pool``.

    Args:
        in_channels: channels of x.
        algorithm: "dense", "fused" (exact, without the matrix) or "auto", as in `NonLocalBlock`.
        **common: arguments of `NonLocalBase`.

    Raises:
        ValueError: for a value that is not allowed.
    """

    inner_channels: int
    scale: float

    def __init__(self, in_channels: int, *, algorithm: str = "auto", **common: Any):
        super().__init__(in_channels, **common)
        check_one_of("algorithm", algorithm, ("auto", *ALGORITHMS["softmax"]))
        self.algorithm = algorithm

    def num_keys(self, u: torch.Tensor) -> int:
        """Keys of a map of positions that all relate to each other."""
        return self.pool(u).shape[2:].numel()

    def softmax_of(self, query_NPD: torch.Tensor, key_NQD: torch.Tensor, position: int) -> torch.Tensor:
        """The softmax of one query over the keys, in float32 or wider: (N, keys)."""
        query_NPD, key_NQD = widened(query_NPD, key_NQD)
        with without_autocast(query_NPD):
            return ((key_NQD @ query_NPD[:, position, :, None])[..., 0] * self.scale).softmax(1)

    def attention_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """For a map of these axes: sets of positions, and P queries and Q keys of each."""
        u = self.folded(torch.empty(1, 1, *size, device="meta"))
        return u.shape[0], u.shape[2:].numel(), self.num_keys(u)

    def algorithm_for(self, size: Sequence[int]) -> str:
        """The algorithm that runs for a map of these axes."""
        _, P, Q = self.attention_size(size)
        D = self.inner_channels
        return choose_algorithm("softmax", P, Q, D, D) if self.algorithm == "auto" else self.algorithm
