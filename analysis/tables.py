"""Tracked runs as three tables: a row for each run, each epoch and each measured number.

They are read from the tracking store or from CSV files. The CSV files are the committed results. They hold the runs of
any machine, each by its run id.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, ClassVar, NamedTuple, NotRequired, Self, cast

import pandas as pd
from annotated_types import Ge
from pydantic import BeforeValidator, FiniteFloat, Json, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from repro import names, registry
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import artifacts, reader

DIVERGED = "DIVERGED"
"""Status of a run that ended because its cost was not finite."""
FAILED = ("FAILED", DIVERGED)
"""Statuses of a run that ended by itself before its last epoch."""
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
Row = dict[str, Any]


class Column(NamedTuple):
    """A column of a CSV file: the type that its text is checked against, and its type in a table.

    A column of type `str` keeps the text that was checked, so JSON stays as it was written.
    """

    kind: Any
    dtype: str


class Plan(TypedDict):
    """What the column `plan` of a run has for each reported result. Other keys are ignored."""

    cost: FiniteFloat
    epoch: int
    margin: NotRequired[FiniteFloat | None]
    seeds: NotRequired[list[Annotated[int, Ge(0)]]]


TEXT = Column(str, "str")
NAME = Column(Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")], "str")
COUNT = Column(Annotated[int, Ge(0)], "int64")
FLAG = Column(bool, "bool")
NUMBER = Column(FiniteFloat, "float64")
PLANS = Column(Annotated[Json[list[Plan]], BeforeValidator(lambda text: text or "[]")], "str")
OPTIONAL = Column(Annotated[FiniteFloat | None, BeforeValidator(lambda text: text or None)], "float64")

RUN_METRICS = (
    names.COST, names.TEST_NEG_ELBO, names.TEST_RECONSTRUCTION, names.TEST_KL, names.ENTROPY_FLOOR,
)  # fmt: skip
RUN_COLUMNS = {
    "experiment": NAME, "variant_of": TEXT, "run_id": NAME, "seed": COUNT, "started": TEXT, "status": TEXT,
    "epochs": COUNT, "comparable": FLAG, "reason": TEXT, "signature": TEXT, "plan": PLANS,
    "plan_commit": TEXT, "plan_date": TEXT, "data": TEXT, "fingerprint": TEXT,
    **dict.fromkeys(RUN_METRICS, OPTIONAL), "weights_sha256": TEXT, "commit": TEXT, "uncommitted_changes": TEXT,
    "cpu": TEXT, "device": TEXT, "threads": TEXT, "engine": TEXT, "products": TEXT, "python": TEXT,
    "torch": TEXT, "precision": TEXT,
}  # fmt: skip
TAGS = {
    "signature": names.SIGNATURE, "plan_commit": names.PLAN_COMMIT, "plan_date": names.PLAN_DATE,
    "weights_sha256": names.WEIGHTS_SHA256, "uncommitted_changes": names.GIT_DIRTY, "cpu": "repro.cpu",
    "python": "repro.python", "torch": "repro.version.torch",
}  # fmt: skip
"""Columns of runs that are tags in the store."""
PARAMS = ("device", "threads", "engine", "products", "precision")
"""Columns of runs that are params of the same name in the store."""
CURVE_METRICS = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)
CURVE_COLUMNS = {"experiment": NAME, "seed": COUNT, "run_id": NAME, "epoch": COUNT, names.COST: NUMBER}
CURVE_COLUMNS |= dict.fromkeys(CURVE_METRICS[1:], OPTIONAL)
MEASUREMENT_COLUMNS = {
    "experiment": NAME, "seed": COUNT, "run_id": NAME, "study": NAME, "quantity": TEXT, "group": TEXT, "x": OPTIONAL,
    "value": OPTIONAL, "standard_error": OPTIONAL, "unit": TEXT,
}  # fmt: skip


class Schema(NamedTuple):
    """The columns of a table, and those in which no two of its rows agree; none if rows may repeat."""

    columns: dict[str, Column]
    key: Sequence[str] = ()


@dataclass
class TableSet:
    """Tables, each of which is one CSV file. Each row belongs to a row of the first table, by the column `owner`."""

    schemas: ClassVar[dict[str, Schema]]
    owner: ClassVar[str]
    order: ClassVar[tuple[str, ...]]

    @classmethod
    def from_rows(cls, **tables: Sequence[Row]) -> Self:
        """Return the tables of these rows; a table that is not given, and a column that is missing, is empty."""
        found = {}
        for name, schema in cls.schemas.items():
            frame = pd.DataFrame(list(tables.get(name, ())), columns=list(schema.columns))
            found[name] = frame.astype({column: kind.dtype for column, kind in schema.columns.items()})
        return cls(**found)

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written. Raises ReproError that names the file, the row and the column of a fault."""
        return cls(**{name: read_csv(folder / f"{name}.csv", schema) for name, schema in cls.schemas.items()})

    def need(self, folder: Path, name: str, rows: "pd.Series[bool]", column: str, which: str) -> None:
        """Raise ReproError if a column is empty in some of these rows of a table that was read from `folder`."""
        for index in rows.index[rows & vars(self)[name][column].isna()][:1]:
            raise _fault(folder / f"{name}.csv", index + 1, column, f"'' should be a number {which}")

    def joined(self, other: Self) -> Self:
        """Return the rows of both. Where both have an owner, its rows are taken from this one."""
        known = next(iter(vars(self).values()))[self.owner]
        found = {}
        for name, theirs in vars(other).items():
            new = theirs[~theirs[self.owner].isin(known)]
            found[name] = pd.concat([vars(self)[name], new], ignore_index=True)
        return type(self)(**found)

    def only(self, owners: Iterable[str]) -> Self:
        wanted = set(owners)
        return type(self)(**{name: table[table[self.owner].isin(wanted)] for name, table in vars(self).items()})

    def save(self, folder: Path) -> list[Path]:
        """Write the tables as CSV files and return the files. The order of rows does not depend on when runs began."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in vars(self).items():
            rows = table.sort_values([key for key in self.order if key in table], kind="stable")
            rows.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        return [folder / f"{name}.csv" for name in vars(self)]


@dataclass
class Tables(TableSet):
    """Runs, their curves and the measurements on their models. Costs in nats per image."""

    schemas: ClassVar = {
        "runs": Schema(RUN_COLUMNS, ["run_id"]),
        "curves": Schema(CURVE_COLUMNS, ["run_id", "epoch"]),
        "measurements": Schema(MEASUREMENT_COLUMNS),
    }
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
            found.need(folder, "runs", found.runs["comparable"], column, "of a comparable run")
        there = found.runs["run_id"].map(found.curves["run_id"].value_counts()).fillna(0)
        for index in found.runs.index[there != found.runs["epochs"]][:1]:
            text = f"{found.runs.loc[index, 'epochs']}, but curves.csv has {there[index]:g} rows of this run"
            raise _fault(folder / "runs.csv", index + 1, "epochs", text)
        return found

    def runs_of(self, experiment: str) -> pd.DataFrame:
        return self.runs[self.runs["experiment"] == experiment]

    def curves_of(self, runs: pd.DataFrame) -> pd.DataFrame:
        return self.curves[self.curves["run_id"].isin(runs["run_id"])]


def read_csv(path: Path, schema: Schema, what: str = "results file") -> pd.DataFrame:
    """Read the columns of `schema` and ignore others. Messages call the file `what`.

    Raises ReproError that names the file, the row (1 is the header) and the column of a field that is missing, is not
    of the column's type, or repeats the key of a row above.
    """
    try:  # without a header, so that pandas refuses a row that is longer than the header
        raw = pd.read_csv(path, header=None, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ReproError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from None
    heads = raw.iloc[0].tolist()
    missing = [column for column in schema.columns if column not in heads]
    if missing:
        raise ReproError(f"{what} {path} has no column {', '.join(missing)}")
    table = pd.DataFrame(index=raw.index[1:])
    for name, column in schema.columns.items():
        texts, kinds = raw.loc[table.index, heads.index(name)], cast(Any, GenericAlias(list, (column.kind,)))
        try:
            values = TypeAdapter(kinds).validate_python(texts.tolist())
        except ValidationError as error:
            first = error.errors()[0]
            message = f"{str(first['input'])[:60]!r} {first['msg'].removeprefix('Input ')}"
            raise _fault(path, table.index[first["loc"][0]], name, message, what) from None
        table[name] = pd.Series(texts if column.dtype == "str" else values, dtype=column.dtype, index=table.index)
    for row in table.index[table.duplicated(schema.key)][:1] if schema.key else ():
        raise _fault(path, row, " and ".join(schema.key), "the same as in a row above", what)
    return table.reset_index(drop=True)


def _fault(path: Path, row: int, column: str, text: str, what: str = "results file") -> ReproError:
    return ReproError(f"{what} {path}, row {row + 1}, column {column}: {text}")


def from_store(entries: Iterable[Entry]) -> tuple[Tables, list[str]]:
    """Read the runs of these experiments from the tracking store, and a sentence for each thing that cannot be read.

    Runs that have not finished, used a stand-in, or may not be compared are included; their columns `comparable` and
    `reason` say so. Raises StoreError if the store itself cannot be read.
    """
    rows: dict[str, list[Row]] = {name: [] for name in Tables.schemas}
    faults = []
    for entry in entries:
        for run in reader.runs(entry.name):
            of = {"experiment": entry.name, "seed": int(run.params.get(names.SEED, -1)), "run_id": run.run_id}
            try:
                metrics = {name: pd.Series(reader.history(run.run_id, name), dtype=float) for name in CURVE_METRICS}
                curve = pd.DataFrame(metrics).rename_axis("epoch").reset_index().assign(**of)
                rows["runs"].append(of | _run_row(entry, run, len(curve)))
                rows["curves"] += curve.to_dict("records")
            except ReproError as error:
                faults.append(str(error))
                continue
            for kind in artifacts.measurements_of(run):
                try:
                    measured = artifacts.read_measurement(run.run_id, kind) or []
                    rows["measurements"] += [of | {"study": kind} | vars(row) for row in measured]
                except ReproError as error:
                    faults.append(str(error))
    return Tables.from_rows(**rows), faults


def all_entries() -> list[Entry]:
    return [registry.get(name) for name in registry.names()]


def unchanged(runs: pd.DataFrame, precision: str = "float32") -> "pd.Series[bool]":
    """Return which runs are of the experiment as it is registered now, in a precision, on real data."""
    registered = {entry.name: entry.spec.signature for entry in all_entries()}
    real = ~runs["data"].str.endswith("(stand-in)")
    return (runs["signature"] == runs["experiment"].map(registered)) & real & (runs["precision"] == precision)


def diverged(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Return which runs are unchanged and diverged after at least one epoch. They count as outcomes of training."""
    return unchanged(runs) & (runs["status"] == DIVERGED) & (runs["epochs"] > 0)


def mixed(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Return which runs are unchanged but for mixed precision, and finished. No verdict counts them."""
    return unchanged(runs, "mixed") & (runs["status"] == "FINISHED")


def data_label(run: reader.RunRecord) -> str:
    """Return the data set of a run as a table shows it: `MNIST (canonical)`."""
    name = run.params.get("data.name", "?")
    return f"{TITLES.get(name, name)} ({run.tags.get(names.DATA_STATUS, '?')})"


def _run_row(entry: Entry, run: reader.RunRecord, epochs: int) -> Row:
    tags, reason = run.tags, _reason(entry, run)
    return {
        "variant_of": entry.spec.variant_of or "",
        "started": run.started,
        "status": DIVERGED if tags.get(names.CAUSE) == names.NOT_FINITE else run.status,
        "epochs": epochs,
        "comparable": not reason,
        "reason": reason,
        "plan": run.params.get("reported", ""),
        "data": data_label(run),
        "fingerprint": tags.get(names.DATA_FINGERPRINT, "")[:12],
        "commit": tags.get("mlflow.source.git.commit", "")[:12],
        **{metric: run.metrics.get(metric) for metric in RUN_METRICS},
        **{column: tags.get(tag, "") for column, tag in TAGS.items()},
        **{column: run.params.get(column, "") for column in PARAMS},
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
        return ""  # it has no reported cost; it is compared with the experiment that it varies
    return "" if run.comparable else said
