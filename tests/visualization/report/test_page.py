"""The page: whole, escaped, with nothing to fetch, whatever is missing."""

import base64
import io
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from nlvideo.checkpoint import Checkpointer
from nlvideo.config import load_cfg
from nlvideo.modeling import build_model
from nlvideo.visualization.report import page as page_module
from nlvideo.visualization.report import render_report, try_write_report, write_report
from nlvideo.visualization.report.clips import Budget
from nlvideo.visualization.report.page import format_number, format_value
from nlvideo.visualization.report.run import read_runs

SCORES = [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], None, [0.1, 0.0, 0.9]]
LABELS = [0, 1, 1, 2, 0, 1]
EVIL = '<script>alert("a")</script><img src=x onerror=alert(1)>'


@pytest.fixture()
def page_of(read_html: Callable) -> Callable:
    """``page_of(folder, ...) -> (text, node)``."""

    def make(*folders: Path) -> tuple:
        """Render it."""
        text = render_report(read_runs([str(folder) for folder in folders]))
        return text, read_html(text)

    return make


def sections(page) -> dict:
    return {section.attributes["id"]: section for section in page.all("section")}


def test_a_whole_run(page_of, make_run, make_test, make_video, tmp_path):
    run = make_run(tmp_path / "run", ["MODEL.NONLOCAL.PAIRWISE", "dot_product"])
    clip = make_video(tmp_path / "clip.mp4", num_frames=12)
    make_test(run, SCORES, LABELS, sources=[{"file_name": clip}] * 6)
    _, page = page_of(run)
    assert page.all("title")[0].text == page.all("h1")[0].text == "run"
    found = sections(page)
    assert list(found) == ["summary", "curves", "test-1", "config", "model", "environment"]
    tiles = dict(zip(*([node.text for node in found["summary"].all(tag)] for tag in ("dt", "dd"))))
    assert (
        next(iter(tiles)) == "top1 (%)" and tiles["top1 (%)"] == "49.90 (18.7 to 81.2)" and tiles["iterations"] == "100"
    )
    (note,) = (node.text for node in found["summary"].all("p", class_="note"))
    assert "95 % confidence interval of an accuracy (Wilson's)" in note
    assert len(found["test-1"].all("span", class_="interval")) > 3  # top-1, top-5, and each class
    # 100 iterations of half a second and four clips.
    assert tiles["training time"] == "50 s" and tiles["clips/s"] == "8.0" and tiles["memory (GiB)"] == "0.60"
    titles = [node.text for node in found["curves"].all("h3")]
    assert titles[0] == titles[1] == "Error on training clips and in validation"
    assert titles[2:] == ["Loss: loss_cls", "Learning rate", "Throughput", "Waiting for data", "Peak of memory"]
    assert "dot_product over spacetime" in page.all("p", class_="lead")[0].text
    assert "PAIRWISE: dot_product" in found["config"].all("pre")[0].text
    (blocks,) = found["model"].all("table")
    assert blocks.all("tbody")[0].all("tr")[0].text.startswith("backbone.res4.nl1 2 x 2 x 2 ")
    assert len(page.all("video")) == len(page.all("img")) == 2
    assert not page.all("ul", class_="notes")


def test_every_chart_has_a_title_axes_and_units(page_of, make_run, make_test, tmp_path):
    run = make_run(tmp_path / "run")
    make_test(run, SCORES, LABELS)
    _, page = page_of(run)
    charts = page.all("svg", class_="plot")
    assert len(charts) == 7
    for svg in [*charts, *(svg for figure in page.all("figure", class_="matrix") for svg in figure.all("svg"))]:
        assert svg.attributes["role"] == "img" and svg.all("title")[0].text
        (x_axis,), (y_axis,) = (svg.all("text", class_=name) for name in ("x-axis", "y-axis"))
        assert x_axis.text and re.search(r"\(.+\)|per second|GiB|iterations", y_axis.text), y_axis.text
    for svg in charts:
        assert svg.all("text", class_="x-axis")[0].text == "iterations"
        # Numbers at both axes, besides the two titles.
        assert len([text for text in svg.all("text") if "class" not in text.attributes]) >= 6
    for figure in page.all("figure", class_="chart"):
        assert figure.all("figcaption")[0].text
    identifiers = re.findall(r'\bid="([^"]+)"', render_report(read_runs([str(run)])))
    assert len(identifiers) == len(set(identifiers))


def test_nothing_is_fetched(page_of, make_run, make_test, make_video, tmp_path):
    run = make_run(tmp_path / "run")
    make_test(run, SCORES, LABELS, sources=[{"file_name": make_video(tmp_path / "a.mp4")}] * 6)
    text, page = page_of(run)
    for match in re.finditer(r'\b(?:src|href|poster|srcset)="([^"]*)"', text):
        assert match[1].startswith(("data:", "#")), match[1]
    assert not re.search(r"@import|url\(|https?://|//cdn", text)
    (policy,) = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'; ")
    for node in page.all("a"):
        assert node.attributes["href"][1:] in sections(page)


def test_text_of_the_user_is_never_markup(page_of, make_run, make_test, tmp_path):
    run = make_run(tmp_path / '<b>"run"')
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("WEIGHTS: ''", f"WEIGHTS: '{EVIL}'"))
    (run / "invocations.json").write_text(json.dumps(
        {"command": f"python {EVIL}", "folder": EVIL, "environment": {EVIL: EVIL}, "time": EVIL}) + "\n")  # fmt: skip
    with open(run / "metrics.json", "a") as file:
        file.write(json.dumps({"iteration": 99, f"{EVIL}/top1": 10, f"loss{EVIL}": 1.0, "loss_cls": 1.0}) + "\n")
    make_test(run, SCORES, LABELS, names=[EVIL, "b", "c"], dataset=f"list:{EVIL[:20]}",
              sources=[{"file_name": EVIL}] * 6)  # fmt: skip
    other = make_run(tmp_path / "other")
    for folders in ([run], [run, other]):
        text, page = page_of(*folders)
        assert "<script>alert" not in text and "<img src=x" not in text and '<b>"run' not in text
        assert len(page.all("script")) == 1 and not page.all("img")
        assert not [node for tag in ("svg", "td", "p", "g") for node in page.all(tag) if "onerror" in node.attributes]
        assert EVIL in page.text


def test_runs_beside_each_other(page_of, make_run, make_test, tmp_path):
    runs = [make_run(tmp_path / name, ["SOLVER.BASE_LR", rate], seed=seed)
            for seed, (name, rate) in enumerate([("a", "0.1"), ("b", "0.2"), ("c", "0.2")])]  # fmt: skip
    for run in runs[:2]:
        make_test(run, SCORES, LABELS)
    _, page = page_of(*runs)
    assert page.all("h1")[0].text == "3 runs compared"
    found = sections(page)
    table = found["summary"].all("table")
    assert [row.all("th")[0].text for row in table[0].all("tbody")[0].all("tr")] == ["a", "b", "c"]
    # OUTPUT_DIR differs, too.
    assert [row.text for row in table[1].all("tbody")[0].all("tr")] == ["SOLVER.BASE_LR 0.1 0.2 0.2"]
    styles = [{g.attributes["class"].split(" ")[0] for g in svg.all("g") if "data-label" in g.attributes}
              for svg in page.all("svg", class_="plot")]  # fmt: skip
    assert all(style == {"c0", "c1", "c2"} for style in styles)
    for legend in page.all("ul", class_="legend"):
        assert [item.text for item in legend.all("li")] == ["a", "b", "c"]
    dashes = {g.attributes["class"].split(" ")[1] for g in page.all("g") if "data-label" in g.attributes}
    assert dashes == {"d0", "d1", "d2"}
    assert [h4.text for h4 in found["test-1"].all("h4")] == [
        "Confusion matrix of a", "Confusion matrix of b", "a", "b"
    ]  # fmt: skip
    assert "c: No test results" in page.all("ul", class_="notes")[0].text


def test_equal_configs_are_said_to_be(page_of, make_run, tmp_path):
    _, page = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert "In nothing but OUTPUT_DIR." in sections(page)["summary"].text


def test_many_runs_and_the_same_one_twice(page_of, make_run, tmp_path):
    run = make_run(tmp_path / "a", iterations=[9])
    _, page = page_of(*[run] * 8)
    groups = page.all("svg", class_="plot")[0].all("g")
    pairs = {tuple(g.attributes["class"].split()[:2]) for g in groups}
    assert len(pairs) == 8, "colour and dashes together tell the runs apart"


def only(folder: Path, *names: str) -> Path:
    """Leave nothing but these in a folder."""
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.mark.parametrize(
    "kept, missing",
    [
        (["config.yaml"], ["No metrics.json", "No test results", "Nothing was logged", "The command was not"]),
        (["metrics.json"], ["No config.yaml", "No test results", "the configuration is unknown"]),
        (["inference"], ["No config.yaml", "No metrics.json", "No run has logged an accuracy"]),
    ],
)
def test_what_is_missing_is_said(page_of, make_run, make_test, tmp_path, kept, missing):
    run = make_run(tmp_path / "run")
    make_test(run, SCORES, LABELS)
    _, page = page_of(only(run, *kept))
    for sentence in missing:
        assert sentence in page.text


def test_a_broken_network_leaves_the_rest(page_of, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("PLUGINS: []", "PLUGINS: [/nowhere/plugin]"))
    _, page = page_of(run)
    assert "The network cannot be built from the config:" in sections(page)["model"].text
    assert len(page.all("svg", class_="plot")) == 7


def test_values_that_are_not_finite(page_of, make_run, tmp_path):
    run = make_run(tmp_path / "run", validation=0)
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    for row in lines:
        row |= {"total_loss": float("nan"), "loss_cls": float("nan") if row["iteration"] > 50 else 1.0}
    lines[3]["lr"] = float("inf")
    (run / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in lines))
    text, page = page_of(run)
    assert "run: not one finite value of total_loss." in page.text
    (loss,) = [f for f in page.all("figure", class_="chart") if "Loss" in f.all("h3")[0].text]
    assert len(loss.all("text", class_="mark")) == 5 and "× marks values that are not finite" in loss.text
    assert not re.search(r'(?:d|x|y|cx|cy)="[^"]*(?:nan|inf)', text)


def test_several_labels(page_of, make_run, make_test, tmp_path):
    run = make_run(tmp_path / "run")
    rows = [[0.9, 0.8, 0.1], [0.9, 0.2, 0.7], [0.1, 0.95, 0.2]]
    make_test(run, rows, [[0, 1], [1], []], metric="AP")
    _, page = page_of(run)
    section = sections(page)["test-1"]
    assert "no confusion matrix, the videos have several labels" in section.text
    captions = [node.text for node in section.all("figcaption")]
    assert captions == ["run 95.0 % is none of the classes v2", "jump 90.0 % is run 20.0 % v1"]
    assert "AP of each class" in section.text


def test_clips_that_cannot_be_had_say_why(page_of, make_run, make_test, tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    sources = [{}, {"file_name": "/gone.mp4"}, {}, {}, {}, {"file_name": str(tmp_path / "broken.mp4")}]
    make_test(run, SCORES, LABELS, sources=sources)
    _, page = page_of(run)
    assert [node.text.split(":")[1] for node in page.all("p", class_="no-clip")] == [
        " the video cannot be read", " the video is not there any more."
    ]  # fmt: skip
    make_test(run, SCORES, LABELS)
    assert "the results do not say where the video is" in page_of(run)[1].text


def test_the_budget_for_clips(make_run, make_test, make_video, tmp_path, read_html):
    run = make_run(tmp_path / "run")
    make_test(run, SCORES, LABELS, sources=[{"file_name": make_video(tmp_path / "a.mp4")}] * 6)
    runs = read_runs([str(run)])
    assert "the page's budget for clips is spent" in read_html(render_report(runs, Budget(seconds=0))).text
    assert "the clip would be too large" in read_html(render_report(runs, Budget(num_bytes=10))).text


@pytest.fixture()
def heated(make_run, make_test, make_video, tmp_path, read_html):
    """``heated(weights=True, **budget) -> page``: of a run with three mistakes, with heat."""

    def make(weights=True, **budget):
        run = make_run(tmp_path / "run", ["MODEL.HEAD.NUM_CLASSES", "3"])
        make_test(run, SCORES, LABELS, sources=[{"file_name": make_video(tmp_path / "a.mp4", num_frames=12)}] * 6)
        if weights:
            torch.manual_seed(0)
            Checkpointer(build_model(load_cfg(str(run / "config.yaml"))), str(run)).save("model_final")
        return read_html(render_report(read_runs([str(run)]), Budget(**budget), heat=True))

    return make


def test_each_mistake_has_what_spoke_for_its_class(heated):
    page = heated()
    clips = page.all("figure", class_="clip")
    assert len(clips) == 2 and [len(clip.all("video")) for clip in clips] == [2, 2]
    assert [len(clip.all("img", class_="strip")) for clip in clips] == [2, 2]
    labels = [video.attributes["aria-label"] for video in clips[0].all("video")]
    assert labels == ["Video v5", "Video v5, what spoke for sit"]
    sources = [video.attributes["src"] for clip in clips for video in clip.all("video")]
    # x264 now and then gives other bits for the same frames.
    plain, heat, plain_again, other_heat = (frames_in(source) for source in sources)
    assert np.abs(plain - plain_again).max() < 8
    # The heat lies on the clip that the network was given.
    assert heat.shape == other_heat.shape == (4, 32, 32, 3) != plain.shape
    assert "the more it spoke for the predicted class" in page.text and "no heat" not in page.text.lower()


def frames_in(source):
    """The frames of a video in a page."""
    with av.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


def test_heat_that_cannot_be_had_says_why(heated):
    page = heated(weights=False)
    assert "No heat: FileNotFoundError:" in page.text and "holds no weights" in page.text
    assert [len(clip.all("video")) for clip in page.all("figure", class_="clip")] == [1, 1]


def test_heat_takes_from_the_budget(heated):
    page = heated(num_bytes=heated_bytes(heated()) - 200)
    assert [len(clip.all("video")) for clip in page.all("figure", class_="clip")] == [2, 1]
    assert page.text.count("no heat: the clip would be too large for this page") == 1


def heated_bytes(page):
    """What the clips of a page take of the budget."""
    found = [node.attributes["src"] for tag in ("video", "img") for node in page.all(tag)]
    return sum(len(base64.b64decode(source.partition("base64,")[2])) for source in found)


def test_write_report_replaces_the_file_and_names_what_is_no_run(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "report.html").write_text("old")
    write_report([str(run)], str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text().endswith("</html>")
    for folder, message in ((tmp_path / "no", "there is no such folder"), (tmp_path, "not the folder of a run")):
        with pytest.raises(ValueError, match=message):
            write_report([str(folder)], str(tmp_path / "other.html"))
    assert not (tmp_path / "other.html").exists()


def test_a_failed_report_is_one_line_in_the_log(make_run, tmp_path, caplog, monkeypatch):
    run = make_run(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        assert try_write_report(str(run)) and (run / "report.html").is_file()
    assert "Wrote what this run did to" in caplog.messages[-1]
    monkeypatch.setattr(page_module, "render_report", lambda *_: 1 / 0)
    assert not try_write_report(str(run))
    assert caplog.messages[-1] == "No report.html: ZeroDivisionError: division by zero"
    assert caplog.records[-1].exc_info is None and (run / "report.html").stat().st_size > 1000


def test_formats():
    assert [format_number(v) for v in (None, 1234, 12.345)] == ["–", "1,234", "12.35"]
    assert [format_value(v) for v in (None, "", [1, "a"], True)] == ["–", "''", "[1, 'a']", "True"]
