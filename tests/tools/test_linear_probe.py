"""The script that fits only the classifier, as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nlvideo.evaluation.results_file import read_results

ROOT = Path(__file__).resolve().parents[2]
INSTANT = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")


@pytest.mark.slow
def test_two_ranks_fit_what_one_fits_and_the_folder_predicts(
    run_tool: Callable, data_opts: list[str], tmp_path: Path
) -> None:
    opts = ["--config-file", INSTANT, *data_opts, "MODEL.HEAD.NUM_CLASSES", "0"]
    run_tool("linear_probe.py", *opts, "OUTPUT_DIR", str(tmp_path / "one"))
    run_tool("linear_probe.py", *opts, "OUTPUT_DIR", str(tmp_path / "two"), "--num-gpus", "2")
    files = [next((tmp_path / name / "inference").glob("*.json")) for name in ("one", "two")]
    one, two = ([video.scores for video in read_results(str(file)).videos] for file in files)
    assert len(one) == 4 and len(one[0]) == 2
    np.testing.assert_allclose(one, two, atol=1e-3)
    assert "top1" in (tmp_path / "one" / "report.html").read_text()
    video = Path(data_opts[3].split("list:")[1].rstrip("']")).read_text().split()[0]
    run_tool("predict.py", "--model", str(tmp_path / "one"), "--input", video, "--json", str(tmp_path / "scores.json"))
    assert json.loads((tmp_path / "scores.json").read_text())


def test_a_mistake_is_one_line(run_tool: Callable, data_opts: list[str]) -> None:
    done = run_tool("linear_probe.py", "--config-file", INSTANT, *data_opts, "MODEL.WEIGHTS", "gone.pth", code=2)
    assert done.stderr.count("\n") == 1 and "gone.pth" in done.stderr
