"""The report in a browser: drawn without an error, light and dark, on a phone, by keyboard; and as PNG."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_sweep import a_summary, a_sweep

from e2e.conftest import Place
from rdistill.report.png import BROWSERS

pytestmark = pytest.mark.e2e

BROWSER = os.environ.get("BROWSER_PATH") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chrome or Chromium")
QUIET = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"


@pytest.fixture(scope="module")
def page_file(place: Place) -> Path:
    """The report of 40 trials, two configurations confirmed, three images drawn."""
    folder = a_sweep(place.root / "shown", 40)
    a_summary(folder)
    done = place.run("report", folder)
    assert done.stdout.splitlines()[-1].startswith(f"report    {folder}/report.html (2.")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=BROWSER, args=[f"--{name}" for name in QUIET.split()])
        yield running
        running.close()


def opened(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page once it is drawn, offline, and what it had to complain of."""
    context = browser.new_context(offline=True, **options)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda setting: None if setting.url.startswith(("file:", "data:", "blob:")) else complaints.append(setting.url),
    )
    page.goto(file.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn !== undefined", timeout=120_000)
    return page, complaints


@needs_browser
def test_every_plot_is_drawn(browser: Any, page_file: Path) -> None:
    page, complaints = opened(browser, page_file, viewport={"width": 1280, "height": 900}, color_scheme="light")
    drawn = page.evaluate(
        """() => [...document.querySelectorAll('.plot')].map((plot) => [plot.dataset.figure,
        plot.querySelectorAll('.trace, .bars path, .heatmaplayer image, .boxlayer path').length])"""
    )
    assert len(drawn) >= 9 and all(marks > 0 for _, marks in drawn), drawn
    assert complaints == []
    page.emulate_media(color_scheme="dark")
    ground = "getComputedStyle(document.querySelector('.plot .main-svg')).background"
    page.wait_for_function(f"{ground}.includes('21, 24, 29')")
    # Another trial's losses, chosen by keyboard.
    before = page.evaluate("document.querySelector('[data-figure=losses].plot').data[0].y.join()")
    page.focus("#choose-losses")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(
        "(y) => document.querySelector('[data-figure=losses].plot').data[0].y.join() !== y", arg=before
    )
    assert complaints == []
    page.context.close()


@needs_browser
def test_on_a_phone_and_by_keyboard(browser: Any, page_file: Path) -> None:
    page, complaints = opened(browser, page_file, viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'main'")
    head = page.locator("#searched th", has_text="trial")
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    names = page.locator("#searched tbody tr td:nth-child(2)").all_inner_texts()
    assert names == sorted(names) and len(names) == 41
    unnamed = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter((plot) => !plot.getAttribute('aria-label')).length"
    )
    assert unnamed == 0 and complaints == []
    page.context.close()


@needs_browser
def test_figures_as_png(place: Place, page_file: Path) -> None:
    folder = place.root / "png"
    place.run(
        "compare", page_file.parent, a_sweep(place.root / "second", 2), "--out", place.root / "c.html", "--png", folder
    )
    assert sorted(file.name for file in folder.iterdir()) == ["confirmed.png", "sweeps.png"]
    with Image.open(folder / "sweeps.png") as image:
        assert image.width == 2100 and len(image.convert("L").getcolors(256) or range(257)) > 2


def test_a_folder_that_is_no_sweep_is_one_line(place: Place) -> None:
    done = place.run("report", place.cwd, status=2)
    assert done.stderr.count("\n") == 1 and "holds neither a sweep" in done.stderr
