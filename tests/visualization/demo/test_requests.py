"""What a request may bring, with applications that read it as Gradio's does."""

import asyncio

import pytest

from nlvideo.visualization.demo.page import RequestLimit

MAX = 100_000
# More than an upload and the form around it.
TOO_MUCH = MAX + 2**16 + 1


class Disconnected(Exception):
    """What a framework raises where a visitor leaves."""


def ask(limit, sizes, path="/gradio_api/upload"):
    """Send a request in pieces; returns the status of the answer, and the bytes that the application got."""
    pieces = [{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes]
    pieces.append({"type": "http.request", "body": b"", "more_body": False})
    answers = []

    async def receive():
        return pieces.pop(0)

    async def send(message):
        answers.append(message)

    before = limit.app.got
    asyncio.run(limit({"type": "http", "path": path}, receive, send))
    return answers[0]["status"], limit.app.got - before


class Application:
    """Reads all of a request, and answers 200."""

    def __init__(self):
        self.got = 0

    async def __call__(self, scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            self.got += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture()
def limit(uploads):
    return RequestLimit(Application(), MAX, uploads, max_waiting=3)


def test_an_upload_of_the_largest_size_arrives(limit):
    assert ask(limit, [MAX // 2, MAX // 2]) == (200, MAX)


def test_many_files_in_one_request_are_one_upload(limit):
    """Each of them may be as large as an upload; Gradio looks at each alone."""
    status, got = ask(limit, [50_000] * 40)
    assert status == 413 and got < TOO_MUCH


def test_other_requests_have_the_same_limit(limit):
    assert ask(limit, [1000], path="/gradio_api/queue/join") == (200, 1000)
    assert ask(limit, [TOO_MUCH], path="/gradio_api/queue/join") == (413, 0)


def test_no_more_uploads_than_may_wait(limit, uploads):
    (uploads.path / "waiting.mp4").write_bytes(bytes(3 * MAX))
    assert ask(limit, [1000]) == (200, 1000)
    (uploads.path / "more.mp4").write_bytes(bytes(1))
    assert ask(limit, [1000]) == (413, 0)
    assert ask(limit, [1000], path="/gradio_api/queue/join") == (200, 1000)  # no upload
    (uploads.path / "waiting.mp4").unlink()
    assert ask(limit, [MAX]) == (200, MAX)


def test_uploads_that_arrive_at_the_same_time_count_together(limit, uploads):
    """What has arrived of another request meanwhile is in the folder."""

    async def other(scope, receive, send):
        limit.app.got += len((await receive())["body"])
        (uploads.path / "piece").write_bytes(bytes(3 * MAX + 1))
        if (await receive())["type"] == "http.disconnect":
            raise Disconnected

    other.got = 0
    limit.app = other
    assert ask(limit, [100, 100]) == (413, 100)


def test_what_is_no_request_passes(limit):
    seen = []

    async def application(*arguments):
        seen.append(arguments)

    limit.app = application
    asyncio.run(limit({"type": "lifespan"}, "receive", "send"))
    assert seen == [({"type": "lifespan"}, "receive", "send")]


def test_errors_of_the_application_are_its_own(limit):
    async def broken(scope, receive, send):
        raise ZeroDivisionError

    limit.app = broken
    broken.got = 0
    with pytest.raises(ZeroDivisionError):
        ask(limit, [10])
