"""Several labels per video, from the list file to the re-scored results, as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTANT = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")
LABELS = ["3,7", "0", "0,3", "7", "3", "0,1,7"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory, make_video: Callable[..., str]) -> list[str]:
    """Overrides that train and test on videos with several labels."""
    folder = tmp_path_factory.mktemp("multilabel")
    lines = []
    for index, labels in enumerate(LABELS):
        make_video(folder / f"{index}.mp4", num_frames=8 + index, height=40)
        lines.append(f"{index}.mp4 {labels}\n")
    (folder / "all.txt").write_text("".join(lines))
    (folder / "classes.txt").write_text("\n".join(f"action {k}" for k in range(8)))
    name = str([f"list:{folder / 'all.txt'}"])
    return ["DATASETS.TRAIN", name, "DATASETS.TEST", name, "MODEL.HEAD.LOSS", "sigmoid"]


@pytest.mark.slow
def test_train_test_and_score_again(run_tool: Callable, call_tool: Callable, lists: list[str], tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    trained = run_tool("train_net.py", "--config-file", INSTANT, *lists, "OUTPUT_DIR", str(train))
    assert "copypaste: mAP,loss,num_classes,num_videos,num_failed" in trained.stdout
    assert "AP of each class of list:" in trained.stdout and "action 7" in trained.stdout
    lines = [json.loads(line) for line in (train / "metrics.json").read_text().splitlines()]
    assert len(lines) == 3 and all(line["loss_cls"] > 0 for line in lines)
    views = ["TEST.NUM_CLIPS", "2", "TEST.NUM_CROPS", "3", "TEST.AVERAGE", "logits", "TEST.KEEP_VIEWS", "True"]
    weights = ["MODEL.WEIGHTS", str(train / "model_final.pth"), "OUTPUT_DIR", str(test)]
    tested = run_tool("test_net.py", "--config-file", INSTANT, *lists, *views, *weights)
    (path,) = (test / "inference").iterdir()
    content = json.loads(path.read_text())
    metrics = content["multilabel"]
    assert 0 < metrics["mAP"] <= 100 and f"{metrics['mAP']:.2f}," in tested.stdout
    assert (metrics["num_classes"], metrics["num_videos"], metrics["num_failed"]) == (4, 6, 0)
    assert [row["num_videos"] for row in content["per_class"]] == [3, 1, 0, 3, 0, 0, 0, 3]
    assert sorted(tuple(row["label"]) for row in content["videos"]) == [(0,), (0, 1, 7), (0, 3), (3,), (3, 7), (7,)]
    for row in content["videos"]:
        assert len(row["views"]) == 6 and all(0 < score < 1 for score in row["scores"])
    out = tmp_path / "scores.json"
    assert call_tool("score", str(path), str(path), "--average", "logits", "--json", str(out))[0] == 0
    scored = json.loads(out.read_text())
    assert scored[str(path)] == scored["ensemble"] == pytest.approx(metrics)
