"""A page of sections, tables and figures, as one self-contained HTML file or as Markdown."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
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
    "open": ("?", "open"),
    "interim": ("…", "open"),
    "not measured": ("○", "none"),
    "not comparable": ("○", "none"),
}
"""The sign and the CSS class of a verdict by its first words. The sign serves readers who do not see the colour."""
SMALL, MIDDLE = 45, 90
"""Letters of the narrowest line from which a table is middle and wide."""
SHORT = 20
"""Letters of a cell that is not broken into lines."""
COLUMN = 20
"""Letters of the narrowest line in which longer cells are read well."""
BREAKS = re.compile(r"[\s_,/=]")


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

    @property
    def kind(self) -> str:
        """The CSS class that says below which width a row becomes a block: `small`, `middle` or `wide`."""
        columns = zip(self.frame.columns, *self.cells, strict=True)
        letters = sum(2 + max(map(_least, column)) for column in columns)
        return "small" if letters < SMALL else "middle" if letters < MIDDLE else "wide"

    def _cell(self, value: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:,.{self.digits}f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Figure:
    """A picture as PNG, and a plot also as SVG for the page, one for each panel. A sheet of images has no SVG.

    `caption` says what it shows and how it was made; `runs` are the ids of the runs that it is logged to.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svgs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()


Part = str | Table | Figure
"""A part of a section; a text is a paragraph, with `code` between backticks."""
Contents = dict[str, pd.DataFrame | list[Part]]
"""Parts by the name of their place in the report's text; a data frame becomes a table of that name."""


@dataclass(frozen=True)
class Section:
    """A heading with its parts. The page shows `folded` parts on demand, below the line `fold`."""

    title: str
    anchor: str
    parts: list[Part]
    folded: list[Part] = field(default_factory=list)
    fold: str = "More"


@dataclass(frozen=True)
class Card:
    """A verdict at the top of the page, what it means, and when and by which version its runs were made."""

    title: str
    verdict: str
    text: str
    made: str


@dataclass(frozen=True)
class Page:
    title: str
    lead: str
    cards: list[Card]
    sections: list[Section]
    summary: Table = field(default_factory=lambda: Table("", pd.DataFrame()))
    """The verdicts in five columns, for README.md."""
    readme: Figure | None = None
    """The picture of README.md, which is not on the page."""

    @property
    def figures(self) -> list[Figure]:
        parts = [part for section in self.sections for part in (*section.parts, *section.folded)]
        return [part for part in parts if isinstance(part, Figure)]

    @property
    def committed(self) -> list[Figure]:
        """The pictures that are kept as files: what Markdown shows, and the sheets, which only the store can give."""
        shown = [part for section in self.sections for part in section.parts if isinstance(part, Figure)]
        sheets = [figure for figure in self.figures if not figure.svgs and figure not in shown]
        return [*shown, *sheets, *([self.readme] if self.readme else [])]

    @property
    def checksum(self) -> str:
        """A digest of all texts, tables and sheets of images. Plots are left out: their bits vary by machine."""
        facts: list[Any] = [self.title, self.lead, *(list(vars(card).values()) for card in self.cards)]
        for section in self.sections:
            facts += [section.title, section.fold, *map(_facts, section.parts), *map(_facts, section.folded)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def filled(text: str, cards: list[Card], contents: Contents) -> Page:
    """Return the page of a text in Markdown, with tables and other parts in their places.

    The text begins with title and lead. `[name]` stands for the parts of that name in `contents`, and `[name]: ...`
    gives them a caption. Parts after `<details>` are folded, below the line that it ends with.
    """
    title, lead, *blocks = (" ".join(block.split()) for block in text.split("\n\n"))
    page, parts = Page(title.removeprefix("# "), lead, cards, []), list[Part]()
    for block in blocks:
        if heading := re.fullmatch(r"## (.+) \{#(.+)\}", block):
            page.sections.append(Section(heading[1], heading[2], []))
            parts = page.sections[-1].parts
        elif block.startswith("<details>"):
            page.sections[-1] = replace(page.sections[-1], fold=block.removeprefix("<details>").strip())
            parts = page.sections[-1].folded
        elif place := re.fullmatch(r"\[(\w+)\](?:: (.+))?", block):
            name, caption = place.groups()
            found = contents[name]
            for part in [Table(name, found)] if isinstance(found, pd.DataFrame) else found:
                parts.append(replace(part, caption=caption) if caption and not isinstance(part, str) else part)
        else:
            parts.append(block)
    return page


def drawn(
    name: str, draw: Callable[[], Plot | list[Plot]], alt: str, caption: str = "", runs: Sequence[str] = ()
) -> Figure:
    """Draw the panels of a plot as PNG and, because saving changes a figure, once more as SVG.

    `runs` are the ids of runs in it.
    """

    def panels() -> list[Plot]:
        plot = draw()
        return [plot] if isinstance(plot, Plot) else plot

    with style.context(["default", ASSETS / "report.mplstyle"]):  # whatever style other code of this process has set
        numbers = ["", *(f"panel {number}" for number in range(2, 10))]
        svgs = [
            plots.svg(panel, f"{name}-{number}".strip("-").replace(" ", "-"), f"{alt}, {number}".strip(", "))
            for panel, number in zip(panels(), numbers, strict=False)
        ]
        return Figure(name, alt, caption, plots.png(panels()), tuple(svgs), tuple(runs))


def html(page: Page, code: str) -> str:
    """Return the page as one file that contains its styles, script and pictures. Equal pages give equal text.

    `code` is the folder of the experiments, relative to the file, for links; "" if it is not there.
    """
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": _inline, "data": _data, "mark": mark}
    environment.tests["figure"] = lambda part: isinstance(part, Figure)
    embedded = {name: Markup((ASSETS / f"report.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(
        page=page, code=code, size=_size, short=SHORT, Markup=Markup, **embedded
    )


def markdown(page: Page, pictures: str, code: str, also: Sequence[str] = ()) -> str:
    """Return what the page shows at once as Markdown, with a list of contents and the page's checksum.

    `pictures` and `code` are the folders of its pictures and of the experiments, relative to the Markdown file; `code`
    is "" if it is not there. `also` names folded tables to be shown.
    """
    cards = pd.DataFrame([vars(card) for card in page.cards]).rename(columns={"title": "result", "text": "meaning"})
    results = markdown_table(Table("cards", cards))
    for card in page.cards if code else ():
        results = results.replace(f"\n| {card.title} |", f"\n| [{card.title}]({code}/{card.title}.py) |")
    links = [f"- [{section.title}](#{section.title.lower().replace(' ', '-')})" for section in page.sections]
    blocks = [f"# {page.title}", page.lead, results, "\n".join(links)]
    for section in page.sections:
        blocks.append(f"## {section.title}")
        wanted = [part for part in section.folded if isinstance(part, Table) and part.name in also]
        for sheets, parts in groupby(
            [*section.parts, *wanted], lambda part: isinstance(part, Figure) and not part.svgs
        ):
            if sheets:
                blocks.append(_side_by_side([part for part in parts if isinstance(part, Figure)], pictures))
            else:
                blocks += [block for part in parts for block in _markdown_part(part, pictures)]
    return "\n\n".join([*blocks, f"<!-- checksum of the report: {page.checksum} -->"]) + "\n"


def _markdown_part(part: Part, pictures: str) -> list[str]:
    if isinstance(part, str):
        return [_no_markup(part)]
    shown = markdown_table(part) if isinstance(part, Table) else f"![{part.alt}]({pictures}/{part.name}.png)"
    return [shown, f"*{_no_markup(part.caption)}*"] if part.caption else [shown]


def _no_markup(text: str) -> str:
    """Return a text in which Markdown finds neither HTML nor links; code between backticks stays."""
    return text.replace("<", "&lt;").replace("](", "]\\(")


def _side_by_side(sheets: list[Figure], pictures: str) -> str:
    """Return sheets of images as a table of one row."""
    rows = [[f"![{sheet.alt}]({pictures}/{sheet.name}.png)" for sheet in sheets], ["---"] * len(sheets)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (*rows, [f"*{sheet.caption}*" for sheet in sheets]))


def markdown_table(table: Table) -> str:
    rules = ["---:" if numeric else "---" for numeric in table.numeric]
    cells = [[_no_markup(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in table.cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.frame.columns, rules, *cells))


def mark(text: str) -> tuple[str, str]:
    """Return the sign and the CSS class of a verdict; nothing for any other text."""
    return next((mark for word, mark in MARKS.items() if text.startswith(word)), ("", ""))


def _facts(part: Part) -> object:
    if isinstance(part, str):
        return part
    if isinstance(part, Table):
        return [part.name, part.caption, list(part.frame.columns), part.cells]
    return [part.name, part.alt, part.caption, "" if part.svgs else hashlib.sha256(part.png).hexdigest()]


def _least(text: str) -> int:
    """Return the letters of the narrowest line for a cell: its longest word, or several words of a long text."""
    return len(text) if len(text) <= SHORT else max(COLUMN, *map(len, BREAKS.split(text)))


def _inline(text: str) -> Markup:
    """Escape a text, mark up code between backticks, and let long names break after `_`, `,`, `/` and `=`."""
    found = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"(?<=\w[_,/=])(?=\w)(?<!\d,)", "<wbr>", found))


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        return image.size
