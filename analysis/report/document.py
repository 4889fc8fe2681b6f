"""A page of sections, tables and figures, as one self-contained HTML file or as Markdown."""

import base64
import io
import re
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

ASSETS = Path(__file__).parent / "assets"
MARKS = {
    "holds": ("✓", "good"),
    "reproduced": ("✓", "good"),
    "consistent": ("≈", "good"),
    "does not hold": ("✗", "bad"),
    "different": ("✗", "bad"),
    "undecided": ("?", "open"),
    "interim": ("…", "open"),
    "not measured": ("○", "none"),
    "not comparable": ("○", "none"),
}
"""The sign and the CSS class of a verdict by its first words. The sign serves readers who do not see the colour."""


@dataclass(frozen=True)
class Prose:
    """A paragraph; `code` between backticks."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table with its caption. `name` is its anchor; `digits` are the decimals of real numbers."""

    name: str
    frame: pd.DataFrame
    caption: str
    digits: int = 2

    @property
    def numeric(self) -> list[bool]:
        """Return for each column whether it is of numbers, and so aligned to the right."""
        kinds = pd.api.types
        return [kinds.is_numeric_dtype(dtype) and not kinds.is_bool_dtype(dtype) for dtype in self.frame.dtypes]


@dataclass(frozen=True)
class Figure:
    """A picture as PNG and, if `svg` is not empty, as SVG for the page.

    `caption` says what it shows and how it was made; `runs` are the ids of the runs that it is logged to.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: str = ""
    runs: tuple[str, ...] = ()


Part = Prose | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading with its parts; the page shows `folded` parts on demand."""

    title: str
    anchor: str
    parts: list[Part]
    folded: list[Part] = field(default_factory=list)


@dataclass(frozen=True)
class Card:
    """A verdict at the top of the page."""

    title: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    lead: str
    cards: list[Card]
    sections: list[Section]

    @property
    def figures(self) -> list[Figure]:
        """Return every picture of the page."""
        parts = [part for section in self.sections for part in (*section.parts, *section.folded)]
        return [part for part in parts if isinstance(part, Figure)]


def html(page: Page) -> str:
    """Return the page as one file with styles, script and pictures in it. The same page gives the same text."""
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": _inline, "data": _data, "cell": _cell, "kind": verdict_kind, "mark": verdict_mark}
    environment.tests |= {"table": _is(Table), "figure": _is(Figure), "prose": _is(Prose), "number": _is_number}
    embedded = {name: Markup((ASSETS / f"report.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(page=page, size=_size, Markup=Markup, **embedded)


def markdown(page: Page, pictures: str) -> str:
    """Return the page as Markdown. `pictures` is the folder of its pictures, relative to the Markdown file."""
    lines = [f"# {page.title}", "", page.lead, ""]
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        for part in [*section.parts, *section.folded]:
            if isinstance(part, Prose):
                lines += [part.text, ""]
            elif isinstance(part, Figure):
                lines += [f"![{part.alt}]({pictures}/{part.name}.png)", "", f"*{part.caption}*", ""]
            else:
                lines += [*_markdown_table(part), "", f"*{part.caption}*", ""]
    return "\n".join(lines).rstrip() + "\n"


def verdict_kind(text: Any) -> str:
    """Return the CSS class of a verdict: good, bad, open or none; "" for any other text."""
    return _mark(text)[1]


def verdict_mark(text: Any) -> str:
    """Return the sign of a verdict; "" for any other text."""
    return _mark(text)[0]


def _mark(text: Any) -> tuple[str, str]:
    return next((mark for word, mark in MARKS.items() if str(text).startswith(word)), ("", ""))


def _markdown_table(table: Table) -> list[str]:
    heads = [str(column) for column in table.frame.columns]
    lines = ("---:" if each else "---" for each in table.numeric)
    rows = ["| " + " | ".join(heads) + " |", "| " + " | ".join(lines) + " |"]
    for row in table.frame.itertuples(index=False):
        cells = [_cell(value, table.digits).replace("|", "\\|").replace("\n", " ") for value in row]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _cell(value: Any, digits: int = 2) -> str:
    if pd.isna(value):  # None and NaN too
        return "-"
    return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)


def _inline(text: str) -> Markup:
    """Escape a text and mark up code between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        return image.size


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not pd.isna(value)


def _is(kind: type) -> Any:
    return lambda part: isinstance(part, kind)
