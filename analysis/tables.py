"""Tracked runs as three tables: one row a run, one an epoch, one a measured number. From the store or from CSV files.

The CSV files are the committed results. They hold the runs of any machine, each by its run id.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, ClassVar, NamedTuple, NotRequired, Self

import pandas as pd
from annotated_types import Ge
from pydantic import AfterValidator, BeforeValidator, FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from repro import names, registry
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import artifacts, reader

DIVERGED = "DIVERGED"
"""Status of a run that ended because its cost was no longer a number."""
FAILED = ("FAILED", DIVERGED)
"""Statuses of a run that ended by itself before its last epoch."""
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


class Column(NamedTuple):
    """A column of a CSV file: the type that its text is checked against, and the type that it has in a table."""

    kind: Any
    dtype: str


def json_column(kind: Any, empty: str = "") -> Column:
    """Return a column of JSON text of that type, which is checked and stays text; an empty field stands for `empty`."""
    adapter = TypeAdapter(kind)

    def checked(text: str) -> str:
        try:
            adapter.validate_json(text or empty)
        except ValidationError as error:
            raise ValueError(f"is JSON that cannot be used: {error.errors()[0]['msg'].lower()}") from None
        return text

    return Column(Annotated[str, AfterValidator(checked)], "str")


class Plan(TypedDict):
    """What the `plan` of a run has for each reported result. Other keys are ignored."""

    cost: FiniteFloat
    epoch: int
    margin: NotRequired[FiniteFloat | None]
    seeds: NotRequired[list[Annotated[int, Ge(0)]]]


TEXT = Column(str, "str")
NAME = Column(Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")], "str")
COUNT = Column(Annotated[int, Ge(0)], "int64")
FLAG = Column(bool, "bool")
NUMBER = Column(FiniteFloat, "float64")
OPTIONAL = Column(Annotated[FiniteFloat | None, BeforeValidator(lambda text: text or None)], "float64")

RUN_METRICS = (
    names.COST, names.TEST_NEG_ELBO, names.TEST_RECONSTRUCTION, names.TEST_KL, names.ENTROPY_FLOOR,
)  # fmt: skip
RUN_COLUMNS = {
    "experiment": NAME, "variant_of": TEXT, "run_id": NAME, "seed": COUNT, "started": TEXT, "status": TEXT,
    "epochs": COUNT, "comparable": FLAG, "reason": TEXT, "signature": TEXT, "plan": json_column(list[Plan], "[]"),
    "plan_commit": TEXT, "plan_date": TEXT, "data": TEXT, "fingerprint": TEXT,
    **dict.fromkeys(RUN_METRICS, OPTIONAL), "weights_sha256": TEXT, "commit": TEXT, "uncommitted_changes": TEXT,
    "cpu": TEXT, "device": TEXT, "threads": TEXT, "engine": TEXT, "products": TEXT, "python": TEXT,
    "torch": TEXT, "precision": TEXT,
}  # fmt: skip
CURVE_METRICS = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
CURVE_COLUMNS = {"experiment": NAME, "seed": COUNT, "run_id": NAME, "epoch": COUNT, names.COST: NUMBER}
CURVE_COLUMNS |= dict.fromkeys(CURVE_METRICS[1:], OPTIONAL)
MEASUREMENT_COLUMNS = {
    "experiment": NAME, "seed": COUNT, "run_id": NAME, "study": NAME, "quantity": TEXT, "group": TEXT, "x": OPTIONAL,
    "value": OPTIONAL, "standard_error": OPTIONAL, "unit": TEXT,
}  # fmt: skip


@dataclass
class TableSet:
    """Tables that are one CSV file each. The rows of all of them belong to rows of the first, by the column `owner`."""

    schemas: ClassVar[tuple[dict[str, Column], ...]]
    keys: ClassVar[tuple[tuple[str, ...], ...]]
    """Columns of each table that no two of its rows agree in; none where rows may repeat."""
    owner: ClassVar[str]
    order: ClassVar[tuple[str, ...]]

    @classmethod
    def empty(cls) -> Self:
        """Return tables without rows."""
        return cls(*(pd.DataFrame(columns=list(schema)) for schema in cls.schemas))

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written. Raises ReproError that names the file, the row and the column of a fault."""
        parts = zip(fields(cls), cls.schemas, cls.keys, strict=True)
        return cls(*(read_csv(folder / f"{field.name}.csv", schema, key) for field, schema, key in parts))

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def joined(self, other: Self) -> Self:
        """Return the rows of both; where both have an owner, its rows are taken from this one."""
        mine = self.tables()
        known, joined = next(iter(mine.values()))[self.owner], []
        for name, theirs in other.tables().items():
            parts = [part for part in (mine[name], theirs[~theirs[self.owner].isin(known)]) if len(part)]
            joined.append(pd.concat(parts, ignore_index=True) if parts else mine[name])
        return type(self)(*joined)

    def only(self, owners: Iterable[str]) -> Self:
        """Return the rows of these owners."""
        wanted = set(owners)
        return type(self)(*(table[table[self.owner].isin(wanted)] for table in self.tables().values()))

    def save(self, folder: Path) -> list[Path]:
        """Write the tables as CSV files, in an order that does not depend on when what was run; return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, table in self.tables().items():
            written.append(folder / f"{name}.csv")
            order = [key for key in self.order if key in table]
            table.sort_values(order, kind="stable").to_csv(written[-1], index=False, lineterminator="\n")
        return written


@dataclass
class Tables(TableSet):
    """Runs, their curves and what was measured on their models. Costs in nats per image."""

    schemas = (RUN_COLUMNS, CURVE_COLUMNS, MEASUREMENT_COLUMNS)
    keys = (("run_id",), ("run_id", "epoch"), ())
    owner = "run_id"
    order = ("experiment", "seed", "run_id", "study", "epoch")

    runs: pd.DataFrame
    curves: pd.DataFrame
    measurements: pd.DataFrame

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written. Raises ReproError that names the file, the row and the column of a fault."""
        found = super().from_files(folder)
        for column in ("cost", "test_neg_elbo"):
            need(folder / "runs.csv", found.runs, found.runs["comparable"], column, "of a comparable run")
        there = found.runs["run_id"].map(found.curves["run_id"].value_counts()).fillna(0)
        for index in found.runs.index[there != found.runs["epochs"]][:1]:
            text = f"{found.runs.loc[index, 'epochs']}, but curves.csv has {there[index]:g} rows of this run"
            raise _fault(folder / "runs.csv", index + 1, "epochs", text)
        return found


def read_csv(path: Path, schema: dict[str, Column], key: Sequence[str] = ()) -> pd.DataFrame:
    """Read the columns of `schema` and ignore others.

    Raises ReproError that names the file, the row (1 is the header) and the column of what is missing, is not of the
    column's type, or is there twice in the columns of `key`.
    """
    try:  # without a header, so that a row which is longer than it is refused
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ReproError(f"results file {path} cannot be read: {' '.join(str(error).split())}") from None
    heads = raw.iloc[0].tolist()
    missing = [column for column in schema if column not in heads]
    if missing:
        raise ReproError(f"results file {path} has no column {', '.join(missing)}")
    table = pd.DataFrame({name: _typed(path, name, raw[heads.index(name)][1:], schema[name]) for name in schema})
    repeated = list(table.index[table.duplicated(list(key))]) if key else []
    if repeated:
        raise _fault(path, repeated[0], " and ".join(key), "the same as in a row above")
    return table.reset_index(drop=True)


def need(path: Path, table: pd.DataFrame, rows: "pd.Series[bool]", column: str, which: str) -> None:
    """Raise ReproError if the column is empty in one of these rows of a table that was read from `path`."""
    empty = table.index[rows.astype(bool) & table[column].isna()]
    if len(empty):
        raise _fault(path, empty[0] + 1, column, f"'' should be a number {which}")


def _typed(path: Path, name: str, texts: "pd.Series[str]", column: Column) -> "pd.Series[Any]":
    """The fields of a column, which are the index of their rows in the file, as their type."""
    kinds: Any = GenericAlias(list, (column.kind,))
    try:
        values: list[Any] = TypeAdapter(kinds).validate_python(texts.tolist())
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        raise _fault(path, texts.index[first["loc"][0]], name, f"{str(first['input'])[:60]!r} {message}") from None
    return pd.Series(values, dtype=column.dtype, index=texts.index)


def _fault(path: Path, row: int, column: str, text: str) -> ReproError:
    return ReproError(f"results file {path}, row {row + 1}, column {column}: {text}")


def from_store(entries: Iterable[Entry]) -> tuple[Tables, list[str]]:
    """Read what the tracking store has of these experiments, and a sentence for each thing that cannot be read.

    Runs that have not finished, are on a stand-in, or may not be compared, are rows like the others: `comparable` and
    `reason` say so. Raises StoreError if the store itself cannot be read.
    """
    runs, curves, measured, faults = [], [], [], []
    for entry in entries:
        for run in reader.runs(entry.name):
            try:
                curve = _curve(run)
                runs.append(_row(entry, run, len(curve)))
                curves.append(curve)
            except ReproError as error:
                faults.append(str(error))
                continue
            for kind in artifacts.measurements_of(run):
                try:
                    measured += _measurements(run, kind)
                except ReproError as error:
                    faults.append(str(error))
    found = Tables.empty()
    if runs:
        found.runs = pd.DataFrame(runs, columns=list(RUN_COLUMNS))
        found.curves = pd.concat(curves, ignore_index=True)
    if measured:
        found.measurements = pd.DataFrame(measured, columns=list(MEASUREMENT_COLUMNS))
    return found, faults


def all_entries() -> list[Entry]:
    """Return every registered experiment."""
    return [registry.get(name) for name in registry.names()]


def unchanged(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Tell which of these rows are of the experiment as it is registered now, in float32 on real data."""
    registered = {entry.name: entry.spec.signature for entry in all_entries()}
    real = ~runs["data"].str.endswith("(stand-in)")
    return (runs["signature"] == runs["experiment"].map(registered)) & real & (runs["precision"] == "float32")


def diverged(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Tell which of these rows are outcomes although they did not finish: unchanged, and diverged."""
    return unchanged(runs) & (runs["status"] == DIVERGED) & (runs["epochs"] > 0)


def data_label(name: str, status: str) -> str:
    """Return a data set in words for a table: `MNIST (canonical)`."""
    return f"{TITLES.get(name, name)} ({status})"


def _row(entry: Entry, run: reader.RunRecord, epochs: int) -> dict[str, object]:
    tags, params, reason = run.tags, run.params, _reason(entry, run)
    return {
        "experiment": entry.name,
        "variant_of": entry.spec.variant_of or "",
        "run_id": run.run_id,
        "seed": int(params.get(names.SEED, -1)),
        "started": run.started,
        "status": DIVERGED if tags.get(names.CAUSE) == names.NOT_FINITE else run.status,
        "epochs": epochs,
        "comparable": not reason,
        "reason": reason,
        "signature": tags.get(names.SIGNATURE, ""),
        "plan": params.get("reported", ""),
        "plan_commit": tags.get(names.PLAN_COMMIT, ""),
        "plan_date": tags.get(names.PLAN_DATE, ""),
        "data": data_label(params.get("data.name", "?"), tags.get(names.DATA_STATUS, "?")),
        "fingerprint": tags.get(names.DATA_FINGERPRINT, "")[:12],
        **{metric: run.metrics.get(metric) for metric in RUN_METRICS},
        "weights_sha256": tags.get(names.WEIGHTS_SHA256, ""),
        "commit": tags.get("mlflow.source.git.commit", "")[:12],
        "uncommitted_changes": tags.get(names.GIT_DIRTY, ""),
        "cpu": tags.get("repro.cpu", ""),
        **{key: params.get(key, "") for key in ("device", "threads", "engine", "products")},
        "python": tags.get("repro.python", ""),
        "torch": tags.get("repro.version.torch", ""),
        "precision": params.get("precision", ""),
    }


def _reason(entry: Entry, run: reader.RunRecord) -> str:
    """Return why a run's cost may not stand for its experiment as it is registered now; "" if it may."""
    if run.status != "FINISHED":
        error = run.tags.get(names.ERROR, "-")
        failed = run.status == "FAILED" and error != "-"
        return f"it failed: {error}" if failed else f"it has not finished ({run.status})"
    said = run.tags.get(names.NOT_COMPARABLE_BECAUSE, "-")
    if run.tags.get(names.SIGNATURE) != entry.spec.signature:
        return said if said != "-" else "it is of another version of the experiment's file"
    real, exact = run.tags.get(names.DATA_STATUS) != "stand-in", run.params.get("precision") == "float32"
    if entry.spec.variant_of and not entry.spec.reported and real and exact:
        return ""  # it names no reported cost; it is compared with the experiment that it varies
    return "" if run.comparable else said


def _curve(run: reader.RunRecord) -> pd.DataFrame:
    table = pd.DataFrame({name: pd.Series(reader.history(run.run_id, name), dtype=float) for name in CURVE_METRICS})
    table = table.rename_axis("epoch").reset_index()
    table.insert(0, "run_id", run.run_id)
    table.insert(0, "seed", int(run.params.get(names.SEED, -1)))
    table.insert(0, "experiment", run.experiment)
    return table


def _measurements(run: reader.RunRecord, kind: str) -> list[dict[str, object]]:
    of = {"experiment": run.experiment, "seed": int(run.params.get(names.SEED, -1)), "run_id": run.run_id}
    return [of | {"study": kind} | vars(row) for row in artifacts.read_measurement(run.run_id, kind) or []]
