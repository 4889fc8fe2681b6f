"""A page of sections, tables and figures, as one self-contained HTML file or as Markdown."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.figure import Figure as Plot
from PIL import Image
from repro.analysis.plots import runs as plots

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
class Table:
    """A table with its caption. `name` is its anchor; `digits` are the decimals of real numbers."""

    name: str
    frame: pd.DataFrame
    caption: str = ""
    digits: int = 2

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has numbers, which are aligned to the right."""
        kinds = pd.api.types
        return [kinds.is_numeric_dtype(dtype) and not kinds.is_bool_dtype(dtype) for dtype in self.frame.dtypes]

    @property
    def cells(self) -> list[list[str]]:
        """The text of each cell, row by row; "-" for a missing value."""
        return [[self._cell(value) for value in row] for row in self.frame.itertuples(index=False)]

    def _cell(self, value: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:,.{self.digits}f}" if isinstance(value, float) else str(value)


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


Part = str | Table | Figure
"""A part of a section; a text is a paragraph, with `code` between backticks."""
Contents = dict[str, pd.DataFrame | list[Part]]
"""Parts by the name of their place in the report's text; a data frame becomes a table of that name."""


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
    title: str
    lead: str
    cards: list[Card]
    sections: list[Section]
    summary: Table = field(default_factory=lambda: Table("", pd.DataFrame()))  # the verdicts in five columns

    @property
    def figures(self) -> list[Figure]:
        parts = [part for section in self.sections for part in (*section.parts, *section.folded)]
        return [part for part in parts if isinstance(part, Figure)]


def filled(text: str, cards: list[Card], contents: Contents) -> Page:
    """Return the page of a text in Markdown, with tables and other parts in their places.

    The text begins with title and lead. `[name]` stands for the parts of that name in `contents`, and `[name]: ...`
    gives them a caption. Parts after `<details>` are folded.
    """
    title, lead, *blocks = (" ".join(block.split()) for block in text.split("\n\n"))
    page, parts = Page(title.removeprefix("# "), lead, cards, []), list[Part]()
    for block in blocks:
        if heading := re.fullmatch(r"## (.+) \{#(.+)\}", block):
            page.sections.append(Section(heading[1], heading[2], []))
            parts = page.sections[-1].parts
        elif block == "<details>":
            parts = page.sections[-1].folded
        elif place := re.fullmatch(r"\[(\w+)\](?:: (.+))?", block):
            name, caption = place.groups()
            found = contents[name]
            for part in [Table(name, found)] if isinstance(found, pd.DataFrame) else found:
                parts.append(replace(part, caption=caption) if caption and not isinstance(part, str) else part)
        else:
            parts.append(block)
    return page


def drawn(name: str, draw: Callable[[], Plot], alt: str, caption: str = "", runs: Sequence[str] = ()) -> Figure:
    """Draw a plot as PNG and, because saving changes a figure, once more as SVG. `runs` are the ids of runs in it."""
    with style.context(["default", ASSETS / "report.mplstyle"]):  # whatever style other code of this process has set
        return Figure(name, alt, caption, plots.png(draw()), plots.svg(draw(), name, alt), tuple(runs))


def html(page: Page) -> str:
    """Return the page as one file that contains its styles, script and pictures. Equal pages give equal text."""
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": _inline, "data": _data, "mark": _mark}
    environment.tests["figure"] = lambda part: isinstance(part, Figure)
    embedded = {name: Markup((ASSETS / f"report.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(page=page, size=_size, Markup=Markup, **embedded)


def markdown(page: Page, pictures: str) -> str:
    """Return the page as Markdown. `pictures` is the folder of its pictures, relative to the Markdown file."""
    blocks = [f"# {page.title}", page.lead]
    for section in page.sections:
        blocks.append(f"## {section.title}")
        for part in [*section.parts, *section.folded]:
            if isinstance(part, str):
                blocks.append(part)
            elif isinstance(part, Figure):
                blocks += [f"![{part.alt}]({pictures}/{part.name}.png)", f"*{part.caption}*"]
            else:
                blocks += [markdown_table(part), f"*{part.caption}*"]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    rules = ["---:" if numeric else "---" for numeric in table.numeric]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.frame.columns, rules, *cells))


def _mark(text: str) -> tuple[str, str]:
    """Return the sign and the CSS class of a verdict; nothing for any other text."""
    return next((mark for word, mark in MARKS.items() if text.startswith(word)), ("", ""))


def _inline(text: str) -> Markup:
    """Escape a text and mark up code between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        return image.size
