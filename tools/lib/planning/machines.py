"""What plans assume of machines and videos. Nothing in this file was measured with nlvideo, unless it says so."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU, by its published figures; dense rates, not those with sparsity.

    Attributes:
        name: as its maker calls it.
        half: 1e12 operations a second in bfloat16 or float16, summed in float32.
        single: the same in TF32, which PyTorch's convolutions use for float32.
        memory: GiB.
        bandwidth: 1e9 bytes of its memory that it reads or writes in a second.
        link: 1e9 bytes a second in each direction to another GPU of the machine.
        decoders: NVDEC engines.
        decoder_rate: frames of 1920 x 1080 in H.264 that one of them decodes in a second.
    """

    name: str
    half: float
    single: float
    memory: float
    bandwidth: float
    link: float
    decoders: int
    decoder_rate: float


GPUS = {
    "h100": Gpu("H100 SXM", 989.4, 494.7, 80, 3350, 450, 7, 700),
    "a100": Gpu("A100 SXM", 312, 156, 80, 2039, 300, 5, 700),
    "l40s": Gpu("L40S", 362, 183, 48, 864, 32, 3, 1000),  # PCIe 4.0 x16
    "rtx4090": Gpu("GeForce RTX 4090", 165.2, 82.6, 24, 1008, 32, 1, 1000),  # PCIe 4.0 x16
}
# Networks between machines, 1e9 bytes a second.
NETWORKS = {"100 Gbit/s": 12.5, "10 Gbit/s": 1.25}
# What is left for the context of the GPU, the workspaces of its libraries and memory in pieces, bytes.
SET_ASIDE = 2 * 2**30
# Parts of the peak rate that products may reach; the second one is used where one is needed. And of the bandwidth.
FRACTIONS, BANDWIDTH_FRACTION = (0.2, 0.4, 0.6), 0.8
# CPU cores beside each GPU, and bytes a second that the storage of the videos gives.
CORES, STORAGE_RATE = 16, 1e9
# An engine does not get faster with smaller frames for ever: frames in a second.
MOST_FRAMES = 3000


@dataclass(frozen=True)
class VideoProfile:
    """The usual video of a dataset.

    Attributes:
        frames: of a video.
        width, height: pixels.
        size: bytes.
        lead: frames that are decoded before a clip, from the last key-frame on.
        ms_per_frame: milliseconds of a core for each decoded frame, opening and conversion included.
    """

    frames: int
    width: int
    height: int
    size: float
    lead: int
    ms_per_frame: float


PROFILES = {
    # Short side 256. Speed and lead are those of test.mp4 in benchmarks/reading.md: 114 ms for 110 frames, 64 a clip.
    "kinetics": VideoProfile(300, 340, 256, 0.6e6, 46, 1.03),
    # 19.4 GB of 220,847 WebM files.
    "something": VideoProfile(46, 427, 240, 0.09e6, 10, 1.2),
    # 13 GB of 9,848 videos, those with 480 pixels.
    "charades": VideoProfile(730, 480, 360, 1.3e6, 46, 2.0),
    "full_hd": VideoProfile(300, 1920, 1080, 6e6, 46, 20.0),
}
