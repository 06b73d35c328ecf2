"""The Gradio page around ``Demo``: what is where, and which click calls what."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nlvideo.utils.console import format_seconds
from nlvideo.visualization.demo.handlers import Demo, Shown, View
from nlvideo.visualization.demo.html import examples_html, heading_html, message_html, note_html
from nlvideo.visualization.demo.limits import KNOWN_AS

if TYPE_CHECKING:
    import gradio

# What a visitor looked at is forgotten when they do nothing for this long.
FORGET_SEC = 1200
# Uploads that wait for the model; one more is told that the page is busy.
MAX_WAITING = 16

# Clicks are caught on the element around: what is in it is drawn again with each answer.
_CLICK_INDEX = """
element.addEventListener('click', (event) => {
  const target = event.target.closest('[data-index]');
  if (target) trigger('click', {index: Number(target.dataset.index)});
});
"""
_CLICK_POINT = """
element.addEventListener('click', (event) => {
  const image = event.target.closest('.nl-frame')?.querySelector('img');
  if (!image) return;
  const box = image.getBoundingClientRect();
  trigger('click', {
    t: Number(image.dataset.t),
    y: (event.clientY - box.top) / box.height,
    x: (event.clientX - box.left) / box.width,
  });
});
"""


def import_gradio(folder: str | os.PathLike) -> ModuleType:
    """Import Gradio so that it keeps its files in ``folder`` and makes no calls.

    Raises:
        ImportError: Gradio is not installed.
    """
    # It reads all of these when it is imported.
    os.environ["GRADIO_TEMP_DIR"] = os.fspath(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the page needs Gradio ({error}): pip install 'nlvideo[demo]'") from error
    return gradio


@dataclass(frozen=True)
class Widgets:
    """The parts of the page that change, in the order of the updates."""

    upload: Any
    state: Any
    message: Any
    scores: Any
    timeline: Any
    attention: Any
    frames: Any
    strip: Any


def build_page(demo: Demo, name: str) -> "gradio.Blocks":
    """Lay out the page.

    Args:
        demo: what it does.
        name: of the model, for the heading.

    Raises:
        ImportError: Gradio is not installed.
    """
    gr = import_gradio(demo.uploads.path)
    with gr.Blocks(title=f"nlvideo: {name}", analytics_enabled=False) as page:
        gr.HTML(heading_html(name, demo.inspector))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                upload, message, examples = _input_column(gr, demo)
            with gr.Column(scale=3, min_width=320):
                scores = gr.Label(label="Classes", num_top_classes=5, visible=False, elem_id="nl-scores")
                timeline = gr.HTML(js_on_load=_CLICK_INDEX, visible=False, elem_id="nl-timeline")
        with gr.Column(visible=False) as attention:
            block, frames, strip = _attention_column(gr, demo.inspector.blocks)
        state = gr.State(None, time_to_live=FORGET_SEC)
        widgets = Widgets(upload, state, message, scores, timeline, attention, frames, strip)
        _connect(gr, demo, widgets, examples, block)
    return page.queue(max_size=MAX_WAITING)


def _input_column(gr: ModuleType, demo: Demo) -> tuple[Any, Any, Any]:
    limits = demo.limits
    upload = gr.File(label="Drop a video", height=150, elem_id="nl-upload")
    gr.HTML(
        note_html(
            f"Up to {limits.max_megabytes:g} MB and {format_seconds(limits.max_seconds)}: {KNOWN_AS}."
            " The file is deleted as soon as it has been looked at."
        )
    )
    clips = [(path.stem.replace("_", " "), path.read_bytes()) for path in demo.examples]
    hint = "Drop a video, or click on an example." if clips else "Drop a video."
    message = gr.HTML(message_html(hint), elem_id="nl-message")
    examples = gr.HTML(examples_html(clips), js_on_load=_CLICK_INDEX, elem_id="nl-examples", visible=bool(clips))
    if clips and demo.about_examples:
        gr.HTML(note_html(demo.about_examples))
    return upload, message, examples


def _attention_column(gr: ModuleType, blocks: list[str]) -> tuple[Any, Any, Any]:
    gr.HTML(
        "<h2>Attention</h2>"
        + note_html(
            "The mark is the position asked about; the warmer a place, the more it weighs there. Click on any point of"
            " any frame to ask about that one."
        )
    )
    block = gr.Radio(blocks, value=next(iter(blocks), None), label="Non-local block", visible=len(blocks) > 1)
    frames = gr.HTML(js_on_load=_CLICK_POINT, elem_id="nl-frames")
    return block, frames, gr.HTML(elem_id="nl-strip")


def _updates(gr: ModuleType, view: View, same_video: bool = False) -> list:
    """A view as updates of the widgets; with ``same_video`` its classes, and the drop area, stay as they are."""
    if view.keep:
        return [gr.skip() if same_video else None, gr.skip(), view.message, *[gr.skip()] * 5]
    return [
        None if view.done and not same_video else gr.skip(),
        view.shown,
        view.message,
        gr.skip() if same_video else gr.update(value=view.scores, visible=view.scores is not None),
        gr.update(value=view.timeline or "", visible=view.timeline is not None),
        gr.update(visible=view.frames is not None),
        view.frames or "",
        view.strip or "",
    ]


def _connect(gr: ModuleType, demo: Demo, widgets: Widgets, examples: Any, block: Any) -> None:
    """Say which click calls what."""

    def on_upload(path: str | None) -> Iterator[list]:
        """A video was dropped."""
        if path is not None:
            yield from (_updates(gr, view) for view in demo.open_upload(path))

    def on_example(event: gr.EventData) -> Iterator[list]:
        """An example was clicked on."""
        yield from (_updates(gr, view) for view in demo.open_example(event.index))

    def on_moment(shown: Shown | None, event: gr.EventData) -> list:
        """A moment of the timeline was clicked on."""
        return _updates(gr, demo.choose_moment(shown, event.index), same_video=True)

    def on_point(shown: Shown | None, event: gr.EventData) -> list:
        """A point of a frame was clicked on."""
        return _updates(gr, demo.choose_position(shown, event.t, event.y, event.x), same_video=True)

    def on_block(shown: Shown | None, name: str) -> list:
        """Another block was chosen."""
        return _updates(gr, demo.choose_block(shown, name), same_video=True)

    # The model serves one request at a time; what happens here is no interface for programs.
    usual = {
        "outputs": [getattr(widgets, name) for name in Widgets.__dataclass_fields__],
        "concurrency_limit": 1,
        "concurrency_id": "model",
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    # Of clicks that come faster than answers only the last is worth one.
    latest = {**usual, "trigger_mode": "always_last"}
    widgets.upload.upload(on_upload, [widgets.upload], **usual)
    examples.click(on_example, None, **usual)
    widgets.timeline.click(on_moment, [widgets.state], **latest)
    widgets.frames.click(on_point, [widgets.state], **latest)
    block.input(on_block, [widgets.state, block], **latest)
