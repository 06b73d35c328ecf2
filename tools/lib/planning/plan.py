"""The plan of a training run: what it needs of memory, time, network, reading and storage on some numbers of GPUs.

Each figure says where it comes from. "counted": from a step on tensors without values, from shapes or from the config.
"measured here": on this machine. "assumed": from the tables of `machines`, or computed from such a figure.
"""

import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nlvideo.config import CfgNode
from nlvideo.modeling import model_costs
from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS
from nlvideo.solver import scale_to_world_size
from nlvideo.utils.console import create_table, format_seconds
from nlvideo.utils.messages import check_one_of

from .machines import (
    BANDWIDTH_FRACTION,
    CORES,
    FRACTIONS,
    GPUS,
    MOST_FRAMES,
    NETWORKS,
    PROFILES,
    SET_ASIDE,
    STORAGE_RATE,
)
from .measured import measure_machine, measure_reading
from .memory import StepMemory, count_step

COUNTED, MEASURED, ASSUMED = "counted", "measured here", "assumed"
# GiB of GPUs for which the largest batch is given.
SIZES = (16, 24, 40, 80)
# Of the fractions of the peak rate, the one that shares and the number of decoders are for.
USUAL = FRACTIONS[1]


class Figure(NamedTuple):
    """One line of a plan: a value for each number of GPUs, their unit, and where they come from."""

    name: str
    values: tuple[float, ...]
    unit: str
    how: str


@dataclass(frozen=True)
class Run:
    """The run of a config, scaled to a number of GPUs; ``clips``: of one pass of one GPU."""

    cfg: CfgNode
    gpus: int
    clips: int

    @classmethod
    def of(cls, cfg: CfgNode, gpus: int) -> "Run":
        """Scale a config as a training does.

        Raises:
            ValueError: the batch does not split evenly.
        """
        if gpus < 1:
            raise ValueError(f"--num-gpus: got {gpus}, allowed: 1 or more")
        cfg = scale_to_world_size(cfg, gpus)
        clips, passes = cfg.SOLVER.CLIPS_PER_BATCH, gpus * cfg.SOLVER.ACCUMULATE
        if clips % passes:
            raise ValueError(f"SOLVER.CLIPS_PER_BATCH: got {clips}, allowed with {gpus} GPUs: a multiple of {passes}")
        return cls(cfg, gpus, clips // passes)


class Planner:
    """Makes the sections of a plan.

    Args:
        cfg: the config.
        gpu: a name in ``GPUS``, or "cpu": this machine.
        num_gpus: the numbers of GPUs to plan for.
        videos: in the training data.
        video_profile: a name in ``PROFILES``.

    Raises:
        ValueError: a value that is not allowed, or a batch that does not split evenly.
        KeyError: a name in the config is not registered.
    """

    def __init__(self, cfg: CfgNode, gpu: str, num_gpus: Sequence[int], videos: int, video_profile: str):
        check_one_of("--gpu", gpu, (*GPUS, "cpu"))
        check_one_of("--video-profile", video_profile, PROFILES)
        if videos < 1:
            raise ValueError(f"--videos: got {videos}, allowed: 1 or more")
        self.runs = [Run.of(cfg, number) for number in num_gpus]
        self.videos, self.profile = videos, PROFILES[video_profile]
        self.device, self.how = ("cpu", MEASURED) if gpu == "cpu" else ("cuda", ASSUMED)
        self.gpu = measure_machine() if gpu == "cpu" else GPUS[gpu]
        half = cfg.SOLVER.AMP.ENABLED and gpu != "cpu"
        self.rate = 1e12 * (self.gpu.half if half else self.gpu.single)
        self.dtype = cfg.SOLVER.AMP.DTYPE if half else "float32" if gpu == "cpu" else "TF32"
        self.gmacs = model_costs(cfg, describe=False)["gmacs"]
        self._counted: dict[tuple, StepMemory] = {}

    def sections(self) -> dict[str, list[Figure]]:
        """Every section by its title."""
        first = self.runs[0].cfg
        clip = f"{first.INPUT.NUM_FRAMES}x{first.INPUT.CROP_SIZE}x{first.INPUT.CROP_SIZE}"
        usual = f"{USUAL:.0%} of the peak rate"
        return {
            f"Memory of one {self.gpu.name}, clips of {clip}": self.memory(),
            f"Memory of one {self.gpu.name} with other settings": self.settings(),
            f"Computation, peak {self.rate / 1e12:.4g} TFLOP/s in {self.dtype}": self.computing(),
            f"Exchange of gradients, beside a step at {usual}": self.network(),
            f"Reading, at {usual}": self.reading(),
            f"The whole schedule, {self.videos:,} videos": self.schedule(),
            "Walls: what is needed, in percent of what there is": self.walls(),
        }

    def count(self, run: Run, clips: int, *overrides: Any) -> StepMemory:
        """Count a step with ``clips`` clips a pass and overrides of the config; the same one only once."""
        passes = min(2, run.cfg.SOLVER.ACCUMULATE)
        key = (clips, passes, *overrides)
        if key not in self._counted:
            cfg = run.cfg.with_overrides(list(overrides))
            self._counted[key] = count_step(cfg, self.device, clips, passes)
        return self._counted[key]

    def step(self, run: Run) -> StepMemory:
        """What a step of the config needs."""
        return self.count(run, run.clips)

    def peak(self, run: Run, *overrides: Any) -> int:
        """Bytes of one GPU at the peak; several ranks hold their gradients once more, in blocks for the exchange."""
        step = self.count(run, run.clips, *overrides)
        return step.peak + (step.gradients if run.gpus > 1 else 0)

    def largest(self, run: Run, gib: float) -> int:
        """The most clips of a pass that fit; memory grows evenly with the clips."""
        each = (self.count(run, 2 * run.clips).peak - self.step(run).peak) / run.clips
        return max(0, run.clips + math.floor((gib * 2**30 - SET_ASIDE - self.peak(run)) / each))

    def step_gmacs(self, run: Run) -> float:
        """1e9 multiply-adds of a step of one GPU: a backward pass has two products for each of the forward pass."""
        return 3 * self.gmacs * run.cfg.SOLVER.CLIPS_PER_BATCH / run.gpus

    def step_traffic(self, run: Run) -> float:
        """Bytes that the operations of a step of one GPU read and write."""
        passes = run.cfg.SOLVER.ACCUMULATE
        return self.step(run).traffic * passes / min(2, passes)

    def moving(self, run: Run) -> float:
        """Seconds that this takes."""
        return self.step_traffic(run) / (BANDWIDTH_FRACTION * self.gpu.bandwidth * 1e9)

    def seconds(self, run: Run, fraction: float = USUAL) -> float:
        """Seconds of a step: of products at a fraction of the peak rate, or of the memory where that takes longer."""
        return max(2e9 * self.step_gmacs(run) / (fraction * self.rate), self.moving(run))

    def exchange(self, run: Run, rate: float) -> float:
        """Seconds of an all-reduce in a ring whose slowest link gives ``rate`` 1e9 bytes a second."""
        return 2 * (run.gpus - 1) / run.gpus * self.step(run).gradients / (rate * 1e9)

    def clips_per_second(self, run: Run) -> float:
        """Clips that all GPUs together take."""
        return run.cfg.SOLVER.CLIPS_PER_BATCH / self.seconds(run)

    def iterations(self, run: Run) -> int:
        """Of the whole schedule."""
        solver = run.cfg.SOLVER
        if not solver.MAX_EPOCHS:
            return solver.MAX_ITER
        return max(solver.MIN_ITER, math.ceil(solver.MAX_EPOCHS * self.videos / solver.CLIPS_PER_BATCH))

    def row(self, name: str, values: Iterable[float], unit: str = "bytes", how: str = COUNTED) -> Figure:
        """A line of a section, with a value of each run."""
        return Figure(name, tuple(values), unit, how)

    def memory(self) -> list[Figure]:
        """Bytes, and the largest batch."""
        steps = [self.step(run) for run in self.runs]
        copies = [step.gradients * (run.gpus > 1) for run, step in zip(self.runs, steps, strict=True)]
        each = [step.kept / run.clips for run, step in zip(self.runs, steps, strict=True)]
        return [
            self.row("clips of a pass", [run.clips for run in self.runs], ""),
            self.row("parameters and buffers", [step.parameters for step in steps]),
            self.row("gradients", [step.gradients for step in steps]),
            self.row("gradients, copied for the exchange", copies),
            self.row("state of the optimizer", [step.optimizer for step in steps]),
            self.row("kept for backward, each clip", each),
            self.row("kept for backward", [step.kept for step in steps]),
            self.row("peak of a step", [self.peak(run) for run in self.runs]),
            self.row("set aside for libraries", [SET_ASIDE for _ in steps], how=ASSUMED),
        ] + [
            self.row(f"largest pass in {gib} GiB", [self.largest(run, gib) for run in self.runs], "clips", ASSUMED)
            for gib in SIZES
        ]

    def settings(self) -> list[Figure]:
        """What is kept for each clip, and the peak, where one setting of the config is another."""
        cfg = self.runs[0].cfg
        node, amp, last = cfg.MODEL.NONLOCAL, cfg.SOLVER.AMP.ENABLED, cfg.MODEL.CHANNELS_LAST
        changes: dict[str, list] = {}
        if node.ENABLED:
            for algorithm in BLOCK_ALGORITHMS[node.PAIRWISE] if node.NAME == "NonLocalBlock" else ():
                changes[f"algorithm {algorithm}"] = ["MODEL.NONLOCAL.ALGORITHM", algorithm]
            changes["blocks not recomputed" if node.CHECKPOINT else "blocks recomputed"] = [
                "MODEL.NONLOCAL.CHECKPOINT", not node.CHECKPOINT,
            ]  # fmt: skip
        changes["float32" if amp else "mixed precision"] = ["SOLVER.AMP.ENABLED", not amp]
        changes["channels first" if last else "channels last"] = ["MODEL.CHANNELS_LAST", not last]
        rows = []
        for name, overrides in changes.items():
            with contextlib.suppress(ValueError):  # not possible with the other keys
                steps = [self.count(run, run.clips, *overrides) for run in self.runs]
                each = [step.kept / run.clips for run, step in zip(self.runs, steps, strict=True)]
                rows.append(self.row(f"{name}: kept, each clip", each))
                rows.append(self.row(f"{name}: peak of a step", [self.peak(run, *overrides) for run in self.runs]))
        return rows

    def computing(self) -> list[Figure]:
        """Multiply-adds, and how long they take."""
        traffic = [self.step_traffic(run) for run in self.runs]
        moving = [self.moving(run) for run in self.runs]
        products = {part: [2e9 * self.step_gmacs(run) / (part * self.rate) for run in self.runs] for part in FRACTIONS}
        return [
            self.row("forward pass, each clip", [self.gmacs for _ in self.runs], "GMACs"),
            self.row("step, each GPU", [self.step_gmacs(run) for run in self.runs], "GMACs"),
            self.row("read and written in a step", traffic),
            *(self.row(f"products at {part:.0%} of the peak", time, "s", self.how) for part, time in products.items()),
            self.row(f"memory at {BANDWIDTH_FRACTION:.0%} of its rate", moving, "s", self.how),
            self.row(f"step, the longer one at {USUAL:.0%}", [self.seconds(run) for run in self.runs], "s", self.how),
        ]

    def network(self) -> list[Figure]:
        """The all-reduce of a step over each link, and its share of the step."""
        links = {"GPU to GPU": self.gpu.link} if self.gpu.link else {}
        rows = [self.row("gradients", [self.step(run).gradients for run in self.runs])]
        for name, rate in {**links, **NETWORKS}.items():
            times = [self.exchange(run, rate) for run in self.runs]
            shares = [100 * time / self.seconds(run) for run, time in zip(self.runs, times, strict=True)]
            rows.append(self.row(f"all-reduce, {name}", times, "s", ASSUMED))
            rows.append(self.row(f"beside a step, {name}", shares, "%", ASSUMED))
        return rows

    def reading(self) -> list[Figure]:
        """Cores or engines that decode, for each GPU."""
        cfg, video = self.runs[0].cfg, self.profile
        decoded = min(video.frames, video.lead + cfg.INPUT.NUM_FRAMES * cfg.INPUT.FRAME_STRIDE)
        own = measure_reading(cfg)
        seconds, how = (decoded * video.ms_per_frame / 1e3, ASSUMED) if own is None else (own, MEASURED)
        rate = [self.clips_per_second(run) / run.gpus for run in self.runs]
        self.cores = [clips * seconds for clips in rate]
        rows = [
            self.row("clips a second, each GPU", rate, "", self.how),
            self.row("reading a clip, one core", [seconds for _ in rate], "s", how),
            self.row("cores, each GPU", self.cores, "", ASSUMED),
        ]
        if self.gpu.decoders:
            frames = min(MOST_FRAMES, self.gpu.decoder_rate * 1920 * 1080 / (video.width * video.height))
            engines = [clips * decoded / frames for clips in rate]
            rows += [
                self.row("NVDEC engines, each GPU", engines, "", ASSUMED),
                self.row("NVDEC engines that it has", [self.gpu.decoders for _ in rate], "", ASSUMED),
            ]
        return rows

    def schedule(self) -> list[Figure]:
        """Clips, time and storage."""
        clips = [self.iterations(run) * run.cfg.SOLVER.CLIPS_PER_BATCH for run in self.runs]
        checkpoints = []
        for run in self.runs:
            saved = self.iterations(run) // max(1, run.cfg.SOLVER.CHECKPOINT_PERIOD)
            count = min(saved, run.cfg.SOLVER.CHECKPOINT_KEEP or saved) + 2  # the best and the last
            checkpoints.append(count * (self.step(run).parameters + self.step(run).optimizer))
        return [
            self.row("iterations", [self.iterations(run) for run in self.runs], ""),
            self.row("clips", clips, ""),
            self.row("epochs", [number / self.videos for number in clips], ""),
            *(
                self.row(
                    f"time at {part:.0%} of the peak", [self.duration(run, part) for run in self.runs], "s", self.how
                )
                for part in FRACTIONS
            ),
            self.row("GPU hours", [self.duration(run) * run.gpus / 3600 for run in self.runs], "", self.how),
            self.row("videos on disk", [self.videos * self.profile.size for _ in clips], "bytes", ASSUMED),
            self.row("checkpoints on disk", checkpoints),
            self.row("read from disk, a second", [self.disk(run) for run in self.runs], "bytes", ASSUMED),
        ]

    def duration(self, run: Run, fraction: float = USUAL) -> float:
        """Seconds of all steps of the schedule."""
        return self.iterations(run) * self.seconds(run, fraction)

    def disk(self, run: Run) -> float:
        """Bytes of videos that are read in a second: a clip takes its whole file."""
        return self.clips_per_second(run) * self.profile.size

    def walls(self) -> list[Figure]:
        """What is needed in percent of what there is; above 100 there is a wall."""
        memory = [(self.peak(run) + SET_ASIDE) / (self.gpu.memory * 2**30) for run in self.runs]
        needed = {
            f"memory: of {self.gpu.memory:g} GiB": memory,
            "computation: of a week": [self.duration(run) / 604800 for run in self.runs],
            **{
                f"network: of a step, {name}": [self.exchange(run, rate) / self.seconds(run) for run in self.runs]
                for name, rate in NETWORKS.items()
            },
            f"decoding: of {CORES} cores for each GPU": [cores / CORES for cores in self.cores],
            f"storage: of {STORAGE_RATE / 1e9:g} GB/s for all": [self.disk(run) / STORAGE_RATE for run in self.runs],
        }
        return [self.row(name, [100 * share for share in shares], "%", ASSUMED) for name, shares in needed.items()]


def format_sections(sections: dict[str, list[Figure]], num_gpus: Sequence[int]) -> str:
    """The plan as tables, with a column for each number of GPUs."""
    heads = [f"{number} GPU{'s' * (number > 1)}" for number in num_gpus]
    parts = []
    for title, figures in sections.items():
        rows = [
            {"": figure.name}
            | {head: _shown(value, figure.unit) for head, value in zip(heads, figure.values, strict=True)}
            | {"how": figure.how}
            for figure in figures
        ]
        parts.append(f"{title}\n{create_table(rows)}")
    return "\n\n".join(parts)


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return format_seconds(value) if value >= 1 else f"{1e3 * value:.3g} ms"
    if unit == "bytes":
        size = next((size for size in ("TiB", "GiB", "MiB") if value >= 0.1 * _BYTES[size]), "MiB")
        return f"{value / _BYTES[size]:.2f} {size}"
    text = f"{value:,.0f}" if value >= 1000 or isinstance(value, int) else f"{value:.3g}"
    return f"{text} {unit}".strip()


_BYTES = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20}
