"""Sweeps as tables: one row a trial, one a setting that was trained again. From the store, or from CSV files."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from repro.analysis.frames import data_label

from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import measurements, names, read, sweeps

TRIAL_COLUMNS = [
    "experiment", "study", "trial", "state", "value", "settings", "epochs", "trained", "seeds", "reconstruction", "kl",
    "seconds", "reason", "space", "sampler", "pruner", "data", "signature", "runs",
]  # fmt: skip
RETRAINED_COLUMNS = [
    "experiment", "study", "trial", "settings", "seeds", "trial_epochs", "trial_value", "heldout_then", "optimism",
    "cost", "test_neg_elbo", "data", "runs",
]  # fmt: skip
WHOLE = {"epochs", "trained", "trial_epochs"}
REAL = {"trial", "value", "reconstruction", "kl", "seconds", "trial_value", "heldout_then", "optimism", "cost"}


@dataclass
class Sweeps:
    """The two tables; costs in nats per image.

    `settings` is JSON by dotted key; `epochs` a trial's length and `trained` how far it came; `test_neg_elbo` JSON, one
    number a seed; `trial` is missing where the experiment's own setting was retrained.
    """

    trials: pd.DataFrame
    retrained: pd.DataFrame

    def joined(self, other: "Sweeps") -> "Sweeps":
        """Both, where a study that is in both is taken from this one."""
        tables = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            parts = [part for part in (mine, theirs[~theirs["study"].isin(self.trials["study"])]) if len(part)]
            tables.append(pd.concat(parts, ignore_index=True) if parts else mine)
        return Sweeps(*tables)

    def save(self, folder: Path) -> list[Path]:
        """Write the tables as CSV files; return them."""
        written = []
        for field in fields(self):
            written.append(folder / f"{field.name}.csv")
            table = getattr(self, field.name).sort_values(["experiment", "study", "trial"], kind="stable")
            table.to_csv(written[-1], index=False, lineterminator="\n")
        return written

    def names(self) -> list[str]:
        """The studies that there are."""
        return sorted(set(self.trials["study"]))


def empty() -> Sweeps:
    """No studies."""
    return Sweeps(pd.DataFrame(columns=TRIAL_COLUMNS), pd.DataFrame(columns=RETRAINED_COLUMNS))


def from_files(folder: Path) -> Sweeps:
    """Read what `Sweeps.save` wrote; none if there are no such files. Raises ReproError for a damaged one."""
    tables = []
    for field, expected in zip(fields(Sweeps), (TRIAL_COLUMNS, RETRAINED_COLUMNS), strict=True):
        path = folder / f"{field.name}.csv"
        if not path.exists():
            return empty()
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)[expected]
            for column in set(expected) & (WHOLE | REAL):
                values = [float(text) if text else float("nan") for text in table[column]]
                table[column] = pd.Series(values, dtype=float).astype(int if column in WHOLE else float)
        except (OSError, ValueError, KeyError) as error:
            raise ReproError(f"results file {path} cannot be read: {error}") from None
        tables.append(table)
    return Sweeps(*tables)


def from_store(entries: Iterable[Entry]) -> tuple[Sweeps, list[str]]:
    """What the tracking store has of these experiments' sweeps, and a sentence for each thing that cannot be read."""
    trials: list[dict[str, Any]] = []
    retrained: list[dict[str, Any]] = []
    faults: list[str] = []
    for entry in entries:
        where = sweeps.mlflow_experiment(entry.name)
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
    found = empty()
    if trials:
        found.trials = pd.DataFrame(trials, columns=TRIAL_COLUMNS)
    if retrained:
        found.retrained = pd.DataFrame(retrained, columns=RETRAINED_COLUMNS)
    return found, faults


def _trials(entry: Entry, parent: read.RunRecord, runs: list[read.RunRecord]) -> list[dict[str, Any]]:
    """A row for each trial, from the runs of its seeds."""
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
    """A row for each setting that `sweep --finish` has trained again; none before that."""
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
