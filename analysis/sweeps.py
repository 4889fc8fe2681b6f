"""Sweeps as two tables: one row a trial, one a setting that was trained again. From the store or from CSV files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
from pydantic import FiniteFloat
from repro.analysis.tables import COUNT, NAME, NUMBER, OPTIONAL, TEXT, TableSet, data_label, json_column, need

from repro import names
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import measurements, read, sweep_parent

SETTINGS = json_column(dict[str, int | FiniteFloat | str])
TRIAL_COLUMNS = {
    "experiment": NAME, "study": NAME, "trial": NUMBER, "state": TEXT, "value": OPTIONAL, "settings": SETTINGS,
    "epochs": COUNT, "trained": COUNT, "seeds": TEXT, "reconstruction": OPTIONAL, "kl": OPTIONAL, "seconds": OPTIONAL,
    "reason": TEXT, "space": json_column(dict[str, str]), "sampler": TEXT, "pruner": TEXT, "data": TEXT,
    "signature": TEXT, "runs": TEXT,
}  # fmt: skip
RETRAINED_COLUMNS = {
    "experiment": NAME, "study": NAME, "trial": OPTIONAL, "settings": SETTINGS, "seeds": TEXT, "trial_epochs": COUNT,
    "trial_value": OPTIONAL, "heldout_then": OPTIONAL, "optimism": OPTIONAL, "cost": OPTIONAL,
    "test_neg_elbo": json_column(list[FiniteFloat]), "data": TEXT, "runs": TEXT,
}  # fmt: skip


@dataclass
class Sweeps(TableSet):
    """Trials and retrained settings of studies. Costs in nats per image.

    `settings` is JSON by dotted key; `epochs` is a trial's length and `trained` how far it came; `test_neg_elbo` is
    JSON with one number a seed; `trial` is missing where the experiment's own setting was retrained.
    """

    schemas = (TRIAL_COLUMNS, RETRAINED_COLUMNS)
    keys = (("study", "trial"), ("study", "trial"))
    owner = "study"
    order = ("experiment", "study", "trial")

    trials: pd.DataFrame
    retrained: pd.DataFrame

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `save` has written; nothing if there is no such file. Raises ReproError for a damaged one."""
        if not (folder / "trials.csv").exists():
            return cls.empty()
        found = super().from_files(folder)
        complete, again = found.trials["state"] == "complete", found.retrained["trial"].notna()
        need(folder / "trials.csv", found.trials, complete, "value", "of a complete trial")
        need(folder / "retrained.csv", found.retrained, again, "trial_value", "of a trial that was trained again")
        return found

    def names(self) -> list[str]:
        """Return the names of the studies."""
        return sorted(set(self.trials["study"]))


def from_store(entries: Iterable[Entry]) -> tuple[Sweeps, list[str]]:
    """Read the sweeps of these experiments from the store, and a sentence for each thing that cannot be read."""
    trials: list[dict[str, Any]] = []
    retrained: list[dict[str, Any]] = []
    faults: list[str] = []
    for entry in entries:
        where = sweep_parent.mlflow_experiment(entry.name)
        parents = [each for each in read.parents(where) if each.tags.get(names.KIND) == names.KIND_SWEEP]
        runs = read.runs(where) if parents else []
        for parent in parents:
            mine = [run for run in runs if run.tags.get(names.PARENT) == parent.run_id]
            rows = _trials(entry, parent, [run for run in mine if run.tags.get(names.TRIAL_STATE) != "abandoned"])
            trials += rows
            try:
                retrained += _retrained(entry, parent, rows[0]["data"] if rows else "")
            except ReproError as error:
                faults.append(str(error))
    found = Sweeps.empty()
    if trials:
        found.trials = pd.DataFrame(trials, columns=list(TRIAL_COLUMNS))
    if retrained:
        found.retrained = pd.DataFrame(retrained, columns=list(RETRAINED_COLUMNS))
    return found, faults


def _trials(entry: Entry, parent: read.RunRecord, runs: list[read.RunRecord]) -> list[dict[str, Any]]:
    """Return a row for each trial, from the runs of its seeds."""
    space = {key.removeprefix("space."): text for key, text in parent.params.items() if key.startswith("space.")}
    by_trial: dict[int, list[read.RunRecord]] = {}
    for run in runs:
        by_trial.setdefault(int(run.tags[names.TRIAL]), []).append(run)
    rows = []
    for number, of_trial in by_trial.items():
        last = of_trial[0]
        complete = all(run.tags[names.TRIAL_STATE] == "complete" for run in of_trial)
        states = {run.tags[names.TRIAL_STATE] for run in of_trial} - {"complete"}
        values = {key: _number(last.params.get(key, "")) for key in space}
        rows.append(
            {
                "experiment": entry.name,
                "study": parent.tags[names.SWEEP],
                "trial": float(number),
                "state": "complete" if complete else min(states),
                "value": _mean(of_trial, names.HELDOUT_NEG_ELBO) if complete else None,
                "settings": json.dumps(values, sort_keys=True),
                "epochs": int(parent.params["epochs"]),
                "trained": sum(len(read.history(run.run_id, names.COST)) for run in of_trial),
                "seeds": ",".join(sorted(run.params.get(names.SEED, "?") for run in of_trial)),
                "reconstruction": _mean(of_trial, names.RECONSTRUCTION),
                "kl": _mean(of_trial, names.KL),
                "seconds": float(sum(sum(read.history(run.run_id, names.EPOCH_SECONDS).values()) for run in of_trial)),
                "reason": next((text for run in of_trial if (text := run.tags.get(names.ERROR, "-")) != "-"), ""),
                "space": json.dumps(space, sort_keys=True),
                "sampler": parent.params["sampler"],
                "pruner": parent.params["pruner"],
                "data": _data(last),
                "signature": parent.tags.get(names.SIGNATURE, ""),
                "runs": ",".join(run.run_id for run in of_trial),
            }
        )
    return rows


def _retrained(entry: Entry, parent: read.RunRecord, data: str) -> list[dict[str, Any]]:
    """Return a row for each setting that `sweep --finish` has trained again; none before that."""
    if names.FINISH_FILE not in measurements.artifacts(parent.run_id):
        return []
    found = json.loads(measurements.artifact(parent.run_id, names.FINISH_FILE))
    return [
        {
            "experiment": entry.name,
            "study": parent.tags[names.SWEEP],
            "trial": each["trial"],
            "settings": json.dumps(each["setting"], sort_keys=True),
            "seeds": ",".join(map(str, each["seeds"])),
            "trial_epochs": found["epochs_of_trials"],
            "trial_value": each["trial_value"],
            "heldout_then": each["heldout_then"],
            "optimism": each["optimism"],
            "cost": each["cost"],
            "test_neg_elbo": json.dumps(each["test_neg_elbo"]),
            "data": data,
            "runs": ",".join(each["runs"]),
        }
        for each in found["settings"]
    ]


def _data(run: read.RunRecord) -> str:
    return data_label(run.params.get("data.name", "?"), run.tags.get(names.DATA_STATUS, "?"))


def _mean(runs: list[read.RunRecord], metric: str) -> float | None:
    values = [run.metrics[metric] for run in runs if metric in run.metrics]
    return sum(values) / len(values) if values else None


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
