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

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'nlvideo[demo]'")
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")

ROOT = Path(__file__).resolve().parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")

UPLOAD = "#nl-upload input[type=file]"
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
        """Files with something in them where uploads arrive."""
        (folder,) = self.temporary.glob("nlvideo_demo_*")
        return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]

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
        page.wait_for_selector(".nl-example")
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


def pictures(page) -> list[str]:
    """The frames that are shown, as addresses that hold them."""
    return page.eval_on_selector_all(".nl-frame img", "all => all.map(image => image.src)")


def test_nothing_is_fetched_from_elsewhere(page, served):
    asked = [urlsplit(url) for url in page.asked if not url.startswith(("data:", "blob:"))]
    assert len(asked) > 5 and {url.netloc for url in asked} == {urlsplit(served.url).netloc}
    assert page.locator("footer a").count() == 0  # no links to other sites, no API


def test_an_upload_is_classified_and_gone(page, served, answer, clips, tmp_path):
    assert "first.mp4: 0.8 s, 8 frames of 64 x 64" in answer(copy(clips[1], tmp_path, "first.mp4"))
    assert page.inner_text("#nl-scores").split("\n")[1] == "right"
    assert page.locator("#nl-scores dd, #nl-scores .confidence-set").count() >= 5
    assert page.locator(".nl-moment").count() == 1 and len(pictures(page)) == 8
    assert served.uploads() == []


def test_a_click_changes_what_is_shown(page, answer, clips, tmp_path):
    answer(copy(clips[0], tmp_path, "clicked.mp4"))
    for frame, (x, y) in ((5, (0.25, 0.75)), (2, (0.9, 0.1))):
        before, strip = pictures(page), page.get_attribute("#nl-strip img", "src")
        image = page.locator(".nl-frame").nth(frame)
        box = image.bounding_box()
        image.click(position={"x": x * box["width"], "y": y * box["height"]})
        page.wait_for_selector(f".nl-frames[data-position^='{frame},']")
        shown = page.get_attribute(".nl-frames", "data-position")
        # A click hits whole pixels of the screen.
        assert [int(p) for p in shown.split(",")] == pytest.approx([frame, 64 * y, 64 * x], abs=1)
        assert pictures(page) != before and page.get_attribute("#nl-strip img", "src") != strip
        mark, again = page.locator(".nl-mark").bounding_box(), image.bounding_box()
        assert mark["x"] + mark["width"] / 2 - again["x"] == pytest.approx(x * again["width"], abs=3)
        assert mark["y"] + mark["height"] / 2 - again["y"] == pytest.approx(y * again["height"], abs=3)


def test_the_timeline_of_an_example_is_clickable(page):
    page.locator(".nl-example").last.click()
    page.wait_for_selector(".nl-moment:nth-child(5)")
    page.wait_for_selector(".nl-frames")
    before = pictures(page)
    page.locator(".nl-moment").nth(4).click()
    page.wait_for_selector(".nl-moment:nth-child(5)[aria-pressed=true]")
    assert pictures(page) != before and page.inner_text(".nl-frames figcaption >> nth=0") == "3.20 s"


def test_bad_files_get_a_message_and_the_server_lives_on(page, served, answer, clips, ten_hours, tmp_path):
    (tmp_path / "garbage.mp4").write_bytes(os.urandom(20_000))
    (tmp_path / "notes.txt").write_text("no video")
    assert "garbage.mp4 is not a video that can be read here" in answer(tmp_path / "garbage.mp4")
    assert page.locator(".nl-frames").count() == 0 and not page.is_visible("#nl-scores")
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
    mine = pictures(page)
    other = page.context.browser.new_page()
    other.set_default_timeout(SECONDS)
    other.goto(served.url)
    other.wait_for_selector(".nl-example")
    assert other.locator(".nl-frames").count() == 0
    other.set_input_files(UPLOAD, str(copy(clips[2], tmp_path, "theirs.mp4")))
    other.wait_for_selector(".nl-frames")
    # A click of the first still asks about the first's video.
    page.locator(".nl-frame").nth(7).click()
    page.wait_for_selector(".nl-frames[data-position^='7,']")
    assert "mine.mp4" in page.inner_text("#nl-message") and pictures(page) != mine
    assert "theirs.mp4" in other.inner_text("#nl-message") and pictures(other)[0] != pictures(page)[0]
    other.close()


def test_the_same_file_again(page, served, answer, clips, tmp_path):
    for _ in range(2):
        assert "same.mp4: 0.8 s" in answer(copy(clips[0], tmp_path, "same.mp4"))
        page.reload()
        page.wait_for_selector(".nl-example")
    assert served.uploads() == []


def test_an_example_is_opened_from_the_keyboard(page):
    page.locator(".nl-example").nth(1).focus()
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
    page.locator(".nl-example").first.click()
    page.wait_for_function("document.querySelector('#nl-message').innerText.startsWith('left.mp4: 0.8 s')")
    page.wait_for_function("document.querySelector('.nl-strip')?.scrollWidth > 390")
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
