"""Folders of runs as training leaves them, made without training, and a parser of the page."""

import json
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlvideo.config import load_cfg
from nlvideo.evaluation.results_file import Results, VideoScores, write_results

ROOT = Path(__file__).resolve().parents[3]
_VOID = {"meta", "link", "img", "br", "input", "hr"}


def write_run(
    folder: Path,
    opts: Sequence[str] = (),
    iterations: Sequence[int] = range(9, 100, 10),
    validation: int = 50,
    seed: int = 0,
) -> Path:
    """A run of the instant network: config.yaml and metrics.json with an evaluation every ``validation`` iterations."""
    folder.mkdir(parents=True, exist_ok=True)
    config = str(ROOT / "configs" / "quickstart" / "instant_test.yaml")
    cfg = load_cfg(config, ["SOLVER.MAX_ITER", "100", "OUTPUT_DIR", str(folder), *opts])
    (folder / "config.yaml").write_text(cfg.dump())
    rng = np.random.default_rng(seed)
    lines = []
    for i in iterations:
        row = {"iteration": i, "total_loss": 2 - i / 100, "loss_cls": 2 - i / 100, "lr": 0.01, "time": 0.5,
               "data_time": 0.1, "top1": float(rng.integers(20, 60)), "peak_cpu_memory_mib": 512.0 + i}  # fmt: skip
        if validation and (i + 1) % validation == 0:
            row |= {"classification/top1": 40.0 + i / 10, "classification/top5": 90.0, "classification/num_videos": 6.0}
        lines.append(json.dumps(row) + "\n")
    (folder / "metrics.json").write_text("".join(lines))
    return folder


def write_test(
    folder: Path,
    scores: Sequence[Sequence[float] | None],
    labels: Sequence[int | list[int]],
    names: Sequence[str] = ("jump", "run", "sit"),
    sources: Sequence[dict[str, Any]] | None = None,
    dataset: str = "toy_val",
    metric: str = "accuracy",
) -> None:
    """The results file of a test with these scores, and an invented metric of each class."""
    sources = sources or [{}] * len(scores)
    videos = [
        VideoScores(f"v{i}", label, None if row is None else np.array(row, np.float32), None, source)
        for i, (row, label, source) in enumerate(zip(scores, labels, sources))
    ]
    flat = [k for label in labels for k in ([label] if isinstance(label, int) else label)]
    rows = [
        {"class": k, "name": name, "num_videos": flat.count(k), metric: 10.0 * (k % 11) if k in flat else None}
        for k, name in enumerate(names)
    ]
    task = "classification" if metric == "accuracy" else "multilabel"
    metrics = {task: {"top1" if metric == "accuracy" else "mAP": 50.0, "num_videos": len(videos), "num_failed": 0}}
    (folder / "inference").mkdir(parents=True, exist_ok=True)
    results = Results(dataset, "ClassificationEvaluator", len(names), videos, metrics=metrics, per_class=rows)
    write_results(str(folder / "inference" / f"{dataset.replace(':', '_').replace('/', '_')}.json"), results)


@pytest.fixture()
def make_run() -> Callable[..., Path]:
    """``make_run(folder, opts=(), iterations=range(9, 100, 10), validation=50, seed=0) -> folder``."""
    return write_run


@pytest.fixture()
def make_test() -> Callable[..., None]:
    """``make_test(folder, scores, labels, names=(...), sources=None, dataset="toy_val", metric="accuracy")``."""
    return write_test


class Node:
    """An element of a page: tag, attributes, and children, which are elements and texts."""

    def __init__(self, tag: str, attributes: dict[str, str]):
        self.tag, self.attributes, self.children = tag, attributes, []

    def all(self, tag: str, **attributes: str) -> list["Node"]:
        """The elements below with this tag; of a class where ``class_`` is given, or with other attributes."""
        wanted = attributes.pop("class_", None)
        found = []
        for child in self.children:
            if isinstance(child, Node):
                fits = child.tag == tag and all(child.attributes.get(k) == v for k, v in attributes.items())
                if fits and (wanted is None or wanted in (child.attributes.get("class") or "").split()):
                    found.append(child)
                found += child.all(tag, **attributes, **({} if wanted is None else {"class_": wanted}))
        return found

    @property
    def text(self) -> str:
        """All text below, spaces collapsed."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join(" ".join(parts).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        # Strict where a browser is not: what is opened is closed, in order.
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


@pytest.fixture()
def read_html() -> Callable[[str], Node]:
    """``read_html(text) -> Node``: parse a page, whose elements must be closed in order."""

    def read(text: str) -> Node:
        """Parse it."""
        reader = _Reader()
        reader.feed(text)
        reader.close()
        assert [node.tag for node in reader.open] == [""], "an element is left open"
        return reader.root

    return read
