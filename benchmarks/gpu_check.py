#!/usr/bin/env python3
"""Check nlvideo on a GPU in one command, in less than 8 minutes: ``python benchmarks/gpu_check.py``.

Each check runs in a process of its own, so that the others go on where one fails, hangs or crashes. The results are a
JSON file and a page. ``--device cpu --small`` runs the same checks on a CPU, on tiny sizes.
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NL5, QUICKSTART = str(ROOT / "configs/kinetics/i3d_r50_32x2_nl5.yaml"), str(ROOT / "configs/quickstart/i3d_nl.yaml")
# All checks together, and the share that one of them may take at most.
MOST_SECONDS, MOST_SHARE = 450.0, 0.4
# Largest differences that pass: losses and float32 relative to the largest number, bfloat16 after a norm, grey levels.
LOSS, SINGLE, HALF, LEVELS = 1e-3, 1e-4, 0.15, 2.0

Result = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """Where the checks run, and whether on tiny sizes."""

    device: str
    small: bool


class Skipped(Exception):
    """What a check needs is not here."""


def check_tests(setting: Setting) -> Result:
    """The tests that are marked "gpu"."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        *files[: 1 if setting.small else None],
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = (done.stdout.strip().splitlines() or [""])[-1].strip("= ")
    if done.returncode == 0 and "passed" not in summary:
        raise Skipped(summary)
    return {"passed": done.returncode == 0, "rows": [{"tests": summary}]}


def check_losses(setting: Setting) -> Result:
    """Training steps lead to the same losses as on a CPU."""
    import torch

    from nlvideo.tools.lib.benchmarking.train import Trial, load_variant

    losses = {}
    for device in ("cpu", setting.device):
        torch.manual_seed(0)
        options = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", device, "MODEL.HEAD.DROPOUT", "0.0", "SOLVER.BASE_LR", "0.01"]
        trial = Trial(load_variant(QUICKSTART, options, 2 if setting.small else 8), "synthetic", None)
        trial.watch.wait = None
        with trial.trainer.storage, _exact_products():
            losses[device] = []
            for _ in range(2 if setting.small else 8):
                trial.step()
                losses[device].append(trial.trainer.storage.latest()["total_loss"][0])
    rows = [
        {"step": i, "CPU": a, "here": b, "difference": abs(a - b) / abs(a)}
        for i, (a, b) in enumerate(zip(losses["cpu"], losses[setting.device], strict=True))
    ]
    return {"passed": all(row["difference"] <= LOSS for row in rows), "rows": rows}


def check_algorithms(setting: Setting) -> Result:
    """Every form and algorithm of the non-local block, and its gradient, in float32 against float64 on the CPU."""
    import torch

    from nlvideo.modeling import NonLocalBlock
    from nlvideo.modeling.nonlocal_block.block import BLOCK_ALGORITHMS

    channels, size = (16, (2, 8, 8)) if setting.small else (256, (4, 28, 28))
    x, grad = torch.randn(2, 2, channels, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = []
    for form, subsample in itertools.product(BLOCK_ALGORITHMS, (True, False)):
        torch.manual_seed(0)
        block = NonLocalBlock(channels, pairwise=form, subsample=subsample, init_std=0.05)
        torch.nn.init.ones_(block.bn.weight)
        expected = _outputs(block.double(), x, grad, "dense")
        block.float().to(setting.device)
        for algorithm in BLOCK_ALGORITHMS[form]:
            inputs = x.float().to(setting.device), grad.float().to(setting.device)
            found = _outputs(block, *inputs, algorithm)
            errors = [((a.cpu() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True)]
            keys = "pooled" if subsample else "all"
            rows.append(
                {"form": form, "keys": keys, "algorithm": algorithm, "output": errors[0], "gradient": errors[1]}
            )
    return {"passed": all(max(row["output"], row["gradient"]) <= SINGLE for row in rows), "rows": rows}


def check_half(setting: Setting) -> Result:
    """All forms in bfloat16 against float32: ours, dense and exact, and mmcv's block where it is installed."""
    import torch

    from nlvideo.tools.lib.benchmarking.nonlocal_block import FORMS, MapShape, Trial
    from nlvideo.tools.lib.benchmarking.timing import alternate

    note = ""
    try:
        import mmcv.cnn  # noqa: F401
    except ImportError as error:
        note = f"without mmcv's block: {error} (pip install mmcv-lite)"
    wait = torch.cuda.synchronize if setting.device == "cuda" else None
    rows = []
    # The concatenation form of mmcv needs tens of GB on the map of res3.
    maps = ["res3-8x64"] if setting.small else ["res4-32x224", "res3-32x224"]
    for form, pooled, shape in itertools.product(FORMS, (False, True), maps):
        peer = not note and (form != "concatenation" or shape == maps[0])
        trial = Trial(form, MapShape.parse(shape), pooled, setting.device, torch.float32, peer)
        with torch.no_grad(), _exact_products():
            expected = trial.forward("dense")
            trial.dtype = torch.bfloat16
            errors = {name: (trial.forward(name).float() - expected).abs().max().item() for name in trial.blocks}
        cases = {name: functools.partial(trial.step, name) for name in trial.blocks}
        times = alternate(cases, rounds=1 if setting.small else 5, max_seconds=8, synchronize=wait)
        # As good as another block is good enough, too.
        best = min(error for name, error in errors.items() if name != "exact")
        rows.append({
            "form": form, "map": shape, "keys": "pooled" if pooled else "all",
            **{f"{name} error": error for name, error in errors.items()},
            **{f"{name} ms": 1e3 * time.median for name, time in times.items()},
            "good": errors["exact"] <= max(HALF, 1.5 * best),
        })  # fmt: skip
    return {"passed": all(row["good"] for row in rows), "rows": rows, "note": note}


def check_decoder(setting: Setting) -> Result:
    """Frames that torchcodec decodes on the device, which is NVDEC on a GPU, against those of nlvideo."""
    from nlvideo.data import open_video
    from nlvideo.data.video.video_reader import load_video_decoder
    from nlvideo.tools.lib.benchmarking.data import write_video

    try:
        decoder = load_video_decoder()
    except ImportError as error:
        raise Skipped(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(f"{folder}/video.mp4", num_frames=40 if setting.small else 300)
        indices = list(range(0, 40, 2))
        begin = time.perf_counter()
        frames = decoder(path, dimension_order="NHWC", device=setting.device).get_frames_at(indices).data.cpu().numpy()
        seconds = time.perf_counter() - begin
        with open_video(path) as video:
            ours = video.get_frames(indices)
    difference = abs(frames.astype(float) - ours).mean()
    row = {"frames": len(indices), "seconds": seconds, "mean difference, levels": difference}
    return {"passed": difference <= LEVELS, "rows": [row]}


def check_memory(setting: Setting) -> Result:
    """Peaks of memory of training steps against those that ``tools/analyze_model.py --plan`` counts."""
    from nlvideo.tools.lib.benchmarking.train import load_variant
    from nlvideo.tools.lib.planning.machines import SET_ASIDE
    from nlvideo.tools.lib.planning.measured import measure_peak
    from nlvideo.tools.lib.planning.memory import count_step

    cases: dict[str, tuple] = {"quickstart": (QUICKSTART, [], 2 if setting.small else 64)}
    if not setting.small:
        for name, amp in (("NL I3D-R50", False), ("NL I3D-R50, bfloat16", True)):
            cases[name] = NL5, ["SOLVER.AMP.ENABLED", str(amp)], 8
    rows = []
    for name, (file, options, clips) in cases.items():
        cfg = load_variant(file, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", setting.device, *options], clips)
        counted, measured = count_step(cfg, setting.device, clips).peak, measure_peak(cfg)
        ratio = measured / counted
        rows.append({
            "config": name, "clips": clips, "counted MiB": counted / 2**20, "measured MiB": measured / 2**20,
            "measured / counted": ratio, "fits": ratio >= 0.9 and measured <= max(1.1 * counted, counted + SET_ASIDE),
        })  # fmt: skip
    return {"passed": all(row["fits"] for row in rows), "rows": rows}


def check_throughput(setting: Setting) -> Result:
    """Training steps a second, of clips that are in memory already; and what the operations of a step move."""
    from nlvideo.tools.lib.benchmarking.train import Trial, load_variant, measure
    from nlvideo.tools.lib.planning.memory import count_step

    file, clips, variants = (QUICKSTART, 2, [""]) if setting.small else (NL5, 8, ["", "bfloat16"])
    rows = []
    for amp in variants:
        options = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", setting.device, "SOLVER.AMP.ENABLED", str(bool(amp))]
        cfg = load_variant(file, options, clips)
        name = f"{Path(file).stem} {amp or 'float32'}"
        found = measure({name: Trial(cfg, "synthetic", None)}, 2 if setting.small else 20, 40, 1.0)[name]
        traffic = count_step(cfg, setting.device, clips).traffic
        rows.append({
            "config": name, "clips": clips, "seconds": found["seconds"], "clips a second": clips / found["seconds"],
            "GB/s": traffic / found["seconds"] / 1e9, **found["parts"],
        })  # fmt: skip
    return {"passed": True, "rows": rows}


CHECKS: dict[str, Callable[[Setting], Result]] = {
    "tests": check_tests,
    "losses": check_losses,
    "algorithms": check_algorithms,
    "half precision": check_half,
    "decoder": check_decoder,
    "memory": check_memory,
    "throughput": check_throughput,
}


def run_check(name: str, setting: Setting, seconds: float) -> Result:
    """Run a check in a process of its own: its result, with "result", "seconds" and "note".

    Args:
        name: in ``CHECKS``.
        setting: for the check.
        seconds: it is ended after this time.
    """
    # A server that has imported PyTorch, but has not touched the GPU, is forked for each check.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "nlvideo.tools.lib.benchmarking.train"])
    begin = time.perf_counter()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(name, setting, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv() if receiver.poll(seconds) else {"note": f"not done after {seconds:.0f} s"}
    except EOFError:
        process.join()
        found = {"note": f"its process died with exit code {process.exitcode}"}
    process.join(10 if "result" in found or "passed" in found else 0)
    process.kill()
    passed = found.pop("passed", False)
    return {"result": "passed" if passed else "failed", "seconds": time.perf_counter() - begin, "note": "", **found}


def _in_process(name: str, setting: Setting, sender: Any) -> None:
    try:
        found = CHECKS[name](setting)
    except Skipped as reason:
        found = {"result": "skipped", "note": str(reason)}
    except Exception as error:  # whatever it is, it is reported, and the other checks go on
        found = {"note": f"{type(error).__name__}: {error}".splitlines()[0]}
    sender.send(found)


def _outputs(block: Any, x: Any, grad: Any, algorithm: str) -> tuple:
    """The output of a block and the gradient of its input."""
    block.algorithm = algorithm
    x = x.clone().requires_grad_()
    with _exact_products():
        out = block.train()(x)
        out.backward(grad)
    return out.detach(), x.grad


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Convolutions and products in float32, not in TF32."""
    import torch

    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    from tabulate import tabulate

    def table(rows: list[dict]) -> str:
        return tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g")

    checks = report["checks"]
    counts = ", ".join(
        f"{sum(check['result'] == word for check in checks.values())} {word}"
        for word in ("passed", "failed", "skipped")
    )
    overview = [
        {"check": name, "result": check["result"], "seconds": round(check["seconds"], 1), "note": check["note"]}
        for name, check in checks.items()
    ]
    machine = "\n".join(f"- {name}: {value}" for name, value in report["environment"].items())
    parts = [
        f"# A check on one GPU\n\nOn {report['device']}{', tiny sizes' * report['small']}: {counts}.",
        table(overview),
    ]
    parts.append(f"## The machine\n\n{machine}")
    parts += [
        f"## {name.capitalize()}\n\n{(CHECKS[name].__doc__ or '').strip()}\n\n{table(check['rows'])}"
        for name, check in checks.items()
        if check.get("rows")
    ]
    return "\n\n".join(parts) + "\n"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, which a CPU does in a minute")
    parser.add_argument("--only", nargs="+", choices=CHECKS, metavar="CHECK", help=f"of {', '.join(CHECKS)}")
    parser.add_argument("--output", type=Path, default=Path("output/gpu_check"), metavar="DIR", help="(%(default)s)")
    return parser


def main() -> None:
    """Run the checks and write what they found."""
    args = build_parser().parse_args()
    # NVIDIA's management library is asked, so that this process does not touch the GPU.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu_check: PyTorch finds no CUDA device here; --device cpu --small runs the same checks on a CPU")
    setting, end = Setting(args.device, args.small), time.perf_counter() + MOST_SECONDS
    report: dict[str, Any] = {"device": args.device, "small": args.small, "checks": {}}
    for name in args.only or CHECKS:
        left = max(1.0, min(MOST_SHARE * MOST_SECONDS, end - time.perf_counter()))
        found = report["checks"][name] = run_check(name, setting, left)
        print(f"{name}: {found['result']} after {found['seconds']:.1f} s {found['note']}", flush=True)
    from nlvideo.tools.lib.benchmarking.timing import environment

    report["environment"] = environment()
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.output / "gpu_check.md").write_text(page(report))
    print(f"written: {args.output / 'gpu_check.json'}, {args.output / 'gpu_check.md'}")
    sys.exit(any(check["result"] == "failed" for check in report["checks"].values()))


if __name__ == "__main__":
    main()
