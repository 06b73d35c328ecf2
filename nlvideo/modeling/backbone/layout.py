"""The numbers that make a ResNet: blocks per stage, stems, and which blocks hold a temporal kernel."""

from dataclasses import dataclass

from nlvideo.layers.blocks import Triple

STAGES = ("res2", "res3", "res4", "res5")

NUM_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# Networks of these depths have basic blocks, of two 3x3 convolutions. The others have bottlenecks.
BASIC_DEPTHS = (10, 18)

# Frames that the first two convolutions of an inflated block span: (bottleneck, basic block). A basic block has no 1x1,
# so all styles make its first 3x3 a 3x3x3.
TEMPORAL_KERNELS = {
    "c2d": ((1, 1), (1, 1)),
    "i3d_3x1x1": ((3, 1), (3, 1)),
    "i3d_3x3x3": ((1, 3), (3, 1)),
    "i3d_3x1x1_all": ((3, 1), (3, 1)),
    "slow": ((3, 1), (3, 1)),
}

# Styles whose first convolution spans one frame in every stem.
FLAT_STEM = ("c2d", "slow")


@dataclass(frozen=True)
class Pool:
    """A max pool over (frames, height, width)."""

    kernel: Triple
    stride: Triple
    padding: Triple = (0, 0, 0)


@dataclass(frozen=True)
class StemLayout:
    """The layers before res2, and the temporal pool between res2 and res3 (none with a kernel of 1x1x1)."""

    conv_size: int
    """Height and width of the first kernel."""
    conv_frames: int
    """Frames that the first kernel spans in I3D networks; in C2D and Slow it spans one."""
    conv_stride: Triple
    pool1: Pool
    pool2: Pool

    def conv_kernel(self, temporal: str) -> Triple:
        """Kernel of the first convolution for a style of `TEMPORAL_KERNELS`."""
        frames = 1 if temporal in FLAT_STEM else self.conv_frames
        return (frames, self.conv_size, self.conv_size)

    def stride(self) -> Triple:
        """Steps over (frames, height, width) between the input and the output of the stem."""
        (frames, height, width), pool = self.conv_stride, self.pool1.stride
        return (frames * pool[0], height * pool[1], width * pool[2])

    def minimum_clip_size(self) -> Triple:
        """The least frames, height and width that leave at least one position after every pool."""
        return (self._minimum(0), self._minimum(1), self._minimum(2))

    def _minimum(self, axis: int) -> int:
        # From the last layer to the first: for `size` outputs a pool needs (size - 1) * stride + kernel - 2 * padding
        # inputs. A padded convolution needs (size - 1) * stride + 1.
        size = 1
        for pool in (self.pool2, self.pool1):
            size = max(1, (size - 1) * pool.stride[axis] + pool.kernel[axis] - 2 * pool.padding[axis])
        return (size - 1) * self.conv_stride[axis] + 1


_TEMPORAL_POOL2 = Pool((2, 1, 1), (2, 1, 1))
_NO_POOL = Pool((1, 1, 1), (1, 1, 1))
# PySlowFast, PyTorchVideo and mmaction2 pad it in space: their res2 is 56 x 56 for 224 pixels, the authors' 55 x 55.
_PADDED_POOL1 = Pool((1, 3, 3), (1, 2, 2), (0, 1, 1))

STEMS = {
    # Table 1.
    "paper": StemLayout(7, 5, (2, 2, 2), Pool((3, 3, 3), (2, 2, 2), (1, 1, 1)), Pool((3, 1, 1), (2, 1, 1), (1, 0, 0))),
    # Authors' code, 32x2 clips (`resnet_video_org`): its pools have no padding.
    "authors_32x2": StemLayout(7, 5, (2, 2, 2), Pool((2, 3, 3), (2, 2, 2)), _TEMPORAL_POOL2),
    # Authors' code, 8x8 clips (`resnet_video`): time is halved once, after res2.
    "authors_8x8": StemLayout(7, 5, (1, 2, 2), Pool((1, 3, 3), (1, 2, 2)), _TEMPORAL_POOL2),
    # For frames below 100 pixels or so, where small things move. pool1 halves time already, so that non-local blocks
    # are cheap enough in res2.
    "small": StemLayout(3, 3, (1, 2, 2), Pool((2, 3, 3), (2, 2, 2), (0, 1, 1)), _NO_POOL),
    # C2D and I3D of PySlowFast and PyTorchVideo.
    "slowfast_8x8": StemLayout(7, 5, (1, 2, 2), _PADDED_POOL1, _TEMPORAL_POOL2),
    # Slow (SlowOnly), and the "nopool" networks of PySlowFast: time is never halved.
    "slow": StemLayout(7, 5, (1, 2, 2), _PADDED_POOL1, _NO_POOL),
    # I3D of mmaction2 on 32x2 clips: pool1 skips every other frame.
    "mmaction2_32x2": StemLayout(7, 5, (2, 2, 2), Pool((1, 3, 3), (2, 2, 2), (0, 1, 1)), _TEMPORAL_POOL2),
}


def inflated_blocks(stage: str, num_blocks: int, temporal: str = "i3d_3x1x1") -> list[bool]:
    """Which blocks of a stage hold a temporal kernel in a network of a style other than "c2d".

    In I3D these are all blocks of res2, the even ones of res3 and res4, and the odd ones of res5 (authors' code). In
    "slow" they are all of res4 and res5 (SlowFast, Table 1: slow pathway), in "i3d_3x1x1_all" all (mmaction2's "heavy"
    I3D).
    """
    if temporal == "slow":
        return [stage in ("res4", "res5")] * num_blocks
    if temporal == "i3d_3x1x1_all" or stage == "res2":
        return [True] * num_blocks
    first = 1 if stage == "res5" else 0
    return [index % 2 == first for index in range(num_blocks)]


def shift_step(depth: int, in_place: bool) -> int:
    """How many residual blocks of TSM there are for each that shifts; the first of a stage does (authors' code)."""
    return 2 if NUM_BLOCKS[depth][2] >= 23 and not in_place else 1


def scale_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 (at least 8)."""
    return max(8, round(channels * width / 8) * 8)


def stage_channels(depth: int, width: float) -> dict[str, tuple[int, int]]:
    """Stage -> (inner, output) channels of its residual blocks; a bottleneck has four times as many output channels."""
    expansion = 1 if depth in BASIC_DEPTHS else 4
    bases = {stage: 64 * 2**number for number, stage in enumerate(STAGES)}
    return {
        stage: (scale_channels(base, width), scale_channels(base * expansion, width)) for stage, base in bases.items()
    }
