"""How large a request and all uploads together may be: a layer around the server's application (ASGI)."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from nlvideo.visualization.demo.uploads import UploadFolder

Message = MutableMapping[str, Any]
# What a form adds to the files in it, bytes.
_FORM = 2**16


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
