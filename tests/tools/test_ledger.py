"""The ledger, MODEL_ZOO.md made of it, and the script that makes it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nlvideo.model_zoo import list_networks
from nlvideo.tools.lib.ledger import LEDGER_FILE, format_model_zoo, read_ledger

ROOT = Path(__file__).resolve().parents[2]
NAME = "kinetics/c2d_r50_32x2"
MEASURED = {
    "figures": {"top1": 71.84, "top5": 89.66}, "num_videos": 19761, "hardware": "8 x V100", "date": "2026-11-22",
    "command": "tools/train_net.py --config-file configs/kinetics/c2d_r50_32x2.yaml --num-gpus 8",
}  # fmt: skip


@pytest.fixture
def write(tmp_path: Path):
    """``write({...}) -> path``: a ledger of this content."""

    def to_file(content: dict) -> Path:
        """Write it."""
        path = tmp_path / "ledger.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return to_file


def test_model_zoo_md_is_up_to_date() -> None:
    text = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf8")
    assert text == format_model_zoo(read_ledger(), list_networks()), "run tools/make_model_zoo.py"


def test_there_is_one_row_for_each_config_and_its_link_leads_there() -> None:
    text = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf8")
    linked = re.findall(r"^\| \[[^\]]+\]\(configs/(.+)\.yaml\) \|", text, re.MULTILINE)
    assert sorted(linked) == list_networks() and linked.index("kinetics/c2d_r50_32x2_nl5") < linked.index(
        "kinetics/c2d_r50_32x2_nl10"
    )
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / target).exists(), target


def test_nothing_is_claimed_that_was_not_measured() -> None:
    for name, entry in read_ledger().items():
        measured = entry.get("measured")
        assert measured is None or name.split("/")[-1] in measured["command"]


def test_the_cells_of_a_row(write) -> None:
    release = {"model": "c2d_baseline_32x2_IN_pretrain_400k", "figures": {"top1": 72.0, "top5": 90.0}}
    paper = {"source": "Table 2f", "figures": {"map": 37.5}}
    path = write({NAME: {"paper": paper, "release": release, "measured": MEASURED}})
    row = format_model_zoo(read_ledger(path), [NAME]).splitlines()[-1]
    assert row == (
        "| [c2d_r50_32x2](configs/kinetics/c2d_r50_32x2.yaml) | 37.5 mAP (Table 2f) | "
        "72.0 / 90.0 (`c2d_baseline_32x2_IN_pretrain_400k`) | 71.8 / 89.7 (19,761 videos; "
        f"`{MEASURED['command']}`; 8 x V100; 2026-11-22) |"
    )


def test_a_config_without_an_entry_has_empty_cells() -> None:
    assert format_model_zoo({}, ["quickstart/i3d"]).splitlines()[-1].count("|  |") >= 1


@pytest.mark.parametrize("key", ["figures", "num_videos", "command", "hardware", "date"])
def test_a_measurement_says_how_it_was_made(write, key: str) -> None:
    path = write({NAME: {"measured": {k: v for k, v in MEASURED.items() if k != key}}})
    with pytest.raises(ValueError, match=rf"{NAME}: measured: lacks \['{key}'\]") as error:
        read_ledger(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"papers": {}}, "papers: unknown section, allowed: paper, release, measured, note"),
        ({"paper": {"source": "Table 1", "figures": {"top1": 1.0}}}, r"figures: got \['top1'\], allowed: top1"),
        ({"paper": {"source": "Table 1", "figures": {"map": 1.0}, "costs": {"flops": 1}}}, r"costs: got \['flops'\]"),
        ({"release": {"model": "m", "figures": {"map": 1.0}, "url": "x"}}, r"does not know \['url'\]"),
    ],
)
def test_wrong_entries_are_one_line(write, entry: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_ledger(write({NAME: entry}))
    assert str(error.value).startswith(str(write({}))) and "\n" not in str(error.value)


def test_an_entry_of_no_config(write) -> None:
    with pytest.raises(KeyError, match="'kinetics/c2d_r50_32x3' is no config. did you mean"):
        read_ledger(write({"kinetics/c2d_r50_32x3": {}}))


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no ledger"):
        read_ledger(tmp_path / "nowhere.yaml")
    (tmp_path / "broken.yaml").write_text("a: b: c")
    with pytest.raises(ValueError, match="broken.yaml: not safe YAML"):
        read_ledger(tmp_path / "broken.yaml")


def test_the_script_writes_and_checks(tmp_path: Path, call_tool: Callable) -> None:
    output = str(tmp_path / "MODEL_ZOO.md")
    for state in ("missing", "stale"):
        status, out, _ = call_tool("make_model_zoo", "--check", "--output", output)
        assert status == 1 and f"{output} is not what {LEDGER_FILE} gives" in out, state
        Path(output).write_text("stale")
    assert call_tool("make_model_zoo", "--output", output) == (0, f"Wrote {output}\n", "")
    assert call_tool("make_model_zoo", "--check", "--output", output) == (0, f"{output} is up to date\n", "")
    assert Path(output).read_text() == (ROOT / "MODEL_ZOO.md").read_text()
