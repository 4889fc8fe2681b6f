"""A claim of the notebook, and the evidence that decides it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pandas as pd
from repro.analysis import curves, verdicts
from repro.analysis.tables import Tables, all_entries, diverged, mixed
from repro.analysis.verdicts import Verdict

from repro import registry
from repro.errors import ReproError
from repro.spec import Reported
from repro.text import seed_list

Word = Literal["holds", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim: a word, the evidence in a sentence or two, its figures, and the runs they are from.

    `number` is the one number that decides, beside its limit; "" where nothing was measured.
    """

    verdict: Word
    evidence: str
    number: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


class MissingError(Exception):
    """Raised where a claim needs a run or a measurement that is missing; the message is the command that makes it."""


def holds(yes: bool) -> Word:
    """Return the verdict on a claim that was measured."""
    return "holds" if yes else "does not hold"


def result_at(experiment: str, epoch: int) -> Reported:
    return next(each for each in registry.get(experiment).spec.reported if each.epoch == epoch)


def run_command(experiment: str, epoch: int | None = None, seeds: tuple[int, ...] = ()) -> str:
    """Return the command that trains an experiment with these seeds for at least `epoch` epochs."""
    chosen = f" --seeds {seed_list(seeds)}" if seeds else ""
    longer = epoch is not None and epoch > registry.get(experiment).spec.training.epochs
    return f"python -m repro run {experiment}{chosen}" + f" --epochs {epoch}" * longer


def evaluate_command(run_id: str, measurement: str) -> str:
    return f"python -m repro evaluate {run_id} --measure {measurement}"


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
        except ArithmeticError as error:  # measurements of 0 where none can be
            return Finding("not measured", f"its evidence cannot be right: {error}")


def claim(sentence: str, measurement: str, criterion: str) -> Callable[[Callable[["Evidence"], Finding]], Claim]:
    """Turn the function that decides a claim into the claim, which has the function's name."""
    return lambda decide: Claim(decide.__name__, sentence, measurement, criterion, decide)


class Evidence:
    """The tables of runs, and what several claims ask of them."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each reported result of each experiment."""
        return verdicts.verdicts(all_entries(), self.tables)

    def verdict(self, experiment: str, epoch: int) -> Verdict:
        return next(each for each in self.verdicts if (each.experiment, each.epoch) == (experiment, epoch))

    def runs(self, experiment: str, epoch: int | None = None) -> pd.DataFrame:
        """Return the finished runs, one for each seed, of an experiment as registered that reach an epoch.

        Without `epoch` they reach the experiment's last one. Raises MissingError if there are none.
        """
        mine = self.tables.runs_of(experiment)
        reached = epoch or registry.get(experiment).spec.training.epochs
        found, _ = verdicts.outcomes(mine[mine["comparable"]], reached)
        if found.empty:
            raise MissingError(run_command(experiment, epoch))
        return found

    def planned(self, experiment: str, epoch: int) -> pd.DataFrame:
        """Return the outcomes of the planned seeds of a reported result, one for each seed."""
        found, _ = verdicts.outcomes(self.tables.runs_of(experiment), epoch)
        return found[found["seed"].isin(result_at(experiment, epoch).seeds)]

    def trained(self, experiment: str) -> pd.DataFrame:
        """Return the finished runs of an experiment, of any length, or else those that diverged on real data.

        Raises MissingError if there are neither.
        """
        runs = self.tables.runs_of(experiment)
        ended_early = runs[diverged(runs)].sort_values("started", ascending=False).drop_duplicates("seed")
        try:
            return self.runs(experiment, epoch=1)
        except MissingError:
            if ended_early.empty:
                raise
            return ended_early

    def mixed(self, experiment: str) -> pd.DataFrame:
        """Return the finished runs of an experiment in mixed precision, one for each seed."""
        runs = self.tables.runs_of(experiment)
        return runs[mixed(runs)].sort_values("started").drop_duplicates("seed")

    def mean_curve(self, experiment: str, epoch: int = 1) -> pd.Series:
        """Return the mean cost over seeds by epoch, of the runs that reach `epoch`. Raises MissingError without one."""
        return curves.by_seed(self.tables.curves_of(self.runs(experiment, epoch))).mean(axis=1)

    def mean_at(self, experiment: str, epoch: int) -> float:
        """Return the mean cost over seeds after an epoch, nats per image. Raises MissingError without a run."""
        mean = self.mean_curve(experiment, epoch)
        if epoch not in mean.index:
            raise MissingError(run_command(experiment))
        return float(mean.loc[epoch])

    def measurement(self, experiment: str, kind: str) -> "Measurement":
        """Return a measurement of the newest run of an experiment that has one. Raises MissingError if none has."""
        runs = self.tables.runs_of(experiment)
        run_ids = runs[runs["comparable"]].sort_values("started", ascending=False)["run_id"]
        rows = self.tables.measurements[self.tables.measurements["study"] == kind]
        for run_id in run_ids[run_ids.isin(rows["run_id"])]:
            return Measurement(run_id, kind, rows[rows["run_id"] == run_id])
        if run_ids.empty:
            raise MissingError(f"{run_command(experiment)}, then {evaluate_command('RUN_ID', kind)}")
        raise MissingError(evaluate_command(run_ids.iloc[0], kind))


@dataclass(frozen=True)
class Measurement:
    """The rows of one kind of measurement on the model of one run."""

    run_id: str
    kind: str
    rows: pd.DataFrame

    def row(self, quantity: str, group: str = "") -> pd.Series:
        """Return the one row of a quantity. Raises MissingError if it is not there, as in rows by other code."""
        found = self.rows[(self.rows["quantity"] == quantity) & (self.rows["group"] == group)].dropna(subset="value")
        if len(found) != 1:
            what = f"{len(found)} rows {quantity}{f' of {group}' if group else ''}, not one"
            remedy = evaluate_command(self.run_id, self.kind)
            raise MissingError(f"measurement {self.kind} of run {self.run_id} has {what}: {remedy}")
        return found.iloc[0]

    def value(self, quantity: str, group: str = "") -> float:
        """Return the value of a quantity. Raises MissingError as `row` does."""
        return float(self.row(quantity, group)["value"])

    def by_x(self, quantity: str) -> pd.Series:
        """Return all values of a quantity by x. Raises MissingError if there are none."""
        found = self.rows[self.rows["quantity"] == quantity].dropna(subset="value")
        if found.empty:
            raise MissingError(evaluate_command(self.run_id, self.kind))
        return found.set_index("x")["value"].sort_index()
