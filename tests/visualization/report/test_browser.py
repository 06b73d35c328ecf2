"""The page in a browser: it opens from a file without a complaint, on a phone and on a desk, in light and in dark."""

import shutil

import pytest

from nlvideo.visualization.report import write_report

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; skips where the machine has none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture()
def report(make_run, make_test, make_video, tmp_path):
    """A comparison with everything in it that is wide: long names, many classes, clips."""
    clip = make_video(tmp_path / "clip.mp4", num_frames=12)
    names = [f"a_class_with_the_long_name_number_{k}" for k in range(40)]
    folders = []
    for seed, name in enumerate(("short", "a_run_with_quite_a_long_name_that_does_not_fit_anywhere")):
        run = make_run(tmp_path / name, ["SOLVER.BASE_LR", f"0.{seed + 1}"], iterations=range(0, 100, 2), seed=seed)
        scores = [[float(k == (i + seed) % 40) for k in range(40)] for i in range(40)]
        make_test(run, scores, list(range(40)), names=names, sources=[{"file_name": clip}] * 40)
        folders.append(str(run))
    write_report(folders, str(tmp_path / "report.html"))
    return f"file://{tmp_path / 'report.html'}"


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_complaint_and_fits(browser, report, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report)
    page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState >= 2)")
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing sticks out, except inside of what scrolls by itself.
    outside = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.plot text')].filter(e => e.getBoundingClientRect().width)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getBoundingClientRect().width"
        " / e.ownerSVGElement.viewBox.baseVal.width))"
    )
    assert smallest >= 9.5
    page.close()


def test_values_under_the_pointer(browser, report):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(report)
    chart = page.locator("svg.plot >> visible=true").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    # The right edge of the plot: the last evaluation, 100 iterations done.
    page.mouse.move(box["x"] + box["width"] * 878 / 900, box["y"] + box["height"] / 2)
    text = page.locator(".readout >> visible=true").first.inner_text()
    assert text.startswith(("99 iterations: ", "100 iterations: ")) and "short, training error: " in text
    page.mouse.move(2, 2)
    assert page.locator(".readout >> visible=true").count() == 0
    page.close()


def test_it_is_complete_without_scripts_and_on_paper(browser, report):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 760, "height": 1000})
    page = context.new_page()
    page.goto(report)
    assert page.locator("svg.plot >> visible=true").count() > 5
    page.emulate_media(media="print")
    assert page.locator("video >> visible=true").count() == 0
    assert page.locator("img.strip >> visible=true").count() == 4
    assert page.pdf(format="A4").startswith(b"%PDF")
    context.close()
