"""The report and the MLflow UI in a real browser: the report works by itself, the UI's start page leads to runs."""

import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Plot
from PIL import Image
from repro.analysis.plots import runs as plots
from repro.analysis.report.document import Card, Figure, Page, Section, Table, drawn, html
from support import synthetic
from support.process import fetched, free_port, repro, started

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

    def panels() -> list[Plot]:
        return [plots.by_group(rows, "any", "x", "y") for _ in range(2)]

    plot = drawn("plot", panels, 'A "plot" of <it>', "How it was made")
    zone = {"experiment": "one", "epoch": 1, "n": 2, "reported": 1.0, "margin": 1.0, "difference": 0.5}
    zone |= {"pi_low": 0.0, "pi_high": 3.0, "ci_low": 0.1, "ci_high": 0.9}
    parts = [
        "One `code` & <b>more</b>.",
        Table("numbers", frame, "A caption that is long enough to be wrapped on a narrow window, " * 3),
        plot,
        drawn("zone", lambda: plots.verdicts(pd.DataFrame([zone])), "A verdict"),
        Figure("sheet", "A sheet of images", "How it was made", plot.png),
        Figure("other_sheet", "Another sheet of images", "How it was made", plot.png),
    ]
    wide = pd.DataFrame({f"column number {index}": [index * 1000.5] for index in range(20)})
    words = pd.DataFrame(
        {"holds (1)": ["a_claim_of_the_notebook"], **{f"what {n}": ["some words " * 9] for n in range(7)}}
    )
    sections = [
        Section("First", "first", list(parts)),
        Section("Second", "second", [Table("wide", wide, "Wide."), Table("words", words)], ["folded"], "The numbers"),
    ]
    card = Card("one", "reproduced", "by much", "yesterday")
    return html(Page("A report", "What it is.", [card], sections), "../code")


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
    labels = [each.get_attribute("aria-label") for each in page.locator("#plot svg[role=img]").all()]
    assert labels == ['A "plot" of <it>', 'A "plot" of <it>, panel 2']


def test_a_card_leads_to_the_code_of_its_experiment(page: "sync_api.Page") -> None:
    assert page.locator(".card a").get_attribute("href") == "../code/one.py"


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


@pytest.mark.parametrize("width", [400, 800, 1300])
def test_no_table_is_cut_and_no_plot_is_too_small_to_read(page: "sync_api.Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth)"
    names = page.evaluate(f"{cut}.map((box) => box.querySelector('table').id)")
    assert names == (["wide"] if width == 1300 else []), "twenty columns scroll in their own box, with whole words"
    words = "[...document.querySelectorAll('svg text')].filter((text) => /[a-z]{2}/.test(text.textContent))"
    heights = page.evaluate(f"{words}.map((text) => text.getBoundingClientRect().height)")
    assert len(heights) > 5
    assert min(heights) >= 10


def test_a_row_becomes_a_block_with_the_names_of_its_columns(page: "sync_api.Page") -> None:
    cell = page.locator("#words td").first
    before = "getComputedStyle(document.querySelector('#words td'), '::before').content"
    page.set_viewport_size({"width": 1300, "height": 1000})
    assert (cell.evaluate("cell => getComputedStyle(cell).display"), page.evaluate(before)) == ("table-cell", "none")
    page.set_viewport_size({"width": 400, "height": 1000})
    assert page.evaluate(before) == "attr(data-label)" or page.evaluate(before) == '"what 0"'
    assert cell.evaluate("cell => getComputedStyle(cell).display") == "grid"
    assert page.get_by_role("button", name="holds (1)").is_visible(), "the first column's name is the group's"


def test_panels_and_sheets_stand_side_by_side_where_there_is_room(page: "sync_api.Page") -> None:
    for width, together in ((1300, True), (400, False)):
        page.set_viewport_size({"width": width, "height": 1000})
        for which in ("#plot svg[role=img]", "#sheet, #other_sheet"):
            first, second = (each.bounding_box() for each in page.locator(which).all())
            assert first
            assert second
            assert (second["x"] > first["x"] + 100) == together, which


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_zone_of_the_margin_is_seen_on_either_background(page: "sync_api.Page", scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    plot = page.locator("#zone svg[role=img]")
    with Image.open(io.BytesIO(plot.screenshot())) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    paper = pixels[0, 0]
    row = pixels[len(pixels) // 2 + 20]  # through the axes, below the verdict's line
    colors, counts = np.unique(row, axis=0, return_counts=True)
    second = colors[counts.argsort()[-2]]
    assert np.abs(second - paper).max() > 40, (second, paper)


def test_what_is_folded_opens(page: "sync_api.Page") -> None:
    assert not page.get_by_text("folded").is_visible()
    page.get_by_text("The numbers").click()
    assert page.get_by_text("folded").is_visible()


PICTURES = ("cost_curve", "reconstructions", "samples")


@pytest.mark.slow
def test_the_start_page_of_the_ui_leads_to_runs_and_their_pictures(
    browser: "sync_api.Browser", tmp_path: Path, small_file: Path
) -> None:
    for seed in (100, 101):
        synthetic.run("mnist_fc", seed, 96.0)
    assert repro("run", str(small_file), "--data", "stand-in", cwd=tmp_path).returncode == 0
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
            tab.get_by_role("link", name="small", exact=True).click()
            tab.get_by_role("link", name="seed 0 · stand-in").click()
            tab.get_by_role("tab", name="Model metrics").click()
            for name in PICTURES:
                picture = tab.locator(f"img[src*='{name}']")
                sync_api.expect(picture).to_be_visible(timeout=120_000)
                assert picture.evaluate("image => image.naturalWidth") > 0
            for group in ("train", "heldout", "test", "time"):
                sync_api.expect(tab.get_by_text(group, exact=True)).to_be_visible(timeout=120_000)
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
