"""The report and the MLflow UI in a real browser: the report works by itself, the UI's start page leads to runs."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from repro.analysis.plots import runs as plots
from repro.analysis.report.document import Card, Figure, Page, Section, Table, drawn, html
from support import synthetic
from support.process import fetched, free_port, started

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def report() -> str:
    frame = pd.DataFrame(
        {
            "name": ["beta <script>alert(1)</script>", "alpha", "gamma"],
            "verdict": ["holds", "does not hold", "not measured"],
            "cost": [10.0, 9.5, float("nan")],
        }
    )
    rows = pd.DataFrame({"quantity": "any", "group": list("aabb"), "x": [1, 2, 1, 2], "value": [3.0, 4.0, 5.0, 6.0]})
    plot = drawn("plot", lambda: plots.by_group(rows, "any", "x", "y"), 'A "plot" of <it>', "How it was made")
    parts = [
        "One `code` & <b>more</b>.",
        Table("numbers", frame, "A caption that is long enough to be wrapped on a narrow window, " * 3),
        plot,
        Figure("sheet", "A sheet of images", "How it was made", plot.png),
    ]
    wide = pd.DataFrame({f"column number {index}": [index * 1000.5] for index in range(20)})
    sections = [
        Section("First", "first", list(parts)),
        Section("Second", "second", [Table("wide", wide, "Wide.")], ["folded"]),
    ]
    return html(Page("A report", "What it is.", [Card("one", "reproduced", "by much")], sections))


@pytest.fixture(scope="module")
def browser() -> "Iterator[sync_api.Browser]":
    with sync_api.sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS + root)
        yield found
        found.close()


@pytest.fixture
def page(browser: "sync_api.Browser", tmp_path: Path) -> "Iterator[sync_api.Page]":
    """The report, open from the disk; at the end nothing must have been complained of or asked for."""
    path = tmp_path / "report.html"
    path.write_text(report(), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    tab.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", path.as_uri()))] == []


def names(page: "sync_api.Page") -> list[str]:
    return [text.split()[0] for text in page.locator("#numbers tbody th").all_inner_texts()]


def test_every_picture_has_a_size_and_words(page: "sync_api.Page") -> None:
    for each in page.locator("img, svg[role=img]").all():
        box = each.bounding_box()
        assert box
        assert box["width"] > 100
        assert box["height"] > 50
        assert each.get_attribute("alt") or each.get_attribute("aria-label")
    assert page.locator("svg[role=img]").get_attribute("aria-label") == 'A "plot" of <it>'


def test_tables_sort_by_click_and_by_keyboard(page: "sync_api.Page") -> None:
    assert names(page) == ["beta", "alpha", "gamma"]
    head = page.locator("#numbers thead th").nth(2)
    head.get_by_role("button").click()
    assert (names(page), head.get_attribute("aria-sort")) == (["alpha", "beta", "gamma"], "ascending")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page)[-2:] == ["beta", "alpha"]
    page.locator("#numbers thead th").nth(0).get_by_role("button").click()
    assert names(page) == ["alpha", "beta", "gamma"]
    assert head.get_attribute("aria-sort") is None


def test_colours_change_and_are_those_of_the_system_at_first(page: "sync_api.Page") -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.emulate_media(color_scheme="dark")
    dark = paper()
    assert light != dark
    page.get_by_role("button", name="Light colours").click()
    assert paper() == light
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert ink == page.evaluate("getComputedStyle(document.body).color"), "the plot's text is in the page's colour"


def test_the_first_tab_skips_to_the_content(page: "sync_api.Page") -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_narrow_window_does_not_scroll_sideways(page: "sync_api.Page") -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_is_folded_opens(page: "sync_api.Page") -> None:
    assert not page.get_by_text("folded").is_visible()
    page.get_by_text("More of this").click()
    assert page.get_by_text("folded").is_visible()


def test_the_start_page_of_the_ui_leads_to_a_table_of_runs(browser: "sync_api.Browser", tmp_path: Path) -> None:
    for seed in (100, 101):
        synthetic.run("mnist_fc", seed, 96.0)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.html").write_text(report(), encoding="utf-8")
    start = f"http://127.0.0.1:{(port := free_port())}/start"
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    with started("ui", "--port", str(port), cwd=tmp_path) as server:
        try:
            fetched(start, seconds=120)
            tab.goto(start)
            tab.get_by_role("link", name="mnist_fc", exact=True).click()
            for name in ("seed 100", "seed 101"):
                sync_api.expect(tab.get_by_role("link", name=name)).to_be_visible(timeout=120_000)
            tab.get_by_role("link", name="Experiments", exact=True).first.click()  # the mode stays
            sync_api.expect(tab).to_have_url(re.compile("/experiments($|[?])"), timeout=120_000)
            sync_api.expect(tab.get_by_text("Model registry")).to_be_visible(timeout=120_000)
            assert tab.get_by_text("Prompts").count() == 0
            tab.goto(start)
            tab.get_by_role("link", name="the report").click()
            sync_api.expect(tab.get_by_role("heading", name="A report")).to_be_visible()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
            tab.close()
    lines = (tmp_path / "output.txt").read_text().splitlines()
    assert (len(lines), start in lines[0]) == (1, True), "silent but for the address"
    assert not (tmp_path / "mlflow.db").exists()
