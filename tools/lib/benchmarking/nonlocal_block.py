"""The non-local block, forward and backward: our dense and exact algorithms and mmcv's ``NonLocal3d`` in one run.

All three have the same weights and compute the same function, which is checked before anything is timed.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from nlvideo.modeling.nonlocal_block import NonLocalBlock
from nlvideo.utils.console import create_table, progress_bar
from nlvideo.utils.files.file_io import write_json
from nlvideo.utils.messages import one_of

from .peer import mmcv_block, mmcv_bytes
from .timing import alternate, environment, peak_memory

FORMS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
# Channels and stride of the stages of a ResNet-50; 8 is the paper's stride in time (Table 1).
STAGES = {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16)}
TEMPORAL_STRIDE = 8
SHAPES = tuple(
    f"{stage}-{frames}x{side}" for side in (224, 256) for stage in ("res3", "res4") for frames in (8, 32, 128)
)
KEYS = ("all", "pooled")
# Of the memory that is free now: the rest is for what else the process and the system need.
USABLE_MEMORY = 0.7


@dataclass(frozen=True)
class MapShape:
    """A feature map of one clip: ``name`` is "STAGE-FRAMESxSIDE", ``size`` (T, H, W)."""

    name: str
    channels: int
    size: tuple[int, int, int]

    @classmethod
    def parse(cls, name: str) -> "MapShape":
        """Read "res3-32x224": that stage of a ResNet-50 for 32 frames of 224 x 224 pixels.

        Raises:
            ValueError: for another spelling or stage.
        """
        match = re.fullmatch(r"(res\d)-(\d+)x(\d+)", name)
        if not match or match[1] not in STAGES:
            raise ValueError(
                f"shape {name!r}: allowed are STAGE-FRAMESxSIDE, such as res3-32x224, of {', '.join(STAGES)}"
            )
        channels, stride = STAGES[match[1]]
        side = max(1, int(match[3]) // stride)
        return cls(name, channels, (max(1, int(match[2]) // TEMPORAL_STRIDE), side, side))


@dataclass
class Measured:
    """One implementation of one form at one shape; what could not be run is None, and ``note`` says why.

    ``extrapolated_from``: the P x Q at which the time was measured, where this one does not fit into memory.
    """

    seconds: float | None = None
    saved_bytes: int | None = None
    saved_matrices: int | None = None
    peak_bytes: int | None = None
    max_difference: float | None = None
    note: str = ""
    extrapolated_from: str = ""


def make_block(form: str, shape: MapShape, pooled: bool, algorithm: str = "auto") -> NonLocalBlock:
    """The block as mmcv builds it: keys pooled after the projection, if at all. Its norm has weight 1, not 0."""
    torch.manual_seed(0)
    block = NonLocalBlock(
        shape.channels, pairwise=form, subsample=pooled, pool_first=False, algorithm=algorithm,
        scale=form == "embedded_gaussian", init_std=0.05,
    )  # fmt: skip
    assert isinstance(block.bn, nn.BatchNorm3d)
    nn.init.ones_(block.bn.weight)
    return block


def saved_for_backward(work: Callable[[], torch.Tensor], module: nn.Module, matrix_numel: int) -> tuple[int, int]:
    """What a forward pass keeps beside parameters: bytes, and the number of tensors of ``matrix_numel`` elements.

    Args:
        work: a forward pass.
        module: its parameters are not counted.
        matrix_numel: batch x P x Q.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}
    matrices: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        """Take note of a tensor; views of one storage count once."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            if tensor.numel() == matrix_numel:
                matrices.add(storage.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = work()  # alive until everything is counted: an address may not serve twice
    del out
    return sum(kept.values()), len(matrices)


class Trial:
    """One form at one shape: the implementations side by side on the same input."""

    def __init__(self, form: str, shape: MapShape, pooled: bool, device: str, dtype: torch.dtype, peer: bool):
        self.form, self.shape, self.pooled = form, shape, pooled
        self.device, self.dtype = device, dtype
        self.exact = block = make_block(form, shape, pooled)
        self.sets, self.queries, self.keys = block.attention_size(shape.size)
        self.blocks: dict[str, nn.Module] = {"dense": make_block(form, shape, pooled, "dense"), "exact": block}
        if peer:
            self.blocks = {"mmcv": mmcv_block(block), **self.blocks}
        for module in self.blocks.values():
            module.to(device).train()
        self.x = torch.randn(1, shape.channels, *shape.size, device=device).requires_grad_()
        self.grad = torch.randn_like(self.x)

    def forward(self, name: str) -> torch.Tensor:
        """The output of one of the implementations."""
        lower = self.dtype != torch.float32
        with torch.autocast(self.x.device.type, dtype=self.dtype if lower else torch.bfloat16, enabled=lower):
            return self.blocks[name](self.x)

    def step(self, name: str) -> None:
        """Forward and backward."""
        self.x.grad = None
        self.blocks[name].zero_grad(set_to_none=True)
        self.forward(name).float().backward(self.grad)

    def needs_bytes(self, name: str) -> int:
        """Roughly what a step needs: with the matrix some four of it, in forward and backward."""
        if name == "mmcv" and self.form == "concatenation":
            return mmcv_bytes(self.queries, self.keys, self.shape.channels)
        return 4 * 4 * self.queries * self.keys if name != "exact" else 0

    def measure(self, rounds: int, max_seconds: float) -> dict[str, Measured]:
        """Check that all give the same, then measure each."""
        available = _available_bytes(self.device) * USABLE_MEMORY
        found = {name: Measured() for name in self.blocks}
        for name, row in found.items():
            if self.needs_bytes(name) > available:
                row.note = f"needs about {self.needs_bytes(name) / 2**30:.0f} GiB"
        runs = [name for name, row in found.items() if not row.note]
        with torch.no_grad():
            expected = self.forward("exact").float()
            for name in runs:
                found[name].max_difference = (self.forward(name).float() - expected).abs().max().item()
        matrix_numel = self.sets * self.queries * self.keys
        for name in runs:
            row = found[name]
            with peak_memory(self.device) as peak:
                self.step(name)
            row.peak_bytes = peak.bytes
            row.saved_bytes, row.saved_matrices = saved_for_backward(
                partial(self.forward, name), self.blocks[name], matrix_numel
            )
        wait = (lambda: torch.cuda.synchronize(self.device)) if self.device.startswith("cuda") else None
        cases = {name: partial(self.step, name) for name in runs}
        # Each has run once for its peak of memory.
        timings = alternate(cases, rounds=rounds, warmup=0, max_seconds=max_seconds, synchronize=wait)
        for name in runs:
            found[name].seconds = timings[name].median
        self.ratios = {name: timings[name].ratio_to(timings["exact"]) for name in runs if name != "exact"}
        for name in found.keys() - runs:
            self._extrapolate(name, found[name], available)
            seconds = found[name].seconds
            assert seconds is not None
            self.ratios[name] = seconds / timings["exact"].median
        return found

    def _extrapolate(self, name: str, row: Measured, available: float) -> None:
        """Time a smaller map; where the matrix is too large for memory, next to nothing else takes time."""
        time, height, width = self.shape.size
        small = self
        while small.needs_bytes(name) > available:
            time, height = (time // 2, height) if time > 1 else (1, height // 2)
            shape = MapShape(self.shape.name, self.shape.channels, (time, height, width))
            small = Trial(self.form, shape, self.pooled, self.device, self.dtype, peer=name == "mmcv")
        seconds = alternate({name: lambda: small.step(name)}, rounds=2)[name].median
        row.seconds = seconds * (self.queries * self.keys) / (small.queries * small.keys)
        row.extrapolated_from = f"{small.queries} x {small.keys}"


def measure_all(
    forms: Sequence[str],
    shapes: Sequence[str],
    keys: Sequence[str],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    peer: bool = False,
    rounds: int = 5,
    max_seconds: float = 60,
) -> Iterator[dict[str, Any]]:
    """Measure every form at every shape.

    Args:
        forms: pairwise functions.
        shapes: see ``MapShape.parse``.
        keys: "all" positions, "pooled" ones (1x2x2), or both.
        device: "cpu" or "cuda".
        dtype: of the autocast; "float32" for none.
        peer: also mmcv's block.
        rounds: how often each implementation runs.
        max_seconds: for one form at one shape; one round is always made.

    Yields:
        {"form", "shape", "keys", "P", "Q", "algorithm", "implementations": {name: Measured as a dict}, "ratios": time
        of the other implementations divided by that of ours}.

    Raises:
        ValueError: for a form, shape, keys or dtype that is not allowed.
    """
    for name, given, allowed in (("form", forms, FORMS), ("keys", keys, KEYS)):
        for value in given:
            if value not in allowed:
                raise one_of(name, value, allowed)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise one_of("dtype", dtype, ("float32", "bfloat16", "float16"))
    plan = [(f, MapShape.parse(s), k) for f in forms for s in shapes for k in keys]
    for form, shape, kind in progress_bar(plan, desc="forms x shapes"):
        trial = Trial(form, shape, kind == "pooled", device, getattr(torch, dtype), peer)
        implementations = {name: asdict(row) for name, row in trial.measure(rounds, max_seconds).items()}
        yield {
            "form": form, "shape": shape.name, "keys": kind, "P": trial.queries, "Q": trial.keys,
            "algorithm": trial.exact.algorithm_for(shape.size),
            "implementations": implementations, "ratios": trial.ratios,
        }  # fmt: skip


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table: milliseconds and MiB of each implementation, and how many times slower the others are.

    Args:
        rows: of ``measure_all``.
    """
    table = []
    for row in rows:
        line = {
            "form": row["form"],
            "map": row["shape"],
            "P x Q": f"{row['P']} x {row['Q']}",
            "algorithm": row["algorithm"],
        }
        for name, found in row["implementations"].items():
            line[f"{name} ms"] = f"{1e3 * found['seconds']:.1f}" + ("*" if found["extrapolated_from"] else "")
        for name in row["implementations"]:
            if name != "exact":
                line[f"{name} / exact"] = f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-"
        for what, label in (("saved_bytes", "saved MiB"), ("peak_bytes", "peak MiB")):
            line[label] = " / ".join(_mib(found[what]) for found in row["implementations"].values())
        table.append(line)
    legend = "\n* too large for memory; extrapolated, in proportion to P x Q, from what is not"
    return create_table(table) + (legend if any("*" in str(cell) for line in table for cell in line.values()) else "")


def run(
    forms: Sequence[str] | None,
    shapes: Sequence[str] | None,
    keys: Sequence[str] | None,
    json_file: str | None,
    **options: Any,
) -> str:
    """Measure, write ``json_file`` after every row, and return the table; see ``measure_all``."""
    found: list[dict[str, Any]] = []
    for row in measure_all(forms or FORMS, shapes or SHAPES, keys or KEYS, **options):
        found.append(row)
        if json_file:
            write_json(json_file, {"environment": environment(), "options": options, "rows": found})
    return format_rows(found)


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:.0f}"


def _available_bytes(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
