"""The page in Gradio around ``Demo``: what is where, which click calls what, and the server of the page."""

import contextlib
import io
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from html import escape
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PIL import Image

from nlvideo.utils.console import format_seconds
from nlvideo.utils.system.processes import stop_signals
from nlvideo.visualization.demo.handlers import Answer, Demo, Shown
from nlvideo.visualization.demo.moments import GRAD_CAM, Inspector
from nlvideo.visualization.demo.uploads import KNOWN_AS, UploadFolder
from nlvideo.visualization.video_file import data_uri

if TYPE_CHECKING:
    import gradio

# What a visitor looked at is forgotten when they do nothing for this long.
FORGET_SEC = 1200
# Uploads that wait for the model; one more is told that the page is busy.
MAX_WAITING = 16
# Visitors whose videos are kept at a time; the one who came first is forgotten.
MAX_VISITORS = 10
# What a form adds to the files in it, bytes.
_FORM = 2**16
Message = MutableMapping[str, Any]

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
.nl-busy::after { content: " ..."; }
.nl-failed, .nl-mistake { border-left: 4px solid #c81e1e; padding-left: 8px; font-weight: 600; }
.nl-message { overflow-wrap: anywhere; }
#nl-frames img { cursor: crosshair; }
/* A film strip shrinks to the page, and scrolls in its box where it could not be read any more. */
#nl-strip .image-container { overflow-x: auto; contain: inline-size; }
#nl-strip .image-container > button { min-width: 720px; }
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


def build_page(demo: Demo, name: str) -> "gradio.Blocks":
    """Lay out the page of a model, whose name is in the heading.

    Raises:
        ImportError: Gradio is not installed.
    """
    gr = import_gradio(demo.uploads.path)
    # The examples are served from where they are: copies would be swept away with old uploads.
    gr.set_static_paths(list(demo.examples))
    with gr.Blocks(title=f"nlvideo: {name}", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(heading_html(name, demo.inspector))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                upload, message, examples = _input_column(gr, demo)
            with gr.Column(scale=3, min_width=320):
                scores = gr.Label(label="Classes", num_top_classes=5, visible=False, elem_id="nl-scores")
                moments = gr.Radio(
                    label="Timeline: the best class of each moment", info="Choose one to see its frames below.",
                    visible=False, elem_id="nl-moments",
                )  # fmt: skip
        with gr.Column(visible=False) as attention:
            methods = demo.inspector.methods
            about = (
                "The mark is the position asked about; the warmer a place, the more it weighs there. Click on any point"
                " of any frame to ask about that one. "
            )
            gr.Markdown(
                f"## What the network looks at\n{about if len(methods) > 1 else ''}With {GRAD_CAM}, the warmer a place,"
                " the more it speaks for the best class of this moment."
            )
            block = gr.Radio(
                methods, value=methods[0], label="Attention of a block, or Grad-CAM", visible=len(methods) > 1
            )
            frames = _picture(gr, "The frames of this moment", "nl-frames")
            gr.Markdown("### As a film strip")
            strip = _picture(
                gr, "A film strip with arrows to the positions with the highest weights, or heat", "nl-strip"
            )
        state = gr.State(None, time_to_live=FORGET_SEC)
        outputs = [upload, state, message, scores, moments, attention, frames, strip]
        _connect(gr, demo, outputs, examples, block)
    return page.queue(max_size=MAX_WAITING)


def heading_html(name: str, inspector: Inspector) -> str:
    """The heading: which model this is."""
    classes, blocks = inspector.predictor.classes, inspector.blocks
    count = f"{len(classes)} classes" + (f": {', '.join(classes)}" if len(classes) <= 12 else "")
    noun = "non-local blocks" if len(blocks) > 1 else "non-local block"
    where = f"{noun} at {', '.join(blocks)}" if blocks else f"no {noun}"
    return f"<h1>nlvideo: {escape(name)}</h1><p>{escape(count)}; {escape(where)}.</p>"


def message_html(text: str, kind: str = "result") -> str:
    """A line for the visitor, see `Answer`; an error is announced to those who listen."""
    role = "alert" if kind in ("failed", "mistake") else "status"
    return f'<div class="nl-message nl-{kind}" role="{role}">{escape(text)}</div>'


def _input_column(gr: ModuleType, demo: Demo) -> tuple[Any, Any, Any]:
    limits = demo.limits
    upload = gr.File(label="Drop a video", height=150, elem_id="nl-upload")
    gr.Markdown(
        f"Up to {limits.max_megabytes:g} MB and {format_seconds(limits.max_seconds)}: {KNOWN_AS}."
        " The file is deleted as soon as it has been looked at."
    )
    hint = "Drop a video, or click on an example." if demo.examples else "Drop a video."
    message = gr.HTML(message_html(hint), elem_id="nl-message")
    examples = gr.Dataset(
        components=[gr.Video(render=False)], samples=[[str(path)] for path in demo.examples], type="index",
        label="Examples", elem_id="nl-examples", visible=bool(demo.examples),
    )  # fmt: skip
    if demo.examples and demo.about_examples:
        gr.Markdown(demo.about_examples)
    return upload, message, examples


def _picture(gr: ModuleType, alt_text: str, elem_id: str) -> Any:
    """An image that is part of the answer. Left alone, Gradio would write a file and serve it by its name."""

    def _as_data(picture: Image.Image | None) -> Any:
        if picture is None:
            return None
        out = io.BytesIO()
        picture.save(out, "webp", quality=90)
        return gr.data_classes.Base64ImageData(url=data_uri("image/webp", out.getvalue()))

    image = gr.Image(alt_text=alt_text, elem_id=elem_id, interactive=False, buttons=[], show_label=False)
    image.postprocess = _as_data
    return image


def _updates(gr: ModuleType, answer: Answer, same_video: bool = False) -> list:
    """An answer as updates of the outputs; with ``same_video`` its classes, and the drop area, stay as they are."""
    message = message_html(answer.message, answer.kind)
    if answer.kind == "mistake":
        return [gr.skip() if same_video else None, gr.skip(), message, *[gr.skip()] * 5]
    found = answer.shown.moments if answer.shown else ()
    labels = [f"{m.start_sec:.1f} to {m.end_sec:.1f} s: {m.top[0][0]}, {m.top[0][1]:.0%}" for m in found]
    return [
        gr.skip() if same_video or answer.kind == "busy" else None,
        answer.shown,
        message,
        gr.skip() if same_video else gr.update(value=answer.scores, visible=answer.scores is not None),
        gr.update(
            choices=[(label, index) for index, label in enumerate(labels)],
            value=answer.shown.index if answer.shown else None, visible=bool(found),
        ),
        gr.update(visible=answer.frames is not None),
        answer.frames,
        answer.strip,
    ]  # fmt: skip


def _connect(gr: ModuleType, demo: Demo, outputs: list, examples: Any, block: Any) -> None:
    """Say which click calls what."""
    upload, state, _, _, moments, _, frames, _ = outputs

    def _on_upload(path: str | None) -> Iterator[list]:
        if path is not None:
            yield from (_updates(gr, answer) for answer in demo.open_upload(path))

    def _on_example(index: int) -> Iterator[list]:
        yield from (_updates(gr, answer) for answer in demo.open_example(index))

    def _on_moment(shown: Shown | None, index: int) -> list:
        return _updates(gr, demo.choose_moment(shown, index), same_video=True)

    def _on_point(shown: Shown | None, event: gr.SelectData) -> list:  # type: ignore[name-defined]  # a module at run time
        place = shown.rows.place(*event.index) if shown else (0, 0, 0)
        if place is None:  # between two frames
            return [gr.skip()] * len(outputs)
        return _updates(gr, demo.choose_position(shown, *place), same_video=True)

    def _on_block(shown: Shown | None, name: str) -> list:
        return _updates(gr, demo.choose_block(shown, name), same_video=True)

    # The model serves one request at a time; what happens here is no interface for programs.
    usual = {
        "outputs": outputs,
        "concurrency_limit": 1,
        "concurrency_id": "model",
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    # Of clicks that come faster than answers only the last is worth one.
    latest = {**usual, "trigger_mode": "always_last"}
    upload.upload(_on_upload, [upload], **usual)
    examples.click(_on_example, [examples], **usual)
    moments.input(_on_moment, [state, moments], **latest)
    frames.select(_on_point, [state], **latest)
    block.input(_on_block, [state, block], **latest)


def start(demo: Demo, name: str, host: str = "127.0.0.1", port: int = 0) -> tuple["gradio.Blocks", str]:
    """Start the server of the page in the background; return the page, which has ``close()``, and its address.

    Nothing is shared through other servers, and visits are not counted.

    Args:
        demo: what the page does.
        name: of the model.
        host: address to listen on; the default is reached from this machine alone.
        port: 0 for any free one.

    Raises:
        ImportError: Gradio is not installed.
        ValueError: the host is none of this machine's addresses, or the port is taken.
    """
    port = free_port(host, port)
    page = build_page(demo, name)
    gr = import_gradio(demo.uploads.path)
    from starlette.middleware import Middleware

    limit = Middleware(RequestLimit, max_bytes=demo.limits.max_bytes, uploads=demo.uploads, max_waiting=MAX_WAITING)
    theme = gr.themes.Default(primary_hue="blue")
    _, url, _ = page.launch(
        server_name=host, server_port=port, share=False, inbrowser=False, quiet=True, prevent_thread_lock=True,
        max_file_size=demo.limits.max_bytes, state_session_capacity=MAX_VISITORS, footer_links=[], ssr_mode=False,
        enable_monitoring=False, mcp_server=False, theme=theme, css=CSS, app_kwargs={"middleware": [limit]},
    )  # fmt: skip
    return page, url


def free_port(host: str, port: int) -> int:
    """Return ``port`` if it can be listened on, or any free one for 0.

    Raises:
        ValueError: it cannot.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"port: got {port}, allowed: 0 to 65535")
    try:
        with socket.create_server((host, port)) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot listen on {host}:{port} ({reason}): choose another port, or 0 for any") from error


@contextlib.contextmanager
def ended_by_signal() -> Iterator[threading.Event]:
    """An event that is set when the process is asked to end (Ctrl-C, SIGTERM, SIGHUP), so that it can clean up."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in stop_signals()}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class RequestLimit:
    """Ends a request of more than ``max_bytes``, and an upload while those there are as large as ``max_waiting`` of it.

    Gradio itself limits each file, and a request may have many files. ``app`` is the application inside.
    """

    def __init__(self, app: Callable, max_bytes: int, uploads: UploadFolder, max_waiting: int):
        self.app, self.uploads = app, uploads
        self.max_bytes, self.max_total = max_bytes + _FORM, max_waiting * max_bytes

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        num_bytes, refused = 0, False
        is_upload = scope["type"] == "http" and scope["path"].endswith("/upload")

        async def counting() -> Message:
            nonlocal num_bytes, refused
            message = await receive()
            num_bytes += len(message.get("body", b""))
            refused = num_bytes > self.max_bytes or (is_upload and self.uploads.num_bytes() > self.max_total)
            # To the application, the visitor has left.
            return {"type": "http.disconnect"} if refused else message

        try:
            await self.app(scope, counting if scope["type"] == "http" else receive, send)
        except Exception:
            if not refused:
                raise
            await send({"type": "http.response.start", "status": 413, "headers": [(b"connection", b"close")]})
            reason = b"more than an upload may have, or too many uploads wait"
            await send({"type": "http.response.body", "body": reason})
