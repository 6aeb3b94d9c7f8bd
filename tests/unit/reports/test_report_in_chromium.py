"""The report in a real browser: it draws, asks for nothing, complains about nothing, follows the scheme."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import report_data

from reports import html

pytestmark = pytest.mark.browser
DRAWN = "() => window.Bokeh && Bokeh.documents.length && Bokeh.documents.every(d => d.is_idle)"
# Colour of a pixel on the axis line of the first plot with one, and how many pixels each plot has drawn.
INK = """() => [...Bokeh.index].filter(v => v.canvas_view).map(v => {
  const c = v.canvas_view.primary.canvas;
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let drawn = 0, sum = 0;
  for (let i = 3; i < d.length; i += 4) { if (d[i]) { drawn++; sum += d[i - 1] + d[i - 2] + d[i - 3]; } }
  return [drawn, Math.round(sum / Math.max(drawn, 1))];
})"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page from disk, with what it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, scheme: str = "light") -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def drawn(self) -> list[list[int]]:
        self.page.wait_for_function(DRAWN)
        ink: list[list[int]] = self.page.evaluate(INK)
        return ink


def write(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.html"
    path.write_text(html.render(report_data.ALL[kind]()))
    return path


@pytest.mark.parametrize("kind", ["full", "hostile", "interrupted"])
def test_plots_are_drawn_without_a_request_or_a_complaint(chromium: Any, tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    opened = Opened(chromium, path)
    ink = opened.drawn()
    assert len(ink) == opened.page.locator(".plot").count() >= 5
    assert all(pixels > 200 for pixels, _ in ink)
    assert opened.requests == [path.as_uri()]
    assert opened.complaints == []


def test_a_page_without_plots_is_quiet_too(chromium: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "invalid")
    opened = Opened(chromium, path)
    assert "INVALID" in opened.page.inner_text("h1")
    assert opened.requests == [path.as_uri()] and opened.complaints == []


@pytest.mark.parametrize("kind", ["regression", "undecided", "hostile_experiment"])
@pytest.mark.parametrize("width", [800, 1280])
def test_a_comparison_is_drawn_and_quiet(chromium: Any, tmp_path: Path, kind: str, width: int) -> None:
    path = write(tmp_path, kind)
    opened = Opened(chromium, path)
    opened.page.set_viewport_size({"width": width, "height": 900})
    assert opened.requests == [path.as_uri()] and opened.complaints == []
    boxes = opened.page.evaluate(
        "() => [...document.querySelectorAll('.forest circle, .cells circle')].map(c => c.getBoundingClientRect().width)"
    )
    assert boxes and all(box > 2 for box in boxes)
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width
    if kind == "regression":
        good, bad = (
            opened.page.evaluate(
                f"() => getComputedStyle(document.querySelector('.forest .{tone} circle')).fill"
            )
            for tone in ("good", "bad")
        )
        assert good != bad
        marks = opened.page.locator(".forest g").count()
        assert marks == 6 and opened.page.locator(".compared tbody tr").count() == 8


def test_what_the_page_asks_for_would_be_seen(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<script>document.title=no_such_name</script><img src='other.png'>")
    opened = Opened(chromium, path)
    assert len(opened.requests) > 1 and opened.complaints


def test_plots_follow_the_scheme_and_the_toggle(chromium: Any, tmp_path: Path) -> None:
    path = write(tmp_path, "no_faults")
    light = Opened(chromium, path).drawn()
    opened = Opened(chromium, path, "dark")
    dark = opened.drawn()
    body = "() => getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(body)
    assert light != dark
    opened.page.click("#theme")
    assert opened.page.evaluate(body) != before
    opened.page.wait_for_function(f"(was) => JSON.stringify(({INK})()) !== was", arg=_compact(dark))
    assert opened.drawn() == light


def _compact(ink: list[list[int]]) -> str:
    return str(ink).replace(" ", "")


def test_zoom_is_linked_and_can_be_reset(chromium: Any, tmp_path: Path) -> None:
    opened = Opened(chromium, write(tmp_path, "full"))
    opened.drawn()
    ranges = "() => [...Bokeh.index].filter(v => v.model.x_range).map(v => v.model.x_range.end)"
    whole = opened.page.evaluate(ranges)
    opened.page.evaluate("() => { [...Bokeh.index].find(v => v.model.x_range).model.x_range.end = 20 }")
    assert set(opened.page.evaluate(ranges)) == {20}
    opened.page.click("#reset-zoom")
    assert opened.page.evaluate(ranges) == whole


@pytest.mark.parametrize("width", [800, 1280])
def test_nothing_sticks_out_sideways(chromium: Any, tmp_path: Path, width: int) -> None:
    opened = Opened(chromium, write(tmp_path, "full"))
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.drawn()
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width
