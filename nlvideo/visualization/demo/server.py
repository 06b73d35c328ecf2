"""Serving the page until it is ended, and how large a request and all uploads together may be."""

import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from nlvideo.utils.system.processes import stop_signals
from nlvideo.visualization.demo.handlers import Demo
from nlvideo.visualization.demo.page import CSS, MAX_WAITING, build_page, import_gradio
from nlvideo.visualization.demo.uploads import UploadFolder

if TYPE_CHECKING:
    import gradio

# Visitors whose videos are kept at a time; the one who came first is forgotten.
MAX_VISITORS = 10
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
Message = MutableMapping[str, Any]
# What a form adds to the files in it, bytes.
_FORM = 2**16


def start(demo: Demo, name: str, host: str = "127.0.0.1", port: int = 0) -> tuple["gradio.Blocks", str]:
    """Start the server of the page in the background.

    Nothing is shared through other servers, and visits are not counted.

    Args:
        demo: what the page does.
        name: of the model.
        host: address to listen on; the default is reached from this machine alone.
        port: 0 for any free one.

    Returns:
        The page, to be closed with ``close()``, and its address.

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


def is_private(host: str) -> bool:
    """Whether only this machine reaches the page."""
    return host in _LOOPBACK


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
    """Ends a request that is larger than one upload may be, and an upload while too many wait.

    Gradio itself limits each file, and a request may have many files.

    Args:
        app: the application inside.
        max_bytes: of an upload.
        uploads: where they arrive; all together may be as large as ``max_waiting`` of the largest.
        max_waiting: see ``uploads``.
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
            await send(
                {"type": "http.response.body", "body": b"more than an upload may have, or too many uploads wait"}
            )
