"""The report in a headless Chromium: it is stepped through, asked, looked at, and loads nothing."""

import json
import re
import time

import numpy as np
import pytest
from helpers_browser import browser
from helpers_clip import GRID, thought_up
from test_validation_player import HOSTILE, page_data, shown

from sttm_export.bundle.opened import open_bundle
from sttm_export.runtime.colors import group_colors
from sttm_export.runtime.paint import paint_frame
from sttm_export.validation.report import render_report, write_report
from sttm_export.workflows.scene import take_scene

LEFT, RIGHT, ESCAPE, SPACE = "\ue012", "\ue014", "\ue00c", " "


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def report(page, tiny_bundle):
    """The report of a bundle, freshly loaded, and what its script reads."""
    page.open(tiny_bundle / "report.html")
    return page_data((tiny_bundle / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def known(page, tmp_path):
    """A report of the clip that was thought up, freshly loaded."""
    page.open(write_report(tmp_path / "known.html", {}, clip=shown()))
    return page


def at(page):
    """The frame that is shown, counted from one."""
    return int(re.fullmatch(r"frame (\d+) of \d+", page.text("number"))[1])


def test_it_loads_nothing_and_says_nothing(page, report, tiny_bundle):
    page.find("next").click()
    console, asked = page.logs()
    assert console == []
    assert [url for url in asked if not url.startswith("data:")] == [(tiny_bundle / "report.html").as_uri()]


def test_a_step_changes_frame_and_words(page, report):
    new = [sum(box[0] == t for box in report["boxes"]) for t in range(len(report["frames"]))]
    first = page.picture("stage")
    assert at(page) == 1
    assert page.text("said").startswith(f"{new[0]} new token")
    page.find("next").click()
    assert at(page) == 2
    assert page.text("time") == report["frames"][1]["label"]
    assert page.text("said").startswith(f"{new[1]} new token")
    assert page.text("spent") == f"{new[0] + new[1]} so far, of a budget of {report['budget']} tokens"
    second = page.picture("stage")
    for picture in (first, second):
        assert picture.std() > 20
    assert np.abs(first.astype(int) - second.astype(int)).mean() > 5
    page.find("back").click()
    assert at(page) == 1
    # But for the smoothing of the page's round corners.
    assert np.abs(page.picture("stage").astype(int) - first)[20:-20, 20:-20].max() <= 2
    assert not page.find("back").is_enabled()


def test_the_chart_follows_and_leads(page, report):
    page.find("next").click()
    assert page.value('[...document.querySelectorAll(".bar.here")].map((bar) => bar.dataset.frame)') == ["1"]
    bar = page.chrome.find_element("css selector", '.bar[data-frame="3"]')
    page.chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    bar.click()
    assert at(page) == 4
    assert not page.find("next").is_enabled()


def test_keys(page, report):
    page.press(RIGHT, RIGHT, LEFT)
    assert at(page) == 2
    page.press(SPACE)
    assert page.find("play").get_attribute("aria-label") == "Stop"
    end = time.monotonic() + 10
    while at(page) == 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert at(page) != 2
    page.press(SPACE)
    assert page.find("play").get_attribute("aria-pressed") == "false"
    stopped = at(page)
    time.sleep(0.8)
    assert at(page) == stopped
    # At the end it stays, and the slider moves by itself, one frame a key.
    page.press(RIGHT, RIGHT, RIGHT, RIGHT)
    assert at(page) == 4
    page.chrome.execute_script("arguments[0].focus()", page.find("seek"))
    page.press(LEFT)
    assert at(page) == 3
    assert page.find("seek").get_attribute("aria-valuetext").endswith("frame 3 of 4")


def test_keys_elsewhere_are_left_alone(page, report):
    page.chrome.execute_script("document.querySelector('summary').focus()")
    page.press(RIGHT)
    assert at(page) == 1


def test_a_cell_tells_of_its_token(page, report):
    """Of the cell under the pointer, counted here from the assignment."""
    page.find("next").click()
    height, width = report["grid"]
    for y, x in ((0, 0), (height - 1, width - 1), (1, 1)):
        token = report["assignment"][1][y * width + x]
        page.point("stage", (x + 0.5) / width, (y + 0.5) / height)
        cells = [row.count(token) for row in report["assignment"]]
        first, frames, total = report["boxes"][token][0], sum(map(bool, cells)), sum(cells)
        assert page.find("pick").get_property("value") == str(token)
        assert page.text("about") == (
            f"First seen at {report['frames'][first]['label']}, in frame {first + 1}; stands for {total} "
            f"cell{'s' if total != 1 else ''} in {frames} frame{'s' if frames != 1 else ''}."
        )


def test_a_click_holds_on_to_a_token(known):
    known.point("stage", 0.2, 0.5)
    known.actions().click().perform()
    known.point("stage", 0.9, 0.9)
    assert known.find("pick").get_property("value") == "0"
    assert known.text("about") == "First seen at 0.00 s, in frame 1; stands for 24 cells in 3 frames."
    marked = '[...document.querySelectorAll("#strip i")].map((i) => i.style.opacity)'
    assert known.value(marked) == ["1", "1", "1"]
    known.press(ESCAPE)
    assert known.find("pick").get_property("value") == "4"
    assert known.value(marked) == ["1", "", "1"]


def test_a_token_by_its_number(known):
    pick = known.find("pick")
    pick.send_keys("6")
    assert at(known) == 2
    assert known.text("about") == "First seen at 0.50 s, in frame 2; stands for 4 cells in 1 frame."
    pick.clear()
    pick.send_keys("99")
    assert known.text("about").startswith("Point at a cell")
    known.press(RIGHT)
    assert at(known) == 2


def test_the_player_paints_as_the_picture_and_the_overlay_do(known):
    """Two programs: a canvas here, NumPy there."""
    merged = thought_up()
    colors = group_colors(merged.assignment, GRID.width)
    for t in range(3):
        known.point("number", 0.5, 0.5)
        seen = known.picture("stage").astype(int)
        size = seen.shape[1], seen.shape[0]
        grey = np.full((*seen.shape[:2], 3), 128, np.uint8)
        expected = np.asarray(paint_frame(grey, merged, GRID, t, size, colors), int)
        off = np.abs(seen - expected).max(2)
        # The page rounds its corners.
        assert (off > 24).mean() < 0.002, t
        assert off[40::80, 40::80].mean() < 4, t
        known.press(RIGHT)


def test_without_tokens_the_frame_is_as_it_is(known):
    known.press(RIGHT)
    known.find("show").click()
    known.point("number", 0.5, 0.5)
    bare = known.picture("stage")[20:-20, 20:-20]
    assert np.abs(bare.astype(int) - 128).max() < 4


def test_without_javascript_the_sheet_is_there(page, tiny_bundle):
    page.open(tiny_bundle / "report.html", script=False)
    assert not page.find("player").is_displayed()
    (sheet,) = page.chrome.find_elements("css selector", "#sheet img")
    assert sheet.is_displayed()
    assert sheet.size["width"] > 600
    assert page.picture("sheet").std() > 20
    page.open(tiny_bundle / "report.html")
    assert not sheet_is_open(page)


def sheet_is_open(page):
    return page.find("sheet").get_property("open")


def test_on_paper_all_frames_are_shown(page, report):
    page.chrome.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert sheet_is_open(page)
    page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find("seek").is_displayed()
        assert page.find("stage").is_displayed()
    finally:
        page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(page, tiny_bundle, scheme):
    """Contrast of at least 4.5 between each text and what lies behind it, as WCAG asks."""
    page.open(tiny_bundle / "report.html", scheme=scheme)
    rows = page.chrome.execute_script(
        """
        const behind = (node) => {
          for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if (color !== "rgba(0, 0, 0, 0)" && color !== "transparent") return color;
          }
          return "rgb(255, 255, 255)";
        };
        const tags = "p, li, td, th, h1, h2, dt, dd, small, figcaption, summary, label, button";
        return [...document.querySelectorAll(tags)]
          .filter((node) => node.offsetParent && node.textContent.trim() && !node.disabled)
          .map((node) => [node.tagName + ": " + node.textContent.trim().slice(0, 40), getComputedStyle(node).color,
            behind(node)]);
        """
    )
    assert len(rows) > 50
    poor = {name: round(contrast(ink, paper), 2) for name, ink, paper in rows if contrast(ink, paper) < 4.5}
    assert poor == {}
    brightness = luminance(page.value("getComputedStyle(document.body).backgroundColor"))
    assert brightness > 0.9 if scheme == "light" else brightness < 0.02


def luminance(color):
    channels = np.array([int(part) / 255 for part in re.findall(r"\d+", color)[:3]])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(ink, paper):
    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_page(page, tiny_bundle, width):
    page.open(tiny_bundle / "report.html")
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.find("stage").size["width"] > min(500, 0.8 * width)
    finally:
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_texts_run_nothing(page, tmp_path):
    """Whatever a file, a model or a reason is called; the policy would stop it too."""
    evil = "".join(HOSTILE) + "<img src=x onerror=\"document.title='run'\"><script>document.title = 'run'</script>"
    engine = {"target": evil, "graph": evil, "status": evil, "reason": evil, "bytes": 0, "seconds": 0}
    manifest = {"model": {"title": evil}, "weights": {"kind": evil}, "example": {"clip": evil}, "engines": [engine]}
    (tmp_path / "a.html").write_text(render_report(manifest, clip=shown([evil] * 3)), encoding="utf-8")
    page.open(tmp_path / "a.html")
    assert page.chrome.title != "run"
    assert page.value("document.getElementById('time').textContent") == evil
    console, asked = page.logs()
    assert console == []
    assert len([url for url in asked if not url.startswith("data:")]) == 1


def test_the_policy_stops_what_would_run(page, tmp_path):
    """Were a text not escaped, it would still neither run nor load anything."""
    html = render_report({}, clip=shown())
    assert "</main>" in html
    evil = "<script>document.title = 'run'</script><img src='https://example.invalid/a.png'>"
    (tmp_path / "a.html").write_text(html.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    page.open(tmp_path / "a.html")
    assert page.chrome.title != "run"
    console, _ = page.logs()
    assert len([line for line in console if "Content Security Policy" in line]) == 2
    assert at(page) == 1


def test_one_frame(page, tmp_path):
    clip = shown()
    merged = thought_up()
    one = type(clip)(
        clip.pictures[:1], clip.labels[:1], type(merged)(**{**vars(merged), **cut(merged)}), GRID, clip.size
    )
    page.open(write_report(tmp_path / "one.html", {}, clip=one))
    assert page.text("number") == "frame 1 of 1"
    assert not page.find("seek").is_displayed()
    assert page.logs()[0] == []


def cut(merged):
    """The first frame alone, and the tokens that begin in it."""
    count = int((merged.token_box[:, 0] == 0).sum())
    names = ("tokens", "token_box", "token_patches")
    return {name: getattr(merged, name)[:count] for name in names} | {"assignment": merged.assignment[:1]}


def test_the_player_shows_what_the_merger_said(report, tiny_bundle):
    """The clip's data in the page are those of the fixture and of the scene."""
    bundle = open_bundle(tiny_bundle)
    example = json.loads((tiny_bundle / "manifest.json").read_text())["example"]
    assert len(report["boxes"]) == example["num_tokens"]
    assert len(report["frames"]) == len(take_scene(None, 4).frames)
    assert report["grid"] == [bundle.merge.height, bundle.merge.width]
    with np.load(tiny_bundle / "fixtures" / "token_merger.npz") as fixture:
        name = next(key for key in fixture.files if key.endswith("assignment"))
        assert report["assignment"] == fixture[name].tolist()
