"""Serving the page until it is ended."""

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nlvideo.utils.system.processes import stop_signals
from nlvideo.visualization.demo.handlers import Demo
from nlvideo.visualization.demo.page import CSS, MAX_WAITING, build_page, import_gradio
from nlvideo.visualization.demo.requests import RequestLimit

if TYPE_CHECKING:
    import gradio

# Visitors whose videos are kept at a time; the one who came first is forgotten.
MAX_VISITORS = 10
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
