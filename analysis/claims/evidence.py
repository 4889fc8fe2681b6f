"""A claim of the notebook, and the evidence that it is judged by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pandas as pd
from repro.analysis import curves, verdicts
from repro.analysis.tables import Tables, diverged
from repro.analysis.verdicts import Verdict

from repro import registry
from repro.errors import ReproError
from repro.spec import Reported
from repro.text import seed_list

Word = Literal["holds", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim: a word, the evidence in a sentence or two, its figures, and the runs they are from."""

    verdict: Word
    evidence: str
    figures: dict[str, float] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


class MissingError(Exception):
    """Raised where a claim needs a run or a measurement that is missing; the message is the command that makes it."""


def run_command(experiment: str, reported: Reported) -> str:
    """Return the command that makes the planned runs of a reported result."""
    seeds = f" --seeds {seed_list(reported.seeds)}" if reported.seeds else ""
    longer = reported.epoch > registry.get(experiment).spec.training.epochs
    return f"python -m repro run {experiment}{seeds}" + (f" --epochs {reported.epoch}" if longer else "")


@dataclass(frozen=True)
class Claim:
    """A sentence of the notebook. `criterion` decides, and says so where it was not fixed before the measurement."""

    name: str
    sentence: str
    measurement: str
    criterion: str
    decide: Callable[["Evidence"], Finding]

    def finding(self, evidence: "Evidence") -> Finding:
        """Judge the claim: `not measured`, with the command, where something is missing."""
        try:
            return self.decide(evidence)
        except MissingError as missing:
            return Finding("not measured", str(missing))
        except ReproError as error:
            return Finding("not measured", f"its evidence cannot be read: {error}")


class Evidence:
    """The tables of runs, and the questions that several claims ask of them."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Return the verdict on each reported result of each experiment."""
        return [each for name in registry.names() for each in verdicts.verdicts(registry.get(name), self.tables)]

    def verdict(self, experiment: str, epoch: int) -> Verdict:
        """Return the verdict on the result that is reported for an epoch of an experiment."""
        return next(each for each in self.verdicts if (each.experiment, each.epoch) == (experiment, epoch))

    def runs(self, experiment: str, epoch: int | None = None) -> pd.DataFrame:
        """Return the finished runs, one a seed, of an experiment as registered that reach an epoch (its last if None).

        Raises MissingError if there are none.
        """
        length = registry.get(experiment).spec.training.epochs
        mine = self.tables.runs[self.tables.runs["experiment"] == experiment]
        found, _ = verdicts.outcomes(mine[mine["comparable"].astype(bool)], epoch or length)
        if found.empty:
            longer = f" --epochs {epoch}" if epoch and epoch > length else ""
            raise MissingError(f"python -m repro run {experiment}{longer}")
        return found

    def planned(self, experiment: str, epoch: int) -> pd.DataFrame:
        """Return the outcomes of the planned seeds of a reported result, one a seed."""
        reported = next(each for each in registry.get(experiment).spec.reported if each.epoch == epoch)
        found, _ = verdicts.outcomes(self.tables.runs[self.tables.runs["experiment"] == experiment], epoch)
        return found[found["seed"].isin(reported.seeds)]

    def trained(self, experiment: str) -> pd.DataFrame:
        """Return the runs of a variant, of any length, or else those that diverged. Raises MissingError.

        A run that diverged on real data is an outcome of training that cannot be carried through.
        """
        try:
            return self.runs(experiment, epoch=1)
        except MissingError:
            runs = self.tables.runs[self.tables.runs["experiment"] == experiment]
            found = runs[diverged(runs)]
            if found.empty:
                raise
            return found.sort_values("started", ascending=False).drop_duplicates("seed")

    def curves(self, experiment: str) -> pd.DataFrame:
        """Return the curves of the runs of an experiment, of any length. Raises MissingError if there are none."""
        return self.curves_of(self.runs(experiment, epoch=1))

    def curves_of(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the curves of these runs."""
        return self.tables.curves[self.tables.curves["run_id"].isin(runs["run_id"])]

    def mean_at(self, experiment: str, epoch: int, metric: str = "cost") -> float:
        """Return the mean over seeds of a metric after an epoch, nats per image. Raises MissingError without one."""
        table = curves.table_of(self.curves_of(self.runs(experiment, epoch)), metric)
        if epoch not in table.index:
            raise MissingError(f"python -m repro run {experiment}")
        return float(table.loc[epoch].mean())

    def measurement(self, experiment: str, kind: str) -> "Measurement":
        """Return a measurement of the newest run of an experiment that has one. Raises MissingError if none has."""
        rows = self.tables.measurements
        runs = self.tables.runs[self.tables.runs["experiment"] == experiment].sort_values("started", ascending=False)
        runs = runs[runs["comparable"].astype(bool)]
        for run_id in runs["run_id"]:
            mine = rows[(rows["run_id"] == run_id) & (rows["study"] == kind)]
            if len(mine):
                return Measurement(run_id, kind, mine)
        which = runs["run_id"].iloc[0] if len(runs) else "RUN_ID"
        first = "" if len(runs) else f"python -m repro run {experiment}, then "
        raise MissingError(f"{first}python -m repro evaluate {which} --study {kind}")


@dataclass(frozen=True)
class Measurement:
    """The rows of one kind of measurement on the model of one run."""

    run_id: str
    kind: str
    rows: pd.DataFrame

    def row(self, quantity: str, group: str = "") -> pd.Series:
        """Return the one row of a quantity. Raises MissingError if it is not there, as in rows by other code."""
        found = self.rows[(self.rows["quantity"] == quantity) & (self.rows["group"] == group)]
        if len(found) != 1:
            of = f" of {group}" if group else ""
            raise MissingError(
                f"measurement {self.kind} of run {self.run_id} has {len(found)} rows {quantity}{of}, not one: "
                f"python -m repro evaluate {self.run_id} --study {self.kind}"
            )
        return found.iloc[0]

    def value(self, quantity: str, group: str = "") -> float:
        """Return the value of a quantity. Raises MissingError as `row` does."""
        return float(self.row(quantity, group)["value"])

    def by_x(self, quantity: str, group: str = "") -> pd.Series:
        """Return all values of a quantity by x. Raises MissingError if there are none."""
        found = self.rows[(self.rows["quantity"] == quantity) & (self.rows["group"] == group)]
        if found.empty:
            raise MissingError(f"python -m repro evaluate {self.run_id} --study {self.kind}")
        return found.set_index("x")["value"].sort_index()
