"""benchmarks/trials.py: every registered block is a row, what rows begin with, and the table."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest

from nlvideo.config import load_cfg
from nlvideo.modeling.costs import meta_model
from nlvideo.modeling.nonlocal_block import NONLOCAL
from nlvideo.modeling.nonlocal_block.block import PAIRWISE
from nlvideo.modeling.nonlocal_block.summary import nonlocal_modules
from nlvideo.utils.analysis import parameter_count


@pytest.fixture()
def trials(load_tool, monkeypatch, tmp_path):
    """The script as a module, with its folder of results in an empty one."""
    module = load_tool("trials", "benchmarks")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VARIANT_COSTS", tmp_path / "costs.json")
    return module


def test_every_registered_block_is_a_row_in_the_same_place_of_the_same_network(trials):
    rows = trials.variant_rows()
    assert [name for name, _, _ in rows[:8]] == [
        "C2D, the start", "I3D, the start", "C2D", "I3D", *(f"NonLocalBlock, {form}" for form in PAIRWISE),
    ]  # fmt: skip
    others = set(NONLOCAL) - {"NonLocalBlock"}
    assert len(rows) == 8 + len(others) and {name for name, _, _ in rows[8:]} == others
    sizes = set()
    for name, config, overrides in rows[3:]:
        if name in others and not NONLOCAL.get(name).__module__.startswith("nlvideo."):
            continue  # of a plugin that another test has loaded, with keys of its own
        model, _ = meta_model(load_cfg(f"configs/{config}.yaml", [*trials.VARIANTS, *overrides]))
        blocks = nonlocal_modules(model)
        cls = name.split(",")[0]
        expected = {} if cls == "I3D" else {"backbone.res2.nl0": NONLOCAL.get(cls)}
        assert {place: type(block) for place, block in blocks.items()} == expected
        if name.startswith("NonLocalBlock"):
            assert blocks["backbone.res2.nl0"].pairwise == name.split(", ")[1]
        sizes.add(parameter_count(model) - sum(parameter_count(block) for block in blocks.values()))
    assert len(sizes) == 1


def test_a_block_that_is_registered_is_a_row_by_itself(trials, monkeypatch):
    monkeypatch.setitem(NONLOCAL._objects, "Mine", NONLOCAL.get("DoubleAttention"))
    rows = {name: overrides for name, _, overrides in trials.variant_rows()}
    assert rows["Mine"][:2] == ["MODEL.NONLOCAL.NAME", "Mine"]
    assert rows["Mine"][-2:] == ["MODEL.NONLOCAL.ARGS", "[['inner_channels', 8]]"]


def test_seeds_of_the_rows(trials):
    runs = trials.plan("mosaic", [0, 1, 2])
    names = [name for name, _, _ in trials.variant_rows()]
    assert [row[0] for row, seed in runs if seed == 0] == names
    assert [row[0] for row, seed in runs if seed == 2] == names[: len(trials.STARTS) + 6]
    assert len(trials.plan("variants", [0, 1])) == 2 * len(names)


@pytest.mark.parametrize("fail", [False, True])
def test_rows_begin_with_the_weights_of_the_same_network_without_a_block(trials, monkeypatch, tmp_path, capsys, fail):
    """Runs are pretended: what matters is what each is told to do, and in which order."""
    calls = []
    monkeypatch.setitem(trials.TRIALS["variants"], "start", lambda: ["DATASETS.TRAIN", "alone"])

    def pretend(command, **_):
        """A run that leaves its metrics and its weights."""
        words = dict(zip(command[2::2], command[3::2]))
        out = trials.Path(words["OUTPUT_DIR"])
        calls.append((words["--config-file"], words.get("DATASETS.TRAIN"), words.get("MODEL.WEIGHTS"), out))
        row = {f"classification/{key}": 50.0 for key in ("top1", "top5", "num_videos")}
        (out / "metrics.json").write_text(json.dumps(row) + "\n")
        (out / "model_final.pth").touch()
        return SimpleNamespace(returncode=int(fail))

    monkeypatch.setattr(trials.subprocess, "run", pretend)
    monkeypatch.setattr(trials, "machine", lambda: "none")
    words = ["variants", "--rows", "I3D", "GlobalContext", "--seeds", "1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["trials.py", *words])
    if fail:
        with pytest.raises(RuntimeError, match="exit 1: see .*console.txt"):
            trials.main()
        assert {config for config, *_ in calls} == {"configs/quickstart/c2d.yaml", "configs/quickstart/i3d.yaml"}
        return
    trials.main()
    start = tmp_path / "out/variants/i3d_the_start_seed1"
    by_folder = {out.name: rest for *rest, out in calls}
    assert by_folder == {
        "c2d_the_start_seed1": ["configs/quickstart/c2d.yaml", "alone", None],
        "i3d_the_start_seed1": ["configs/quickstart/i3d.yaml", "alone", None],
        "i3d_seed1": ["configs/quickstart/i3d.yaml", None, str(start / "model_final.pth")],
        "globalcontext_seed1": ["configs/quickstart/i3d_nl.yaml", None, str(start / "model_final.pth")],
    }
    table = capsys.readouterr().out
    assert "| GlobalContext | 50.0 (one seed) | 50.0 |" in table
    # A second call trains nothing. Weights that are gone are named.
    trials.main()
    assert len(calls) == 4
    (start / "model_final.pth").unlink()
    (tmp_path / "benchmarks/results/variants/i3d_seed1.json").unlink()
    with pytest.raises(RuntimeError, match="no weights in .*: run --rows 'I3D, the start' --again"):
        trials.main()


def test_the_table_has_the_costs(trials, monkeypatch, tmp_path):
    step = {"seconds": 0.25, "peak_bytes": 3 * 2**20}
    maps = {"beacon": {"I3D": step, "CrissCross": step}, "res3-32x224": {"CrissCross": {**step, "peak_bytes": None}}}
    costs = {"blocks": {"CrissCross": {"params": 1234, "gmacs": 0.0125}}, "maps": maps}
    (tmp_path / "costs.json").write_text(json.dumps(costs))
    results = {("I3D", 0): {"top1": 30.0, "minutes": 2.0}, ("I3D", 1): {"top1": 32.0, "minutes": 2.2}}
    results["CrissCross", 0] = {"top1": 90.0, "minutes": 3.0}
    assert trials.report("variants", results, [0, 1]).splitlines() == [
        "| model | top-1 (mean ± std) | seed 0 | seed 1 | minutes a run | parameters of the block "
        "| million multiply-adds of the block | beacon: ms | beacon: MiB | res3-32x224: ms | res3-32x224: MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        "| I3D | 31.0 ± 1.4 | 30.0 | 32.0 | 2.1 |  |  | 250 | 3 |  |  |",
        "| CrissCross | 90.0 (one seed) | 90.0 |  | 3.0 | 1,234 | 12.50 | 250 | 3 | 250 |  |",
    ]


def test_costs_of_all_rows_are_measured_in_turn(load_tool, monkeypatch):
    monkeypatch.syspath_prepend("benchmarks")
    trials = importlib.import_module("trials")
    costs = load_tool("variant_costs", "benchmarks")
    rows = [row for row in trials.variant_rows() if row[0] in ("I3D", "NonLocalBlock, gaussian", "CrissCross")]
    tiny = ["INPUT.NUM_FRAMES", "4", "INPUT.CROP_SIZE", "32", "SOLVER.CLIPS_PER_BATCH", "2"]
    monkeypatch.setitem(trials.TRIALS["variants"], "overrides", lambda: tiny)
    found = costs.measure(rows, ("res3-8x56",), rounds=2, max_seconds=3600)
    assert list(found["maps"]) == ["beacon", "res3-8x56"] and set(found["maps"]["beacon"]) == {row[0] for row in rows}
    assert set(found["maps"]["res3-8x56"]) == set(found["blocks"]) == {"NonLocalBlock, gaussian", "CrissCross"}
    assert all(row["seconds"] > 0 and len(row["runs"]) == 2 for part in found["maps"].values() for row in part.values())
    # Criss-cross attention keeps more channels of values than the Gaussian form. At res3 it has its usual channels.
    saved = {name: row["saved_bytes"] for name, row in found["maps"]["res3-8x56"].items()}
    assert saved["CrissCross"] > saved["NonLocalBlock, gaussian"] > 0
    assert costs.usual_block(rows[-1], 512).query.out_channels == 64
    assert found["blocks"]["CrissCross"]["params"] == 2 * (16 * 8 + 8) + 16 * 16 + 16 + 1
