"""The report in a browser: drawn without an error, light and dark, on a phone, by keyboard; and as PNG."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_sweep import a_summary, a_sweep

from e2e.conftest import Sandbox
from rdistill.report.png import BROWSERS

pytestmark = pytest.mark.e2e

BROWSER = os.environ.get("BROWSER_PATH") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chrome or Chromium on the PATH, or BROWSER_PATH")
PAPER = 700  # CSS pixels between the margins of A4, as in page.js
QUIET = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"


@pytest.fixture(scope="module")
def page_file(sandbox: Sandbox) -> Path:
    """The report of 40 trials, two configurations confirmed, three images drawn."""
    folder = a_sweep(sandbox.root / "shown", 40)
    a_summary(folder)
    done = sandbox.run("report", folder)
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
    names = page.locator("#searched tbody tr td:nth-child(1)").all_text_contents()
    assert names == sorted(names) and len(names) == 41
    unnamed = page.evaluate(
        "[...document.querySelectorAll('.plot')].filter((plot) => !plot.getAttribute('aria-label')).length"
    )
    assert unnamed == 0 and complaints == []
    page.context.close()


OVERFLOWS = """() => [...document.querySelectorAll('main *, header *')].filter((part) =>
    !part.closest('svg, .plot, pre, .visually-hidden, details:not([open])') && part.getClientRects().length &&
    part.getBoundingClientRect().right > LIMIT + 1).map((part) => part.outerHTML.slice(0, 120))"""
SCROLLS = """() => [...document.querySelectorAll('.table .scroll')].filter((box) =>
    box.clientWidth && box.scrollWidth > box.clientWidth + 1).map((box) => box.getAttribute('aria-label'))"""

# Each figure with its left and right end, and where the box ends that it is drawn in.
FIGURES = """() => [...document.querySelectorAll('.plot')].map((plot) => {
    const parts = [plot.querySelector('.main-svg'), plot.parentElement];
    const [drawn, room] = parts.map((box) => box.getBoundingClientRect());
    return [plot.dataset.figure, drawn.left, drawn.right, room.right]; })"""

# The headings that each table has, and those that can be seen in one of its parts.
HEADS = """() => [...document.querySelectorAll('main .table')].filter((box) => !box.closest('details')).map((box) => [
    [...box.querySelectorAll(':scope > .scroll th')].map((head) => head.textContent),
    [...box.querySelectorAll('th')].filter((head) => head.offsetWidth).map((head) => head.textContent)])"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_is_wider_than_the_window(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    """No table scrolls inside its box either: what does not fit is a column of a high rank, and a button brings it."""
    page, complaints = opened(browser, page_file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(SCROLLS) == []
    shown = page.evaluate(FIGURES)
    assert {"parallel"} < {name for name, *_ in shown} and any(name.startswith("pairs") for name, *_ in shown)
    assert [name for name, left, right, room in shown if left < 0 or right > room + 1] == []
    page.set_viewport_size({"width": width - 40, "height": 900})  # the same after the window has been narrowed
    page.wait_for_function(f"({FIGURES})().every(([, left, right, room]) => right <= room + 1)")
    page.set_viewport_size({"width": width, "height": 900})
    board = page.locator("#searched .table").first
    more = board.locator("button.columns")
    hidden = board.locator("th:not(:visible)").all_text_contents()
    assert more.inner_text() == f"Show {len(hidden)} more columns" and "trial" not in hidden and "gain" not in hidden
    more.click()
    assert board.locator("th:not(:visible)").count() == 0
    more.click()
    assert board.locator("th:not(:visible)").all_text_contents() == hidden and complaints == []
    page.context.close()


@needs_browser
def test_paper_has_all_of_it(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """A4, in light colours: every column of every table, each row, no figure cut; and the page is itself again."""
    page, complaints = opened(browser, page_file, viewport={"width": 1280, "height": 900}, color_scheme="dark")
    before = page.evaluate("document.body.innerText")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    page.emulate_media(media="print")
    page.wait_for_function("document.documentElement.classList.contains('printing')")
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    assert page.evaluate(OVERFLOWS.replace("LIMIT", str(PAPER))) == []
    shown = page.evaluate(HEADS)
    assert shown and all(set(heads) == set(visible) for heads, visible in shown), shown
    assert page.locator("#searched tbody tr:visible").count() >= 41
    wide = page.evaluate("""() => [...document.querySelectorAll('.plot')].map((plot) => [plot.dataset.figure,
        plot.querySelector('.main-svg').getBoundingClientRect().right])""")
    assert len(wide) >= 9 and [name for name, right in wide if right > PAPER + 1] == []
    grounds = "[...document.querySelectorAll('.plot .main-svg')].map((svg) => getComputedStyle(svg).backgroundColor)"
    assert not any("21, 24, 29" in ground for ground in page.evaluate(grounds))
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.wait_for_function("(text) => document.body.innerText === text", arg=before)
    file = tmp_path / "report.pdf"
    page.pdf(path=str(file), format="A4")
    assert file.read_bytes().count(b"/Type /Page\n") > 3 and complaints == []
    page.context.close()


@needs_browser
def test_tables_and_figures_are_taken_along(browser: Any, page_file: Path, tmp_path: Path) -> None:
    page, complaints = opened(browser, page_file, viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    table = page.locator("#confirmed .table").first
    copied = {}
    for form in ("Markdown", "LaTeX", "CSV"):
        table.get_by_role("button", name=form).click()
        page.wait_for_function("(form) => [...document.querySelectorAll('#confirmed .tools button')].some((button) => "
                               "button.textContent === 'Copied')", arg=form)  # fmt: skip
        copied[form] = page.evaluate("navigator.clipboard.readText()")
        page.wait_for_function("![...document.querySelectorAll('button')].some((one) => one.textContent === 'Copied')")
    head, rule, first = copied["Markdown"].splitlines()[:3]
    assert head.startswith("| configuration | mean mIoU | difference | 95 % interval |") and rule.startswith(
        "|---|---:|"
    )
    assert first.startswith("| t0001 | 77.10 | +4.10 | +2.20 to +6.00 |") and first.count("|") == head.count("|")
    assert "\\begin{tabular}{lrrr" in copied["LaTeX"] and "95 \\% interval & p" in copied["LaTeX"]
    assert "t0002 & 73.50 & +0.50 & $-$1.00 to +2.00" in copied["LaTeX"]
    rows = list(csv.DictReader(copied["CSV"].splitlines()))
    assert [row["configuration"] for row in rows] == ["t0001", "t0002", "baseline (student alone)"]
    assert rows[0]["mean mIoU"] == "77.1" and rows[2]["difference"] == "" and rows[0]["seed 3"] == "78.1"
    page.click("details.card > summary")
    page.wait_for_function("document.querySelector('.card img').naturalWidth === 1280")
    for part, name, begins in ((".card", "verdict-card.svg", b"<svg"), ("#figure-curves", "curves.svg", b"<svg"),
                               ("#figure-curves", "curves.png", b"\x89PNG")):  # fmt: skip
        with page.expect_download() as waiting:
            page.locator(f"{part} .tools button", has_text=name[-3:].upper()).click()
        waiting.value.save_as(tmp_path / name)
        assert waiting.value.suggested_filename == name and (tmp_path / name).read_bytes().startswith(begins)
    card = (tmp_path / "verdict-card.svg").read_text()
    assert (
        "Better than the student alone" in card
        and "What next: " in card
        and "http" not in card.replace("http://www.w3.org", "")
    )
    assert complaints == []
    page.context.close()


@needs_browser
def test_figures_as_png(sandbox: Sandbox, page_file: Path) -> None:
    folder = sandbox.root / "png"
    sandbox.run(
        "compare",
        page_file.parent,
        a_sweep(sandbox.root / "second", 2),
        "--out",
        sandbox.root / "c.html",
        "--png",
        folder,
    )
    assert sorted(file.name for file in folder.iterdir()) == ["confirmed.png", "sweeps.png"]
    with Image.open(folder / "sweeps.png") as image:
        assert image.width == 2100 and len(image.convert("L").getcolors(256) or range(257)) > 2


def test_a_folder_that_is_no_sweep_is_one_line(sandbox: Sandbox) -> None:
    done = sandbox.run("report", sandbox.cwd, status=2)
    assert done.stderr.count("\n") == 1 and "holds neither a sweep" in done.stderr
