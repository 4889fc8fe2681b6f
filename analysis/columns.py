"""The CSV files of the tables, and a user's curve: one reader, which checks columns, types and ranges.

A file may be somebody else's. What a number or a name cannot be is refused, and so is text that a terminal or a
spreadsheet would execute.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, NamedTuple, cast

import pandas as pd
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from repro.errors import ReproError
from repro.text import odd_number, printable

LARGEST_FILE = 2**26
"""Bytes of a CSV file that is read."""
MOST_FAULTS = 10
"""Faults of a file that a message names."""


class Column(NamedTuple):
    """A column of a CSV file: the type that its text is checked against, and its type in a table.

    A column of type `str` keeps the text that was checked, so JSON stays as it was written.
    """

    kind: Any
    dtype: str


def plain(text: str) -> str:
    """Return a text as it stands in a table: what a terminal or a spreadsheet would execute is made visible."""
    shown = printable(text)
    return f"'{shown}" if re.match(r"[=+@]|-.", shown) else shown


def _plain(text: str) -> str:
    if text != plain(text):
        raise ValueError("should be plain text, without control characters, that does not begin like a formula")
    return text


def _number(text: Any) -> Any:
    if isinstance(text, str) and odd_number(text):
        raise ValueError("should be written with the digits 0 to 9 alone")
    return text


Whole = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(_number)]
Real = Annotated[FiniteFloat, Field(ge=-3.5e38, le=3.5e38), BeforeValidator(_number)]
"""A finite number that fits in float32."""


TEXT = Column(Annotated[str, AfterValidator(_plain)], "str")
NAME = Column(Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=120)], "str")
DIGITS = Column(Annotated[str, StringConstraints(pattern=r"^[0-9]*$", max_length=9)], "str")
COUNT = Column(Whole, "int64")
FLAG = Column(bool, "bool")
NUMBER = Column(Real, "float64")
OPTIONAL = Column(Annotated[Real | None, BeforeValidator(lambda text: text or None)], "float64")


class Schema(NamedTuple):
    """The columns of a table, and those in which no two of its rows agree; none if rows may repeat."""

    columns: dict[str, Column]
    key: Sequence[str] = ()


def read_csv(path: Path, schema: Schema, what: str = "results file") -> pd.DataFrame:
    """Read the columns of `schema` and ignore others. Messages call the file `what`.

    Raises ReproError that names the file, the row (1 is the header) and the column of each field that is missing, is
    not of the column's type, or repeats the key of a row above.
    """
    try:  # without a header, so that pandas refuses a row that is longer than the header
        if path.stat().st_size > LARGEST_FILE:
            raise ReproError(f"{what} {path} has more than {LARGEST_FILE:,} bytes, which are not read")
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ReproError(f"{what} {path} cannot be read: {printable(' '.join(str(error).split()))}") from None
    heads = raw.iloc[0].tolist()
    missing = [column for column in schema.columns if heads.count(column) != 1]
    if missing:
        raise ReproError(f"{what} {path}, row 1: has no column {', '.join(missing)}, or has it twice")
    table, faults = pd.DataFrame(index=raw.index[1:]), dict[tuple[int, str], str]()
    for name, column in schema.columns.items():
        texts, kinds = raw.loc[table.index, heads.index(name)], cast(Any, GenericAlias(list, (column.kind,)))
        try:
            values = TypeAdapter(kinds).validate_python(texts.tolist())
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False):
                row = int(each["loc"][0])
                faults.setdefault((row + 2, name), f"{texts.iloc[row][:60]!r} {_remedy(each['msg'])}")
        else:
            table[name] = pd.Series(texts if column.dtype == "str" else values, dtype=column.dtype, index=table.index)
    if schema.key and not faults:
        repeated = table.index[table.duplicated(schema.key)]
        faults = {(row + 1, " and ".join(schema.key)): "the same as in a row above" for row in repeated}
    if faults:
        raise together([fault(path, *place, faults[place], what) for place in sorted(faults)], str(path))
    return table.reset_index(drop=True)


def _remedy(message: str) -> str:
    return message.removeprefix("Input ").removeprefix("Value error, ").removeprefix("String ")


def fault(path: Path, row: int, column: str, text: str, what: str = "results file") -> str:
    return f"{what} {path}, row {row}, column {column}: {text}"


def together(faults: list[str], where: str) -> ReproError:
    more = len(faults) - MOST_FAULTS
    return ReproError("\n".join([*faults[:MOST_FAULTS], *([f"{where} has {more:,} more"] if more > 0 else [])]))
