"""Tracked runs as tidy tables: one row a run, one an epoch, one a measured number. From the store, or from CSV files.

The CSV files are what is committed of the results: they hold the runs of any machine, each by its run id.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from repro import registry
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import measurements, names, read

RUN_COLUMNS = [
    "experiment", "variant_of", "run_id", "seed", "started", "status", "epochs", "comparable", "reason", "signature",
    "plan", "plan_commit", "plan_date", "data", "fingerprint", "cost", "test_neg_elbo", "test_reconstruction",
    "test_kl", "entropy_floor", "weights_sha256", "commit", "uncommitted_changes", "cpu", "device", "threads", "engine",
    "products", "python", "torch", "precision",
]  # fmt: skip
CURVE_COLUMNS = ["experiment", "seed", "run_id", "epoch", names.COST, names.RECONSTRUCTION, names.KL]
CURVE_COLUMNS += [names.HELDOUT_NEG_ELBO]
MEASUREMENT_COLUMNS = ["experiment", "seed", "run_id", "study", "quantity", "group", "x", "value", "standard_error"]
MEASUREMENT_COLUMNS += ["unit"]

WHOLE = {"seed", "epoch", "epochs"}
REAL = {"cost", "test_neg_elbo", "test_reconstruction", "test_kl", "entropy_floor", "reconstruction", "kl"}
REAL |= {names.HELDOUT_NEG_ELBO, "x", "value", "standard_error"}

DIVERGED = "DIVERGED"
"""Status of a run that ended because its cost was no longer a number."""
FAILED = ("FAILED", DIVERGED)
"""Statuses of a run that ended by itself before its last epoch."""
TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}


@dataclass
class Frames:
    """The three tables; costs in nats per image. `curves` and `measurements` belong to rows of `runs` by run_id."""

    runs: pd.DataFrame
    curves: pd.DataFrame
    measurements: pd.DataFrame

    def joined(self, other: "Frames") -> "Frames":
        """Both, where a run that is in both is taken from this one."""
        tables = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            rest = theirs[~theirs["run_id"].isin(self.runs["run_id"])]
            parts = [part for part in (mine, rest) if len(part)]
            tables.append(pd.concat(parts, ignore_index=True) if parts else mine)
        return Frames(*tables)

    def only(self, run_ids: Iterable[str]) -> "Frames":
        """What belongs to these runs."""
        wanted = set(run_ids)
        tables = (getattr(self, each.name) for each in fields(self))
        return Frames(*(table[table["run_id"].isin(wanted)] for table in tables))

    def save(self, folder: Path) -> list[Path]:
        """Write the tables as CSV files, in an order that does not depend on when what was run; return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for field in fields(self):
            table = getattr(self, field.name)
            order = [key for key in ("experiment", "seed", "run_id", "study", "epoch") if key in table]
            written.append(folder / f"{field.name}.csv")
            table.sort_values(order, kind="stable").to_csv(written[-1], index=False, lineterminator="\n")
        return written


def empty() -> Frames:
    """No runs."""
    return Frames(*(pd.DataFrame(columns=columns) for columns in (RUN_COLUMNS, CURVE_COLUMNS, MEASUREMENT_COLUMNS)))


def from_files(folder: Path) -> Frames:
    """Read what `Frames.save` wrote. Raises ReproError naming the file that is missing or damaged."""
    tables = []
    columns = (RUN_COLUMNS, CURVE_COLUMNS, MEASUREMENT_COLUMNS)
    for field, expected in zip(fields(Frames), columns, strict=True):
        path = folder / f"{field.name}.csv"
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ReproError(f"results file {path} cannot be read: {error}") from None
        missing = [column for column in expected if column not in table]
        if missing:
            raise ReproError(f"results file {path} has no column {', '.join(missing)}")
        tables.append(_typed(table[expected], path))
    return Frames(*tables)


def from_store(entries: Iterable[Entry]) -> tuple[Frames, list[str]]:
    """What the tracking store has of these experiments, and a sentence for each thing in it that cannot be read.

    Runs that have not finished, are on a stand-in, or may not be compared, are rows like the others: `comparable` and
    `reason` say so. Raises StoreError if the store itself cannot be read.
    """
    runs, curves, measured, faults = [], [], [], []
    for entry in entries:
        for run in read.runs(entry.name):
            try:
                curve = _curve(run)
                runs.append(_row(entry, run, len(curve)))
                curves.append(curve)
            except ReproError as error:
                faults.append(str(error))
                continue
            for study in measurements.measurements_of(run):
                try:
                    measured += _measurements(run, study)
                except ReproError as error:
                    faults.append(str(error))
    found = empty()
    if runs:
        found.runs = pd.DataFrame(runs, columns=RUN_COLUMNS)
        found.curves = pd.concat(curves, ignore_index=True)
    if measured:
        found.measurements = pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS)
    return found, faults


def all_entries() -> list[Entry]:
    """Every registered experiment."""
    return [registry.get(name) for name in registry.names()]


def unchanged(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Which of these rows of `Frames.runs` are of the experiment as it is registered now, in float32 on real data."""
    registered = {entry.name: entry.spec.signature for entry in all_entries()}
    real = ~runs["data"].str.endswith("(stand-in)")
    return (runs["signature"] == runs["experiment"].map(registered)) & real & (runs["precision"] == "float32")


def diverged(runs: pd.DataFrame) -> "pd.Series[bool]":
    """Which of these rows of `Frames.runs` are outcomes although they did not finish: unchanged, and diverged."""
    return unchanged(runs) & (runs["status"] == DIVERGED) & (runs["epochs"] > 0)


def data_label(name: str, status: str) -> str:
    """A data set in words for a table: `MNIST (canonical)`."""
    return f"{TITLES.get(name, name)} ({status})"


def _typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Text as read from a file to what its columns hold; "" is no number."""
    typed = table.copy()
    for column in set(table) & {*WHOLE, *REAL}:
        try:  # by Python's own float, so that a number written is the number read
            values = [float(text) if text else float("nan") for text in table[column]]
        except ValueError as error:
            raise ReproError(f"results file {path}, column {column}: {error}") from None
        typed[column] = pd.Series(values, dtype=float).astype(int if column in WHOLE else float)
    if "comparable" in table:
        typed["comparable"] = table["comparable"] == "True"
    return typed


def _row(entry: Entry, run: read.RunRecord, epochs: int) -> dict[str, object]:
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
        "cost": run.metrics.get(names.COST),
        "test_neg_elbo": run.metrics.get(names.TEST_NEG_ELBO),
        "test_reconstruction": run.metrics.get(names.TEST_RECONSTRUCTION),
        "test_kl": run.metrics.get(names.TEST_KL),
        "entropy_floor": run.metrics.get(names.ENTROPY_FLOOR),
        "weights_sha256": tags.get(names.WEIGHTS_SHA256, ""),
        "commit": tags.get("mlflow.source.git.commit", "")[:12],
        "uncommitted_changes": tags.get(names.GIT_DIRTY, ""),
        "cpu": tags.get("repro.cpu", ""),
        **{key: params.get(key, "") for key in ("device", "threads", "engine", "products")},
        "python": tags.get("repro.python", ""),
        "torch": tags.get("repro.version.torch", ""),
        "precision": params.get("precision", ""),
    }


def _reason(entry: Entry, run: read.RunRecord) -> str:
    """Why a run's cost may not stand for its experiment, as it is registered now; "" if it may."""
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


def _curve(run: read.RunRecord) -> pd.DataFrame:
    metrics = CURVE_COLUMNS[4:]
    table = pd.DataFrame({name: pd.Series(read.history(run.run_id, name), dtype=float) for name in metrics})
    table = table.rename_axis("epoch").reset_index()
    table.insert(0, "run_id", run.run_id)
    table.insert(0, "seed", int(run.params.get(names.SEED, -1)))
    table.insert(0, "experiment", run.experiment)
    return table


def _measurements(run: read.RunRecord, study: str) -> list[dict[str, object]]:
    of = {"experiment": run.experiment, "seed": int(run.params.get(names.SEED, -1)), "run_id": run.run_id}
    return [of | {"study": study} | vars(row) for row in measurements.read_measurement(run.run_id, study) or []]
