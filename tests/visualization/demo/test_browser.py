"""The page in a real browser: a user drops videos, good and bad, and clicks."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nlvideo.visualization.drawing import FrameRows

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'nlvideo[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")

ROOT = Path(__file__).resolve().parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")

UPLOAD = "#nl-upload input[type=file]"
EXAMPLES = "#nl-examples button"
MOMENTS = "#nl-moments input"
FRAMES = "#nl-frames img"
SECONDS = 60_000  # milliseconds of patience


class Served:
    """The script as a user starts it, with a temporary folder of its own to look into."""

    def __init__(self, temporary: Path):
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "tools/demo.py", "--port", "0", "--max-megabytes", "1", "--max-seconds", "20"],
            cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=(temporary / "stderr").open("w"),
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line.startswith("Serving quickstart at http://127.0.0.1:"), (temporary / "stderr").read_text()
        self.url = re.search(r"http://\S+", line).group()

    def uploads(self) -> list[Path]:
        """Whole uploads, each in a folder of its own; a piece of a broken one has none, and is swept away later."""
        return [path for path in self.temporary.glob("nlvideo_demo_*/uploads/*/*") if path.is_file()]

    def end(self) -> int:
        """Ask the script to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.process.kill()
    served.process.wait()


@pytest.fixture(scope="module")
def page(served):
    """A tab with the page, which notes what it asks for."""
    with playwright.sync_playwright() as driver:
        # A sandbox inside of a container's root is refused.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=BROWSER, args=arguments, timeout=2 * SECONDS)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(SECONDS)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(served.url)
        page.wait_for_selector(EXAMPLES)
        yield page
        browser.close()


@pytest.fixture()
def answer(page):
    """``answer(path)``: drop a file and return the text of the message that follows."""

    def drop(path: Path) -> str:
        # Each file has a name of its own, so that an old answer is not taken for the new one.
        page.set_input_files(UPLOAD, str(path))
        page.wait_for_function(
            "name => document.querySelector('#nl-message .nl-message:not(.nl-busy)')?.innerText.includes(name)",
            arg=path.name,
        )
        return page.inner_text("#nl-message")

    return drop


def copy(path: Path, folder: Path, name: str) -> Path:
    """A copy of a file under another name."""
    return Path(shutil.copy(path, folder / name))


def frames(page) -> str:
    """The frames that are shown, as an address that holds them; empty where there are none."""
    return page.get_attribute(FRAMES, "src") if page.locator(FRAMES).count() else ""


def click_on_frame(page, number: int, x: float, y: float) -> None:
    """Click on a frame of eight in two rows, at a share of its width and height, and wait for the answer."""
    before, box = frames(page), page.locator(FRAMES).bounding_box()
    rows = FrameRows(8, 64, 64, 3, 4)
    scale = box["width"] / rows.size[0]
    left, top = rows.point(number, 64 * y, 64 * x)
    page.locator(FRAMES).click(position={"x": left * scale, "y": top * scale})
    page.wait_for_function("before => document.querySelector('#nl-frames img').src !== before", arg=before)


def test_nothing_is_fetched_from_elsewhere(page, served):
    asked = [urlsplit(url) for url in page.asked if not url.startswith(("data:", "blob:"))]
    assert len(asked) > 5 and {url.netloc for url in asked} == {urlsplit(served.url).netloc}
    assert page.locator("footer a").count() == 0  # no links to other sites, no API


def test_an_upload_is_classified_and_gone(page, served, answer, clips, tmp_path):
    assert "first.mp4: 0.8 s, 8 frames of 64 x 64" in answer(copy(clips[1], tmp_path, "first.mp4"))
    assert page.inner_text("#nl-scores").split("\n")[1] == "right"
    assert page.locator("#nl-scores dd, #nl-scores .confidence-set").count() >= 5
    assert page.locator(MOMENTS).count() == 1 and frames(page).startswith("data:image/webp;base64,")
    assert served.uploads() == []


def test_a_click_changes_what_is_shown(page, served, answer, clips, tmp_path):
    answer(copy(clips[0], tmp_path, "clicked.mp4"))
    strips = {page.get_attribute("#nl-strip img", "src")}
    for number, x, y in ((5, 0.25, 0.75), (2, 0.9, 0.1)):
        click_on_frame(page, number, x, y)
        strips.add(page.get_attribute("#nl-strip img", "src"))
    assert len(strips) == 3 and served.uploads() == []


def test_the_timeline_of_an_example_is_clickable(page):
    page.locator(EXAMPLES).last.click()
    page.wait_for_function("document.querySelectorAll('#nl-moments input').length === 5")
    page.wait_for_selector(FRAMES)
    assert "0.8 to 1.6 s: right, 100%" in page.inner_text("#nl-moments")
    before = frames(page)
    page.locator(MOMENTS).nth(4).click()
    page.wait_for_function("before => document.querySelector('#nl-frames img').src !== before", arg=before)
    assert page.locator(MOMENTS).nth(4).is_checked()


def test_bad_files_get_a_message_and_the_server_lives_on(page, served, answer, clips, ten_hours, tmp_path):
    (tmp_path / "garbage.mp4").write_bytes(os.urandom(20_000))
    (tmp_path / "notes.txt").write_text("no video")
    assert "garbage.mp4 is not a video that can be read here" in answer(tmp_path / "garbage.mp4")
    assert not page.is_visible("#nl-frames") and not page.is_visible("#nl-scores")
    assert "notes.txt is not a video" in answer(tmp_path / "notes.txt")
    assert "ten_hours.mp4: 10 h long, allowed: up to 20 s" in answer(ten_hours)
    assert page.locator(".nl-message[role=alert]").count() == 1
    assert "good.mp4: 0.8 s" in answer(copy(clips[2], tmp_path, "good.mp4"))
    assert page.inner_text("#nl-scores").split("\n")[1] == "up" and served.uploads() == []


def test_a_large_file_is_refused_by_the_page_and_by_the_server(page, served, answer, clips, tmp_path):
    (tmp_path / "large.mp4").write_bytes(bytes(2**20 + 1))
    page.set_input_files(UPLOAD, str(tmp_path / "large.mp4"))
    page.get_by_text(re.compile("exceeds? the maximum allowed size")).wait_for()
    assert post(served.url, bytes(2**21)) == 413 and served.uploads() == []
    assert "after.mp4" in answer(copy(clips[0], tmp_path, "after.mp4"))


def post(url: str, content: bytes) -> int:
    """Upload past the page's own check and return the status."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection.request("POST", "/gradio_api/upload", body, headers)
    return connection.getresponse().status


def test_two_visitors_do_not_see_each_others_videos(page, served, answer, clips, tmp_path):
    answer(copy(clips[0], tmp_path, "mine.mp4"))
    mine = frames(page)
    other = page.context.browser.new_page()
    other.set_default_timeout(SECONDS)
    other.goto(served.url)
    other.wait_for_selector(EXAMPLES)
    assert not other.is_visible("#nl-frames")
    other.set_input_files(UPLOAD, str(copy(clips[2], tmp_path, "theirs.mp4")))
    other.wait_for_selector(FRAMES)
    # A click of the first still asks about the first's video.
    click_on_frame(page, 7, 0.5, 0.5)
    assert "mine.mp4" in page.inner_text("#nl-message") and frames(page) != mine
    assert "theirs.mp4" in other.inner_text("#nl-message") and frames(other) != frames(page)
    other.close()


def test_the_same_file_again(page, served, answer, clips, tmp_path):
    for _ in range(2):
        assert "same.mp4: 0.8 s" in answer(copy(clips[0], tmp_path, "same.mp4"))
        page.reload()
        page.wait_for_selector(EXAMPLES)
    assert served.uploads() == []


def test_an_example_is_opened_from_the_keyboard(page):
    page.locator(EXAMPLES).nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#nl-message').innerText.startsWith('right.mp4: 0.8 s')")


def test_files_of_the_machine_are_not_served(served):
    mine = str(ROOT / "setup.py")
    for path in (f"/gradio_api/file={mine}", f"/file={mine}", f"/gradio_api/file={served.temporary / 'stderr'}"):
        status, body = get(served.url, path)
        assert status in (403, 404) and b"setuptools" not in body


def test_there_is_no_interface_for_programs(served):
    status, body = get(served.url, "/gradio_api/info")
    assert status != 200 or json.loads(body) == {"named_endpoints": {}, "unnamed_endpoints": {}}


def get(url: str, path: str) -> tuple[int, bytes]:
    """Status and body of a request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_a_narrow_page_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(EXAMPLES).first.click()
    page.wait_for_function("document.querySelector('#nl-message').innerText.startsWith('left.mp4: 0.8 s')")
    page.wait_for_function("document.querySelector('#nl-strip .image-container')?.scrollWidth > 390")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_ending_the_server_leaves_nothing(served, page, clips, tmp_path):
    # An upload that no request ever follows.
    assert post(served.url, b"orphan") == 200
    deadline = time.time() + 5
    while not served.uploads() and time.time() < deadline:
        time.sleep(0.05)
    assert len(served.uploads()) == 1
    assert served.end() == 0
    # torch leaves an empty folder of its own.
    assert [path for path in served.temporary.rglob("*") if path.is_file()] == [served.temporary / "stderr"]
    assert not list(served.temporary.glob("nlvideo_demo_*"))
    assert "Traceback" not in (served.temporary / "stderr").read_text()
