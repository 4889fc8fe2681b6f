"""A claim of the text, and the evidence that it is judged by."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pandas as pd
from repro.analysis import curves, verdicts
from repro.analysis.frames import Frames, diverged
from repro.analysis.verdicts import Verdict

from repro import registry
from repro.errors import ReproError
from repro.spec import Reported
from repro.text import seed_list

Word = Literal["holds", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """What came of a claim: a word, the evidence in a sentence or two, its figures, and the runs they are from."""

    verdict: Word
    evidence: str
    figures: dict[str, float] = field(default_factory=dict)
    runs: tuple[str, ...] = ()


class MissingError(Exception):
    """A run or a measurement that a claim needs is not there; the message is the command that makes it."""


def run_command(experiment: str, reported: Reported) -> str:
    """What makes the planned runs of a reported result."""
    seeds = f" --seeds {seed_list(reported.seeds)}" if reported.seeds else ""
    longer = reported.epoch > registry.get(experiment).spec.training.epochs
    return f"python -m repro run {experiment}{seeds}" + (f" --epochs {reported.epoch}" if longer else "")


@dataclass(frozen=True)
class Claim:
    """A sentence of the text. `criterion` decides; where it was not fixed before the measurement, it says so."""

    name: str
    sentence: str  # as the text has it
    measurement: str  # what is measured, on what
    criterion: str
    decide: Callable[["Evidence"], Finding]

    def finding(self, evidence: "Evidence") -> Finding:
        """Judge the claim; `not measured`, with the command, where something is missing."""
        try:
            return self.decide(evidence)
        except MissingError as missing:
            return Finding("not measured", str(missing))
        except ReproError as error:
            return Finding("not measured", f"its evidence cannot be read: {error}")


class Evidence:
    """The tables, with what several claims ask of them."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """The verdict on each reported result of each experiment."""
        return [each for name in registry.names() for each in verdicts.verdicts(registry.get(name), self.frames)]

    def verdict(self, experiment: str, epoch: int) -> Verdict:
        """The verdict on the result that is reported for an epoch of an experiment."""
        return next(each for each in self.verdicts if (each.experiment, each.epoch) == (experiment, epoch))

    def runs(self, experiment: str, epoch: int | None = None) -> pd.DataFrame:
        """The finished runs of an experiment as registered that reach an epoch (its last if None), one a seed.

        Raises MissingError if there are none.
        """
        length = registry.get(experiment).spec.training.epochs
        mine = self.frames.runs[self.frames.runs["experiment"] == experiment]
        found, _ = verdicts.outcomes(mine[mine["comparable"].astype(bool)], epoch or length)
        if found.empty:
            longer = f" --epochs {epoch}" if epoch and epoch > length else ""
            raise MissingError(f"python -m repro run {experiment}{longer}")
        return found

    def planned(self, experiment: str, epoch: int) -> pd.DataFrame:
        """The outcomes among the planned seeds of a reported result, one a seed; none if none has finished."""
        reported = next(each for each in registry.get(experiment).spec.reported if each.epoch == epoch)
        found, _ = verdicts.outcomes(self.frames.runs[self.frames.runs["experiment"] == experiment], epoch)
        return found[found["seed"].isin(reported.seeds)]

    def trained(self, experiment: str) -> pd.DataFrame:
        """The runs of a variant, of any length, or if there are none those that diverged. Raises MissingError.

        A run that diverged on real data is an outcome too, of training that cannot be carried through.
        """
        try:
            return self.runs(experiment, epoch=1)
        except MissingError:
            runs = self.frames.runs[self.frames.runs["experiment"] == experiment]
            found = runs[diverged(runs)]
            if found.empty:
                raise
            return found.sort_values("started", ascending=False).drop_duplicates("seed")

    def curves(self, experiment: str) -> pd.DataFrame:
        """The curves of the runs of an experiment, of any length. Raises MissingError if there are none."""
        return self.curves_of(self.runs(experiment, epoch=1))

    def curves_of(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The curves of these runs."""
        return self.frames.curves[self.frames.curves["run_id"].isin(runs["run_id"])]

    def mean_at(self, experiment: str, epoch: int, metric: str = "cost") -> float:
        """Mean over seeds of a metric after an epoch, nats per image. Raises MissingError if no run got there."""
        table = curves.table_of(self.curves_of(self.runs(experiment, epoch)), metric)
        return float(table.loc[epoch].mean())

    def measured(self, experiment: str, study: str) -> "Measured":
        """A study of the newest run of an experiment that has one. Raises MissingError if none has."""
        rows = self.frames.measurements
        runs = self.frames.runs[self.frames.runs["experiment"] == experiment].sort_values("started", ascending=False)
        runs = runs[runs["comparable"].astype(bool)]
        for run_id in runs["run_id"]:
            mine = rows[(rows["run_id"] == run_id) & (rows["study"] == study)]
            if len(mine):
                return Measured(run_id, study, mine)
        which = runs["run_id"].iloc[0] if len(runs) else "RUN_ID"
        first = "" if len(runs) else f"python -m repro run {experiment}, then "
        raise MissingError(f"{first}python -m repro evaluate {which} --study {study}")


@dataclass(frozen=True)
class Measured:
    """The rows of one study of one run."""

    run_id: str
    study: str
    rows: pd.DataFrame

    def row(self, quantity: str, group: str = "") -> pd.Series:
        """The one row of a quantity. Raises MissingError if the study, made by other code, has it not."""
        found = self.rows[(self.rows["quantity"] == quantity) & (self.rows["group"] == group)]
        if len(found) != 1:
            of = f" of {group}" if group else ""
            raise MissingError(
                f"study {self.study} of run {self.run_id} has {len(found)} rows {quantity}{of}, where one is needed: "
                f"python -m repro evaluate {self.run_id} --study {self.study}"
            )
        return found.iloc[0]

    def value(self, quantity: str, group: str = "") -> float:
        """Its value."""
        return float(self.row(quantity, group)["value"])

    def by_x(self, quantity: str, group: str = "") -> pd.Series:
        """All values of a quantity by their x. Raises MissingError if there are none."""
        found = self.rows[(self.rows["quantity"] == quantity) & (self.rows["group"] == group)]
        if found.empty:
            raise MissingError(f"python -m repro evaluate {self.run_id} --study {self.study}")
        return found.set_index("x")["value"].sort_index()
