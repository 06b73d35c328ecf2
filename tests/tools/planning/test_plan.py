"""The plan of a training: its figures, its options, and that docs/scale.md shows what the tool prints."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nlvideo.config import CfgNode, load_cfg
from nlvideo.tools.lib.planning import plan
from nlvideo.tools.lib.planning.machines import GPUS, SET_ASIDE
from nlvideo.tools.lib.planning.measured import measure_reading
from nlvideo.tools.lib.planning.memory import count_step
from nlvideo.tools.lib.planning.plan import Figure, Planner, format_sections

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["MODEL.BACKBONE.DEPTH", 10, "MODEL.NONLOCAL.BLOCKS", ["res3.0"], "MODEL.BACKBONE.WIDTH", 0.25]


def small(*overrides: object) -> CfgNode:
    """The network of the paper's run, thin and of fewer blocks, on smaller clips; its schedule."""
    clip = ["INPUT.NUM_FRAMES", 8, "INPUT.CROP_SIZE", 112]
    return load_cfg("configs/kinetics/i3d_r50_32x2_nl5.yaml", [*SMALL, *clip, *overrides])


@pytest.fixture(scope="module")
def sections() -> dict[str, dict[str, Figure]]:
    """The figures of a plan for 1, 8 and 64 GPUs, by section and by name."""
    found = Planner(small(), "a100", [1, 8, 64], 240000, "kinetics").sections()
    named = [{figure.name: figure for figure in rows} for rows in found.values()]
    return dict(zip(("memory", "settings", "computing", "network", "reading", "schedule", "walls"), named, strict=True))


def test_the_largest_pass_is_the_last_one_that_fits(sections: dict[str, dict[str, Figure]]) -> None:
    clips = int(sections["memory"]["largest pass in 16 GiB"].values[0])
    spare = 16 * 2**30 - SET_ASIDE
    assert count_step(small(), "cuda", clips).peak <= spare < count_step(small(), "cuda", clips + 1).peak


def test_memory_of_several_ranks_has_the_blocks_for_the_exchange(sections: dict[str, dict[str, Figure]]) -> None:
    memory = sections["memory"]
    gradients, (one, eight, many) = memory["gradients"].values[0], memory["peak of a step"].values
    assert one + gradients == eight == many and memory["clips of a pass"].values == (8, 8, 8)
    assert {figure.how for figure in memory.values()} == {"counted", "assumed"}


def test_every_algorithm_and_setting_is_counted(sections: dict[str, dict[str, Figure]]) -> None:
    names = {name.split(":")[0] for name in sections["settings"]}
    assert names == {
        "algorithm dense", "algorithm fused", "blocks recomputed", "mixed precision", "channels first",
    }  # fmt: skip
    kept = {name: figure.values[0] for name, figure in sections["settings"].items() if "kept" in name}
    assert kept["blocks recomputed: kept, each clip"] < kept["algorithm fused: kept, each clip"]


def test_times_follow_from_the_tables(sections: dict[str, dict[str, Figure]]) -> None:
    computing, whole = sections["computing"], sections["schedule"]
    operations = 2e9 * computing["step, each GPU"].values[0]
    assert computing["products at 20% of the peak"].values[0] == pytest.approx(operations / (0.2 * 156e12))
    moved = computing["read and written in a step"].values[0]
    step = computing["step, the longer one at 40%"].values[0]
    assert step == pytest.approx(max(operations / (0.4 * 156e12), moved / (0.8 * 2039e9)))
    assert whole["iterations"].values == (3200000, 400000, 50000) and set(whole["clips"].values) == {25600000}
    assert whole["time at 40% of the peak"].values[1] == pytest.approx(400000 * step)
    gradients = sections["network"]["gradients"].values[0]
    assert sections["network"]["all-reduce, 10 Gbit/s"].values[1] == pytest.approx(2 * 7 / 8 * gradients / 1.25e9)
    cores = sections["reading"]["cores, each GPU"].values[0]
    assert cores == pytest.approx(8 / step * (46 + 16) * 1.03e-3)
    assert sections["walls"]["decoding: of 16 cores for each GPU"].values[0] == pytest.approx(100 * cores / 16)


def test_text_has_a_column_for_each_number_of_gpus() -> None:
    rows = [Figure("a", (0.5 * 2**30, 3 * 2**20), "bytes", "counted"), Figure("b", (0.01, 90), "s", "assumed")]
    lines = format_sections({"T": rows}, [1, 8]).splitlines()
    assert lines[0] == "T" and lines[1].split() == ["1", "GPU", "8", "GPUs", "how"]
    assert lines[3].split() == ["a", "0.50", "GiB", "3.00", "MiB", "counted"]
    assert lines[4].split() == ["b", "10", "ms", "1", "min", "30", "s", "assumed"]


def test_videos_that_are_here_are_measured(data_opts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = small(*data_opts, "INPUT.FRAME_STRIDE", 1, "INPUT.NUM_FRAMES", 4)
    planner = Planner(cfg, "h100", [8], 1000, "kinetics")
    monkeypatch.setattr(Planner, "seconds", lambda self, run, fraction=0.4: 1.0)
    rows = {figure.name: figure for figure in planner.reading()}
    assert (
        rows["reading a clip, one core"].how == "measured here" and 0 < rows["reading a clip, one core"].values[0] < 1
    )


def test_data_that_is_not_here_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLVIDEO_DATASETS", str(tmp_path))
    for names in ([], ["beacon_train"], ["kinetics400_train"], ["list:none.txt"]):
        assert measure_reading(small("DATASETS.TRAIN", names)) is None
    assert not list(tmp_path.iterdir())


def test_this_machine_in_place_of_a_gpu() -> None:
    planner = Planner(small("SOLVER.REFERENCE_WORLD_SIZE", 0, "SOLVER.CLIPS_PER_BATCH", 4), "cpu", [1], 10, "kinetics")
    assert planner.device == "cpu" and planner.gpu.memory > 0.5 and planner.gpu.bandwidth > 0.1
    computing = {figure.name: figure for figure in planner.computing()}
    assert computing["products at 40% of the peak"].how == "measured here"


@pytest.mark.parametrize("arguments, message", [
    (["--gpu", "h100"], "--gpu: allowed with --plan"),
    (["--plan", "--gpu", "b300"], "--gpu: got 'b300', allowed: 'h100', 'a100', 'l40s', 'rtx4090', 'cpu'"),
    (["--plan", "--video-profile", "x"], "--video-profile: got 'x', allowed: 'kinetics', "),
    (["--plan", "--videos", "0"], "--videos: got 0, allowed: 1 or more"),
    (["--plan", "--num-gpus", "0"], "--num-gpus: got 0, allowed: 1 or more"),
    (["--plan", "--num-gpus", "3", "SOLVER.REFERENCE_WORLD_SIZE", "0"],
     "SOLVER.CLIPS_PER_BATCH: got 64, allowed with 3 GPUs: a multiple of 3"),
])  # fmt: skip
def test_what_is_not_allowed_is_said(arguments: list[str], message: str, call_tool: Callable) -> None:
    file = "configs/kinetics/i3d_r50_32x2_nl5.yaml"
    status, _, errors = call_tool("analyze_model", "--config-file", str(ROOT / file), *arguments)
    assert status == 2 and message in errors


PAGE = (ROOT / "docs/scale.md").read_text()
SHOWN = re.findall(r"^```\n(python tools/analyze_model\.py .*?)^```\n\n```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def numbers(text: str) -> list[float]:
    """All numbers of a text."""
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def test_the_page_shows_what_the_tool_prints(call_tool: Callable) -> None:
    """Words are the same. A number may differ where another PyTorch has other kernels."""
    ((command, shown),) = SHOWN
    assert "--num-gpus 1,8,64" in command
    status, out, errors = call_tool("analyze_model", *shlex.split(command.replace("\\\n", " "))[2:])
    assert status == 0, errors
    assert re.sub(r"[\d.,\s-]+", " ", out).split() == re.sub(r"[\d.,\s-]+", " ", shown).split()
    assert numbers(out) == pytest.approx(numbers(shown), rel=0.03)


def test_json_has_every_figure(call_tool: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure("a", (1,), "bytes", "counted")
    monkeypatch.setattr(plan.Planner, "sections", lambda self: {"T": [figure]})
    file = str(ROOT / "configs/kinetics/i3d_r50_32x2_nl5.yaml")
    status, out, errors = call_tool("analyze_model", "--config-file", file, "--plan", "--json")
    assert status == 0, errors
    assert json.loads(out) == {"T": [{"name": "a", "values": [1], "unit": "bytes", "how": "counted"}]}


def test_sheets_are_dense_rates() -> None:
    assert all(gpu.half == pytest.approx(2 * gpu.single, rel=0.03) for gpu in GPUS.values())
