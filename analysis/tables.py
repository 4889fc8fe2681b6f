"""Tracked runs as three tables: a row for each run, each epoch and each measured number.

They are read from the tracking store or from CSV files. The CSV files are the committed results. They hold the runs of
any machine, each by its run id.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NotRequired, Self

import pandas as pd
from pydantic import BeforeValidator, Json
from repro.analysis.columns import (
    COUNT,
    DIGITS,
    FLAG,
    NAME,
    NUMBER,
    OPTIONAL,
    TEXT,
    Column,
    Real,
    Schema,
    Whole,
    fault,
    plain,
    read_csv,
    together,
)
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
Place = tuple[str, int, str, str]
"""A fault: the table, the row (1 is the header), the column, and what is wrong."""


class Plan(TypedDict):
    """What the column `plan` of a run has for each reported result. Other keys are ignored."""

    cost: Real
    epoch: Whole
    margin: NotRequired[Real | None]
    seeds: NotRequired[list[Whole]]


PLANS = Column(Annotated[Json[list[Plan]], BeforeValidator(lambda text: text or "[]")], "str")

RUN_METRICS = (
    names.COST, names.TEST_NEG_ELBO, names.TEST_RECONSTRUCTION, names.TEST_KL, names.ENTROPY_FLOOR,
)  # fmt: skip
RUN_COLUMNS = {
    "experiment": NAME, "variant_of": TEXT, "run_id": NAME, "seed": COUNT, "started": TEXT, "status": TEXT,
    "epochs": COUNT, "comparable": FLAG, "reason": TEXT, "signature": TEXT, "plan": PLANS,
    "plan_commit": TEXT, "plan_date": TEXT, "data": TEXT, "fingerprint": TEXT,
    **dict.fromkeys(RUN_METRICS, OPTIONAL), "weights_sha256": TEXT, "commit": TEXT, "uncommitted_changes": TEXT,
    "cpu": TEXT, "device": TEXT, "threads": DIGITS, "engine": TEXT, "products": TEXT, "python": TEXT,
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
            for column in [column for column, kind in schema.columns.items() if kind is TEXT]:
                frame[column] = [plain(each) if isinstance(each, str) else each for each in frame[column]]
            found[name] = frame.astype({column: kind.dtype for column, kind in schema.columns.items()})
        return cls(**found)

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written. Raises ReproError that names the file, the row and the column of each fault."""
        found, faults = {}, []
        for name, schema in cls.schemas.items():
            try:
                found[name] = read_csv(folder / f"{name}.csv", schema)
            except ReproError as error:
                faults.append(str(error))
        if faults:
            raise ReproError("\n".join(faults))
        tables = cls(**found)
        places = tables._faults()
        faults = [fault(folder / f"{name}.csv", row, column, text) for name, row, column, text in places]
        if faults:
            raise together(faults, str(folder))
        return tables

    def _faults(self) -> Iterator[Place]:
        """Yield what is wrong with rows whose columns are right."""
        yield from ()

    def _missing(self, name: str, rows: "pd.Series[bool]", column: str, which: str) -> Iterator[Place]:
        """Yield a fault for each of these rows of a table whose `column` is empty."""
        for index in rows.index[rows & vars(self)[name][column].isna()]:
            yield name, index + 2, column, f"'' should be a number {which}"

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

    def _faults(self) -> Iterator[Place]:
        for column in ("cost", "test_neg_elbo"):
            yield from self._missing("runs", self.runs["comparable"], column, "of a comparable run")
        rows = self.curves.groupby("run_id")["epoch"].agg(["size", "min", "max"])
        rows = rows.reindex(self.runs["run_id"], fill_value=0).set_axis(self.runs.index)
        for index in self.runs.index[(rows["size"] != self.runs["epochs"]) | (rows["max"] != self.runs["epochs"])]:
            size, least, most = rows.loc[index]
            yield (
                "runs", index + 2, "epochs",
                f"{self.runs.loc[index, 'epochs']}, but curves.csv has {size} rows of this run, from {least} to {most}",
            )  # fmt: skip
        for name in ("curves", "measurements"):
            table = vars(self)[name]
            for column in ("experiment", "seed"):
                own = table["run_id"].map(self.runs.set_index("run_id")[column])
                for index in table.index[own.notna() & (table[column] != own)]:
                    told = f"{str(table.loc[index, column])!r} is not that of the run in runs.csv"
                    yield name, index + 2, column, told

    def runs_of(self, experiment: str) -> pd.DataFrame:
        return self.runs[self.runs["experiment"] == experiment]

    def curves_of(self, runs: pd.DataFrame) -> pd.DataFrame:
        return self.curves[self.curves["run_id"].isin(runs["run_id"])]


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
