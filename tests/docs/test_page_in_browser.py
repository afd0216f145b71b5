"""The page of a run in a browser, opened from its file."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.browser import Browser, chromium

from matchlib.runs.page.document import write_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run in which an alarm rang."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("page") / "flow"))
    readings = {"monitor/std_ratio": 0.1, "monitor/nn_distance_ratio": 0.1}
    with (folder / "metrics.jsonl").open("a") as log:
        for step in range(14, 140):
            row = {"phase": "student", "step": step, "loss/critic": step % 7, "seconds": step, **readings}
            log.write(json.dumps(row | ({"alarms": ["collapse"]} if step == 70 else {})) + "\n")
    return write_page([folder])


def opened(browser: Browser, page: Path, width: int, scheme: str = "light") -> None:
    browser.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.log("performance")
    browser.post("/url", {"url": page.as_uri()})


def tabs(browser: Browser) -> int:
    count = browser.run("return document.querySelectorAll('[role=tab]').length")
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_has_no_error_asks_for_nothing_and_fits(browser: Browser, page: Path, width: int, scheme: str) -> None:
    opened(browser, page, width, scheme)
    assert tabs(browser) == 4
    for i in range(4):
        browser.run(f"document.querySelectorAll('[role=tab]')[{i}].click()")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        shown = "return [...document.querySelectorAll('[role=tabpanel]')].map(x => x.offsetHeight > 0)"
        assert browser.run(shown) == [j == i for j in range(4)]
    assert browser.run("return [...document.images].filter(x => x.complete && !x.naturalWidth).length") == 0
    assert browser.log("browser") == []
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.as_uri()]
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")


def test_page_switches_between_light_and_dark(browser: Browser, page: Path) -> None:
    for scheme in ("light", "dark"):
        opened(browser, page, 1280, scheme)
        color = "return getComputedStyle(document.body).backgroundColor"
        before = browser.run(color)
        browser.run("document.getElementById('theme').click()")
        switched = browser.run(color)
        browser.run("document.getElementById('theme').click()")
        assert (switched != before, browser.run(color)) == (True, before)


def test_page_shows_values_at_the_pointer(browser: Browser, page: Path) -> None:
    opened(browser, page, 1280)
    browser.run("document.querySelectorAll('[role=tab]')[1].click()")
    browser.run(
        "const svg = document.querySelector('#tab-1 svg[data-plot]'), box = svg.getBoundingClientRect();"
        "svg.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2, clientY: box.top + 50}))"
    )
    tip = browser.run("return document.querySelector('.tip:not([hidden])').textContent")
    assert tip.splitlines()[0].startswith("step ")
    assert any(line.startswith("critic ") for line in tip.splitlines())


def test_page_leads_from_a_mark_to_its_alarm(browser: Browser, page: Path) -> None:
    opened(browser, page, 1280)
    browser.run("document.querySelector('svg a').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert browser.run("return location.hash") == "#alarm-collapse"
    for _ in range(50):
        if browser.run("return document.getElementById('alarm-collapse').offsetHeight > 0"):
            return
    pytest.fail("the section stays hidden")


def test_page_saves_a_plot_with_its_colors(browser: Browser, page: Path) -> None:
    """What the button saves is a drawing of its own: it has the style, and shows in an image."""
    opened(browser, page, 1280)
    browser.run("document.querySelectorAll('[role=tab]')[1].click()")
    browser.run(
        "URL.createObjectURL = (blob) => { blob.text().then((text) => { window.saved = text; }); return 'data:,'; };"
        "document.querySelector('.save').click()"
    )
    for _ in range(50):
        saved = browser.run("return window.saved || ''")
        if saved:
            break
    assert saved.startswith("<svg")
    assert "path.line" in saved
    assert "data-plot" not in saved
    source = base64.b64encode(saved.encode()).decode()
    browser.run(f"const image = new Image(); window.image = image; image.src = 'data:image/svg+xml;base64,{source}'")
    for _ in range(50):
        if browser.run("return window.image.complete"):
            break
    assert browser.run("return window.image.naturalWidth") > 0
