"""The training step of a whole network: how long it takes, where the time goes, and how much memory it needs.

What is timed is the step of the trainer itself, with model, optimizer and gradient clipping of a config. Variants are
overrides of that config; they take turns in one run.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import nn

from nlvideo.config import CfgNode, load_cfg
from nlvideo.data import build_train_loader
from nlvideo.engine.train_loop import HookBase, SimpleTrainer
from nlvideo.modeling import build_model, model_costs
from nlvideo.solver import build_gradient_clipper, build_optimizer, scale_to_world_size
from nlvideo.utils.console import create_table, progress_bar
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.messages import one_of

from .peer import pytorchvideo_network
from .timing import PRODUCT_FLOPS, PeakMemory, Timing, alternate, environment, matrix_product, peak_memory

# What can stand in --variants, alone or joined by "+": overrides of the config.
VARIANTS: dict[str, tuple[str, ...]] = {
    "config": (),
    "channels_last": ("MODEL.CHANNELS_LAST", "True"),
    "contiguous": ("MODEL.CHANNELS_LAST", "False"),
    "auto": ("MODEL.NONLOCAL.ALGORITHM", "auto"),
    "dense": ("MODEL.NONLOCAL.ALGORITHM", "dense"),
    "checkpoint": ("MODEL.NONLOCAL.CHECKPOINT", "True"),
    "all_keys": ("MODEL.NONLOCAL.SUBSAMPLE", "False"),
    "amp": ("SOLVER.AMP.ENABLED", "True"),
    "unfused": ("SOLVER.FUSED", "False"),
}
DATA = ("synthetic", "real")
PARTS = ("data", "forward", "backward", "optimizer")
_PRODUCT = "matrix product"
# The first step makes gradients, the state of the optimizer only after its peak: two of them see all of it.
WARMUP_STEPS = 2


class Stopwatch(HookBase):
    """Splits the steps of a trainer into ``PARTS``, by the time between one mark and the next.

    Reading the loss counts as backward, gradient clipping as optimizer.
    """

    def __init__(self, model: nn.Module, wait: Callable[[], Any] | None):
        """Put marks on a model.

        Args:
            model: its forward pass is one of the parts.
            wait: called before the clock is read; None: the clock is not read at all.
        """
        self.wait = wait
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self._last = 0.0
        model.register_forward_pre_hook(lambda *_: self.mark("data"))
        model.register_forward_hook(lambda *_: self.mark("forward"))

    def mark(self, part: str | None) -> None:
        """End a part; None starts the clock."""
        if self.wait is None:
            return
        self.wait()
        now = time.perf_counter()
        if part:
            self.seconds[part].append(now - self._last)
        self._last = now

    def after_backward(self) -> None:
        """End the backward pass."""
        self.mark("backward")

    def medians(self, skip: int = 0) -> dict[str, float]:
        """Seconds of each part; the first ``skip`` steps do not count."""
        return {part: Timing(tuple(seconds[skip:])).median for part, seconds in self.seconds.items()}


class Trial:
    """A variant of a config, ready to make steps."""

    def __init__(self, cfg: CfgNode, data: str, compiler: str | None, model: Any = None):
        """Build model, optimizer and trainer.

        Args:
            cfg: its SOLVER.CLIPS_PER_BATCH clips make one pass.
            data: "synthetic": the same random clip, in memory already; "real": the loader of the config.
            compiler: backend of ``torch.compile``, or None.
            model: None: that of the config.
        """
        self.model = model = build_model(cfg) if model is None else model
        self.device: torch.device = model.device
        self.watch = Stopwatch(model, self._wait)
        # What torch.compile makes of a module is one.
        self.trainer = SimpleTrainer(
            model if compiler is None else cast(torch.nn.Module, torch.compile(model, backend=compiler)),
            build_train_loader(cfg) if data == "real" else itertools.repeat(make_batch(cfg, self.device)),
            build_optimizer(cfg, model),
            amp_dtype=getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None,
            clip=build_gradient_clipper(cfg),
        )
        self.trainer.register_hooks([self.watch])

    def step(self) -> None:
        """Make a step as a training does: on a GPU it may return before it is done."""
        self.watch.wait = None
        self._run()

    def split_step(self) -> None:
        """Make a step that is timed part by part: on a GPU one that waits at the end of each."""
        self.watch.wait = self._wait
        self._run()

    def cases(self, name: str) -> dict[str, Callable[[], None]]:
        """What is to be timed: on a GPU, where the marks cost time, the split is a case of its own."""
        if self.device.type == "cuda":
            return {name: self.step, f"{name}, split": self.split_step}
        return {name: self.split_step}

    def warm_up(self) -> PeakMemory:
        """Make the first steps, and return what they needed."""
        with peak_memory(str(self.device)) as peak:
            for _ in range(WARMUP_STEPS):
                self.split_step()
        return peak

    def _run(self) -> None:
        self.watch.mark(None)
        self.trainer.run_step()
        self.watch.mark("optimizer")
        self.trainer.iter += 1
        self.trainer.storage.iter = self.trainer.iter

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_batch(cfg: CfgNode, device: torch.device) -> dict[str, Any]:
    """A random batch of the clips and labels that a config trains on, where a loader would leave it."""
    generator = torch.Generator().manual_seed(0)
    clips, size, classes = cfg.SOLVER.CLIPS_PER_BATCH, cfg.INPUT.CROP_SIZE, cfg.MODEL.HEAD.NUM_CLASSES
    shape = (clips, len(cfg.MODEL.PIXEL_MEAN), cfg.INPUT.NUM_FRAMES, size, size)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    label = torch.randint(0, classes, (clips,), generator=generator)
    if cfg.MODEL.HEAD.LOSS == "sigmoid":
        label = nn.functional.one_hot(label, classes).float()
    if device.type == "cuda":
        video, label = video.pin_memory(), label.pin_memory()
    return {"video": video, "label": label, "video_id": [str(number) for number in range(clips)]}


def variant_overrides(name: str) -> list[str]:
    """Return the overrides that a name such as "contiguous+dense" stands for.

    Raises:
        ValueError: a part of it is no variant.
    """
    parts = name.split("+")
    for part in parts:
        if part not in VARIANTS:
            raise one_of("variant", part, VARIANTS)
    return [text for part in parts for text in VARIANTS[part]]


def load_variant(config_file: str, overrides: Sequence[str], batch_size: int) -> CfgNode:
    """Load a config for one process whose step is one pass.

    Args:
        config_file: see ``run``.
        overrides: of the config.
        batch_size: clips; 0: those of one pass of one rank of the config.
    """
    cfg = load_cfg(config_file, list(overrides)).clone()
    cfg.defrost()
    if batch_size:
        cfg.SOLVER.CLIPS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.ACCUMULATE = batch_size, 0, 1
    cfg = scale_to_world_size(cfg, 1).clone()
    cfg.defrost()
    cfg.SOLVER.CLIPS_PER_BATCH //= cfg.SOLVER.ACCUMULATE
    cfg.SOLVER.ACCUMULATE = 1
    cfg.freeze()
    return cfg


def measure(trials: dict[str, Trial], iterations: int, max_seconds: float, gflops: float) -> dict[str, dict[str, Any]]:
    """Measure variants in turn; the first is what the others are compared with.

    Args:
        trials: the variants by name.
        iterations: rounds.
        max_seconds: no further round begins after it.
        gflops: 1e9 operations of a step.

    Returns:
        By name: "seconds" of a step, "iterations_per_second", "parts" in seconds, "ratio" of the time to the first
        variant's, "share_of_product", the operations per second of a step divided by those of a matrix product that
        takes its turn with the steps, "peak_bytes" of a step beyond what was in use before, "process_peak_bytes" of
        everything, "runs" in seconds.
    """
    peaks = {name: trial.warm_up() for name, trial in trials.items()}
    cases: dict[str, Callable[[], None]] = {}
    for name, trial in trials.items():
        cases |= trial.cases(name)
    cases[_PRODUCT] = matrix_product(str(next(iter(trials.values())).device))
    cases[_PRODUCT]()
    timings = alternate(_with_progress(cases, iterations), rounds=iterations, warmup=0, max_seconds=max_seconds)
    first = timings[next(iter(trials))]
    return {
        name: {
            "seconds": timings[name].median,
            "iterations_per_second": 1 / timings[name].median,
            "parts": trial.watch.medians(WARMUP_STEPS),
            "ratio": timings[name].ratio_to(first),
            "share_of_product": timings[_PRODUCT].ratio_to(timings[name]) * gflops * 1e9 / PRODUCT_FLOPS,
            "peak_bytes": peaks[name].bytes,
            "process_peak_bytes": peaks[name].process_bytes,
            "runs": list(timings[name].seconds),
        }
        for name, trial in trials.items()
    }


def run(
    config_file: str,
    overrides: Sequence[str] = (),
    json_file: str | None = None,
    *,
    variants: Iterable[str] = ("config",),
    iterations: int = 5,
    data: str = "synthetic",
    batch_size: int = 0,
    compiler: str | None = None,
    max_seconds: float = float("inf"),
    peer: str | None = None,
) -> str:
    """Measure the training step of a config.

    Args:
        config_file: the YAML file.
        overrides: KEY VALUE pairs.
        json_file: file for all figures.
        variants: names in ``VARIANTS``, joined by "+" where several apply.
        iterations: steps of each variant that are timed, after ``WARMUP_STEPS`` that are not.
        data: "synthetic" or "real".
        batch_size: clips of a step; 0: those that one pass of the config takes on one device.
        compiler: backend of ``torch.compile``, or None.
        max_seconds: no further round begins after it.
        peer: "pytorchvideo": also its network, with the weights of the first variant.

    Returns:
        A table.

    Raises:
        ValueError: an option outside of what is allowed.
        ImportError: the peer is not installed.
    """
    if data not in DATA:
        raise one_of("data", data, DATA)
    for name, value, least in (("iterations", iterations, 1), ("batch_size", batch_size, 0)):
        if value < least:
            raise ValueError(f"{name}: got {value}, allowed: {least} or more")
    cfgs = {name: load_variant(config_file, [*overrides, *variant_overrides(name)], batch_size) for name in variants}
    trials = {name: Trial(cfg, data, compiler) for name, cfg in cfgs.items()}
    name, cfg = next(iter(cfgs.items()))
    if peer:
        trials[peer] = Trial(cfg, data, compiler, pytorchvideo_network(cfg, trials[name].model))
    clips = f"{cfg.SOLVER.CLIPS_PER_BATCH} x {cfg.INPUT.NUM_FRAMES}x{cfg.INPUT.CROP_SIZE}"
    # A backward pass has two products for each of the forward pass.
    gflops = 2 * 3 * model_costs(cfg, describe=False)["gmacs"] * cfg.SOLVER.CLIPS_PER_BATCH
    rows = measure(trials, iterations, max_seconds, gflops)
    if json_file:
        options = {"config": config_file, "overrides": list(overrides), "data": data, "compile": compiler}
        write_json(json_file, {"environment": environment(), **options, "clips": clips, "variants": rows})
    return f"{clips} ({data} data)\n{format_rows(rows)}"


def format_rows(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a table: seconds, where they go, and GiB."""
    return create_table(
        [
            {
                "variant": name,
                "iterations / s": f"{row['iterations_per_second']:.3f}",
                "s": f"{row['seconds']:.3f}",
                **{part: f"{seconds:.3f}" for part, seconds in row["parts"].items()},
                "time / first": f"{row['ratio']:.2f}",
                "of the product's rate": f"{row['share_of_product']:.2f}",
                "peak GiB": _gib(row["peak_bytes"]),
                "in all GiB": _gib(row["process_peak_bytes"]),
            }
            for name, row in rows.items()
        ]
    )


def _with_progress(cases: dict[str, Callable[[], None]], rounds: int) -> dict[str, Callable[[], None]]:
    bar = progress_bar(total=len(cases) * rounds, unit="step")

    def counted(case: Callable[[], None]) -> Callable[[], None]:
        """The case, and a step of the bar."""

        def run() -> None:
            """Both."""
            case()
            bar.update()

        return run

    return {name: counted(case) for name, case in cases.items()}


def _gib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**30:.2f}"
