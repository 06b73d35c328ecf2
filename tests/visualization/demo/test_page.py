"""The Gradio side without a browser: which widget takes which part of an answer, and what the page offers."""

from types import SimpleNamespace

import pytest

from nlvideo.visualization.demo.handlers import Shown, View
from nlvideo.visualization.demo.page import Widgets, _updates, build_page

SKIPPED = "as it was"
WIDGETS = list(Widgets.__dataclass_fields__)


@pytest.fixture()
def updates():
    """``updates(view, same_video) -> {widget: update}``, without Gradio."""
    gradio = SimpleNamespace(skip=lambda: SKIPPED, update=lambda **values: values)

    def by_name(view, same_video=False):
        values = _updates(gradio, view, same_video)
        assert len(values) == len(WIDGETS)
        return dict(zip(WIDGETS, values))

    return by_name


def test_a_video_fills_everything_and_frees_the_drop_area(updates):
    shown = Shown(facts=None)
    got = updates(View("m", {"up": 1.0}, "t", "f", "s", shown))
    assert got["upload"] is None and got["state"] is shown and got["message"] == "m"
    assert got["scores"] == {"value": {"up": 1.0}, "visible": True}
    assert got["timeline"] == {"value": "t", "visible": True} and got["attention"] == {"visible": True}
    assert got["frames"] == "f" and got["strip"] == "s"


def test_while_it_is_looked_at_the_drop_area_is_taken_and_old_results_go(updates):
    got = updates(View("m", done=False))
    assert got["upload"] == SKIPPED and got["state"] is None
    assert [got[name]["visible"] for name in ("scores", "timeline", "attention")] == [False] * 3


def test_a_click_leaves_classes_and_drop_area(updates):
    got = updates(View("m", None, "t", "f", "s", Shown(facts=None)), same_video=True)
    assert got["upload"] == got["scores"] == SKIPPED and got["frames"] == "f"


def test_a_mistaken_click_changes_the_message_alone(updates):
    got = updates(View("m", keep=True), same_video=True)
    assert got.pop("message") == "m" and set(got.values()) == {SKIPPED}


def test_no_click_is_offered_to_programs_and_the_model_serves_one_at_a_time(demo, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'nlvideo[demo]'")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # put back afterwards
    page = build_page(demo, "quickstart")
    functions = list(page.fns.values())
    assert len(functions) == 5 and {function.api_visibility for function in functions} == {"private"}
    assert {(function.concurrency_id, function.concurrency_limit) for function in functions} == {("model", 1)}
    assert not page.analytics_enabled
