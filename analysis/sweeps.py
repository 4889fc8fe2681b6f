"""Sweeps as two tables: a row for each trial and each retrained setting. Is the published setting near the best one?"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pandas as pd
from pydantic import BeforeValidator, Json
from repro.analysis.columns import COUNT, NAME, OPTIONAL, TEXT, Column, Real, Schema, Whole
from repro.analysis.tables import Place, Row, Tables, TableSet, data_label
from scipy import stats

from repro import names, registry
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import artifacts, reader
from repro.tracking.parents import mlflow_experiment

SETTINGS = Column(Json[dict[str, int | Real | str]], "str")
SPACE = Column(Json[dict[str, str]], "str")
TRIAL = Column(Whole, "float64")
ITS_TRIAL = Column(Annotated[Whole | None, BeforeValidator(lambda text: text or None)], "float64")
VALUES = Column(Json[list[Real]], "str")
TRIAL_COLUMNS = {
    "experiment": NAME, "study": NAME, "trial": TRIAL, "state": TEXT, "value": OPTIONAL, "settings": SETTINGS,
    "epochs": COUNT, "trained": COUNT, "seeds": TEXT, "reconstruction": OPTIONAL, "kl": OPTIONAL, "seconds": OPTIONAL,
    "reason": TEXT, "space": SPACE, "sampler": TEXT, "pruner": TEXT, "data": TEXT,
    "signature": TEXT, "runs": TEXT,
}  # fmt: skip
RETRAINED_COLUMNS = {
    "experiment": NAME, "study": NAME, "trial": ITS_TRIAL, "settings": SETTINGS, "seeds": TEXT, "trial_epochs": COUNT,
    "trial_value": OPTIONAL, "heldout_then": OPTIONAL, "optimism": OPTIONAL, "cost": OPTIONAL,
    "test_neg_elbo": VALUES, "data": TEXT, "runs": TEXT,
}  # fmt: skip


@dataclass
class Sweeps(TableSet):
    """Trials and retrained settings of studies. Costs in nats per image.

    `settings` is JSON by dotted key; `epochs` is a trial's length and `trained` the epochs that it has done;
    `test_neg_elbo` is JSON with a number for each seed; `trial` is missing where the published setting was retrained.
    """

    schemas: ClassVar = {
        "trials": Schema(TRIAL_COLUMNS, ["study", "trial"]),
        "retrained": Schema(RETRAINED_COLUMNS, ["study", "trial"]),
    }
    owner = "study"
    order = ("experiment", "study", "trial")

    trials: pd.DataFrame
    retrained: pd.DataFrame

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written; no rows if there is no such file. Raises ReproError for a damaged one."""
        if not (folder / "trials.csv").exists():
            return cls.from_rows()
        return super().from_files(folder)

    def _faults(self) -> Iterator[Place]:
        complete, again = self.trials["state"] == "complete", self.retrained["trial"].notna()
        yield from self._missing("trials", complete, "value", "of a complete trial")
        yield from self._missing("retrained", again, "trial_value", "of a trial that was trained again")
        known = registry.names()
        for name, table in vars(self).items():
            for index in table.index[~table["experiment"].isin(known)]:
                yield name, index + 2, "experiment", f"{table.loc[index, 'experiment']!r} is no registered experiment"

    def joined(self, other: Self) -> Self:
        """Return the trials of both, so that no trial is lost. Where both have a trial, it is taken from this one."""
        return type(self)(
            **{
                name: pd.concat([table, vars(other)[name]], ignore_index=True).drop_duplicates(["study", "trial"])
                for name, table in vars(self).items()
            }
        )

    def beside(self, other: Self) -> Self:
        """Return these studies, renamed where `other` has another of that name: `mnist_fc` to `mnist_fc.1a2b3c4d`.

        Two studies are the same if they have a run in common. The new name ends with the first run of the study.
        """
        new_names = {}
        for study in self.names():
            mine, theirs = _runs_of(self, study), _runs_of(other, study)
            if theirs and not set(mine) & set(theirs):
                new_names[study] = f"{study}.{mine[0][:8]}"
        return type(self)(**{name: table.replace({"study": new_names}) for name, table in vars(self).items()})

    def names(self) -> list[str]:
        return sorted(set(self.trials["study"]))


def _runs_of(sweeps: Sweeps, study: str) -> list[str]:
    """Return the ids of the runs of a study's trials, by the number of the trial."""
    trials = sweeps.trials[sweeps.trials["study"] == study].sort_values("trial")
    return ",".join(trials["runs"]).split(",") if len(trials) else []


def from_store(entries: Iterable[Entry]) -> tuple[Sweeps, list[str]]:
    """Read the sweeps of these experiments from the store, and a sentence for each thing that cannot be read."""
    rows: dict[str, list[Row]] = {"trials": [], "retrained": []}
    faults: list[str] = []
    for entry in entries:
        where = mlflow_experiment(entry.name)
        parents = [each for each in reader.parents(where) if each.tags.get(names.KIND) == names.KIND_SWEEP]
        runs = reader.runs(where) if parents else []
        for parent in parents:
            by_trial: dict[str, list[reader.RunRecord]] = {}
            for run in runs:
                if run.tags.get(names.PARENT) == parent.run_id and run.tags.get(names.TRIAL_STATE) != "abandoned":
                    by_trial.setdefault(run.tags[names.TRIAL], []).append(run)
            trials = [_trial(entry, parent, of_trial) for of_trial in by_trial.values()]
            rows["trials"] += trials
            try:
                rows["retrained"] += _retrained(entry, parent, trials[0]["data"] if trials else "")
            except ReproError as error:
                faults.append(str(error))
    return Sweeps.from_rows(**rows), faults


def _trial(entry: Entry, parent: reader.RunRecord, runs: list[reader.RunRecord]) -> Row:
    """Return the row of a trial, from the runs of its seeds."""
    space = {key.removeprefix("space."): text for key, text in parent.params.items() if key.startswith("space.")}
    states = {run.tags[names.TRIAL_STATE] for run in runs} - {"complete"}
    settings = {key: parsed(runs[0].params.get(key, "")) for key in space}
    return {
        "experiment": entry.name,
        "study": parent.tags[names.SWEEP],
        "trial": int(runs[0].tags[names.TRIAL]),
        "state": min(states, default="complete"),
        "value": None if states else _mean(runs, names.HELDOUT_NEG_ELBO),
        "settings": json.dumps(settings, sort_keys=True),
        "epochs": int(parent.params["epochs"]),
        "trained": sum(len(reader.history(run.run_id, names.COST)) for run in runs),
        "seeds": ",".join(sorted(run.params.get(names.SEED, "?") for run in runs)),
        "reconstruction": _mean(runs, names.RECONSTRUCTION),
        "kl": _mean(runs, names.KL),
        "seconds": sum(sum(reader.history(run.run_id, names.EPOCH_SECONDS).values()) for run in runs),
        "reason": next((text for run in runs if (text := run.tags.get(names.ERROR, "-")) != "-"), ""),
        "space": json.dumps(space, sort_keys=True),
        "sampler": parent.params["sampler"],
        "pruner": parent.params["pruner"],
        "data": data_label(runs[0]),
        "signature": parent.tags.get(names.SIGNATURE, ""),
        "runs": ",".join(run.run_id for run in runs),
    }


def _retrained(entry: Entry, parent: reader.RunRecord, data: str) -> list[Row]:
    """Return a row for each setting that was retrained; none before that."""
    if names.FINISH_FILE not in artifacts.list_files(parent.run_id):
        return []
    found = json.loads(artifacts.read_file(parent.run_id, names.FINISH_FILE))
    of = {"experiment": entry.name, "study": parent.tags[names.SWEEP], "trial_epochs": found["epochs_of_trials"]}
    return [
        of
        | each
        | {
            "settings": json.dumps(each["setting"], sort_keys=True),
            "seeds": ",".join(map(str, each["seeds"])),
            "test_neg_elbo": json.dumps(each["test_neg_elbo"]),
            "data": data,
            "runs": ",".join(each["runs"]),
        }
        for each in found["settings"]
    ]


def _mean(runs: list[reader.RunRecord], metric: str) -> float | None:
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    return sum(values) / len(values) if values else None


def parsed(text: str) -> int | float | str:
    """Return the number that a text is, or else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def words(settings: str) -> str:
    """Return the settings of a trial, which are JSON, as words of a sentence."""
    values = json.loads(settings).items()
    return ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values)


def command(trials: pd.DataFrame, retrain: bool = False) -> str:
    """Return the command that runs more trials of a study, or retrains its best settings, where its store is."""
    experiment, study = trials.iloc[0][["experiment", "study"]]
    study = re.sub(r"\.[0-9a-f]{8}$", "", study)  # see Sweeps.beside
    named = "" if study == experiment else f" --study {study}"
    return f"python -m repro sweep {'retrain' if retrain else 'run'} {experiment}{named}"


def answer(sweeps: Sweeps, study: str, tables: Tables) -> str:
    """Say in a few sentences whether the published setting of a study is near the best one found."""
    trials = sweeps.trials[sweeps.trials["study"] == study]
    rows = sweeps.retrained[sweeps.retrained["study"] == study]
    rows = rows.assign(tests=rows["test_neg_elbo"].map(json.loads))
    rows = rows[rows["tests"].map(len) > 1]  # one seed has no standard deviation
    own_runs = list(published_runs(trials, tables)["test_neg_elbo"].dropna())
    own = [*rows.loc[rows["trial"].isna(), "tests"], *[own_runs] * (len(own_runs) > 1)]
    others = rows[rows["trial"].notna()]
    if not own or others.empty:
        unknown = "It is not yet known whether the published setting is near the best one at full length"
        return f"{_so_far(trials, published_costs(trials, tables))}{unknown}: `{command(trials, retrain=True)}`."
    best = others.loc[others["trial_value"].idxmin()]  # choosing by test images would be cheating
    mine, theirs = pd.Series(own[0]), pd.Series(best["tests"])
    interval = stats.ttest_ind(theirs, mine, equal_var=False).confidence_interval(0.95)
    reported = registry.get(str(trials["experiment"].iloc[0])).spec.reported
    near = _near(interval, reported[-1].margin, trials["epochs"].iloc[0]) if reported else ""
    return (
        f"{words(best['settings'])} gives {theirs.mean():.2f} nats of test negative ELBO over {len(theirs)} seeds, the "
        f"published setting {mine.mean():.2f} over {len(mine)}: {theirs.mean() - mine.mean():+.2f} (95% confidence "
        f"interval {interval.low:+.2f} to {interval.high:+.2f}).{near} Its trial reached {best['trial_value']:.2f} on "
        f"held-out images. New seeds differ from it by {best['optimism']:+.2f} at the same epoch: this is the optimism "
        "of choosing the best trial."
    )


def _near(interval: Any, margin: float | None, epochs: int) -> str:
    """Say whether the published setting is near the best one, by the interval of the difference; "" without margin."""
    if margin is None:
        return ""
    within = f"{margin} nats (the verdict's margin)"
    if interval.low > 0:
        return f" The published setting is better at full length than the setting that was best after {epochs} epochs."
    if interval.low >= -margin:
        return f" The published setting is within {within} of the best setting found."
    if interval.high < -margin:
        return f" The published setting is more than {within} from the best setting found."
    return f" More seeds would decide whether it is within {within} of the best setting found."


def published_costs(trials: pd.DataFrame, tables: Tables) -> "pd.Series[float]":
    """Return held-out costs of the runs of the published setting, after as many epochs as a trial has."""
    curves = tables.curves_of(published_runs(trials, tables))
    return curves.loc[curves["epoch"] == trials["epochs"].iloc[0], names.HELDOUT_NEG_ELBO].dropna()


def published_runs(trials: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return the comparable runs of the published setting on the study's data; none if they hold out no images."""
    first = trials.iloc[0]
    runs = tables.runs_of(first["experiment"])
    same = (runs["signature"] == first["signature"]) & (runs["data"] == first["data"])
    return runs[runs["comparable"] & same & (registry.get(str(first["experiment"])).spec.data.holdout > 0)]


def _so_far(trials: pd.DataFrame, own: "pd.Series[float]") -> str:
    """Compare the runs of the published setting with the complete trials; "" where there are none of either."""
    epochs, done = trials["epochs"].iloc[0], trials.loc[trials["state"] == "complete", "value"]
    if done.empty or own.empty:
        return ""
    seeds = f"mean of {len(own)} seeds, {own.min():.2f} to {own.max():.2f}" if len(own) > 1 else "one seed"
    lower = int((done < own.mean()).sum())
    return (
        f"After {epochs} epochs the published setting's own runs have {own.mean():.2f} nats of held-out negative ELBO "
        f"({seeds}). Of the {len(done)} complete trials {lower or 'none'} {'is' if lower < 2 else 'are'} lower; the "
        f"best has {done.min():.2f}, a difference of {done.min() - own.mean():+.2f}. "
    )
