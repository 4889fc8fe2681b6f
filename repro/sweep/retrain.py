"""`sweep retrain`: the best settings of a study and the experiment's own, at full length on fresh seeds.

Only here are the test images looked at. The best trial's value is the lowest of many, and so too low to be true:
training its settings again with other seeds shows how much of it was luck.
"""

import json
import time
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial

from repro import names
from repro.data import Dataset
from repro.errors import UsageError
from repro.runs import seeds
from repro.runs.config import RunConfig
from repro.runs.result import RunResult
from repro.sweep import space as spaces
from repro.sweep.objective import with_values
from repro.sweep.run import load_data, survive_store
from repro.sweep.study import Study, find
from repro.terminal import duration, phase, say, table
from repro.tracking import artifacts, parents, reader

OWN = "the experiment's own"

Row = dict[str, Any]  # the results of a setting, as they are logged


def retrain(name: str, url: str, config: RunConfig, best: int, fresh: int, jobs: int) -> tuple[list[Row], int]:
    """Retrain the `best` settings of study `name` on `fresh` seeds each; return their results and the exit code.

    Runs that have finished are left alone. After an interrupt, what has finished is compared. `config` is the
    experiment's own. Raises UsageError if there is no such study, if it is of another experiment, spec or data, or if
    it has no complete trial.
    """
    with phase("opening the study"):
        study = find(url, name)
    config, dataset = load_data(config)
    _require_same(study, config, dataset)
    first = study.terms.seed + study.terms.seeds_per_trial
    numbers = range(first, first + fresh)
    found: list[Row] = []
    code = 0
    trials = (*study.best()[:best], None)
    began, trained = time.monotonic(), 0  # seeds that this command has trained
    for index, trial in enumerate(trials):
        setting = with_values(config, trial.params) if trial else config
        earlier = seeds.finished(setting, dataset, numbers)
        if code >= 128:
            found.append(_row(study, trial, earlier))
            continue
        per_seed = (time.monotonic() - began) / trained if trained else None
        say("", _progress(found, len(trials), per_seed and per_seed * fresh * (len(trials) - index)))
        say(_title(trial))
        result = seeds.run(setting, dataset, numbers, jobs)
        code = result.exit_code or code
        trained += fresh - len(earlier)
        if result.parent_run_id:
            parents.add_child(study.parent, result.parent_run_id, study.name)
        found.append(_row(study, trial, result.runs))
    _conclude(study, found)
    if code >= 128:
        say("go on: the same command again")
    return found, code


def _progress(found: Sequence[Row], count: int, seconds: float | None) -> str:
    """Return which of `count` settings is next, the best one so far, and the time left if it is known."""
    parts = [f"setting {len(found) + 1} of {count}"]
    tests = [(mean, row) for row in found if (mean := _mean(row["test_neg_elbo"])) is not None]
    if tests:
        value, row = min(tests, key=lambda pair: pair[0])
        who = OWN if row["trial"] is None else f"trial {row['trial']}"
        parts.append(f"lowest mean test negative ELBO {value:.4f}, {who}")
    return "; ".join(parts if seconds is None else [*parts, f"about {duration(seconds)} left"])


def _title(trial: FrozenTrial | None) -> str:
    return f"trial {trial.number}: {spaces.shown(trial.params)}" if trial else OWN


def _require_same(study: Study, config: RunConfig, dataset: Dataset) -> None:
    terms, entry = study.terms, config.entry
    faults = []
    if terms.experiment != entry.name:
        faults.append(f"study {study.name!r} is of {terms.experiment}, not of {entry.name}; name that, or --study NAME")
    elif terms.signature != entry.spec.signature:
        faults.append(f"study {study.name!r} was of another spec of {entry.name}, {terms.signature}; now it is "
                      f"{entry.spec.signature}")  # fmt: skip
    if terms.fingerprint != dataset.fingerprint:
        faults.append(f"study {study.name!r} chose by other data than {dataset.origin}; name that with --data-dir")
    if not faults and not study.best():
        faults.append(f"study {study.name!r} has no complete trial yet; sweep run goes on with it")
    if faults:
        raise UsageError(*faults)


def _row(study: Study, trial: FrozenTrial | None, runs: Sequence[RunResult]) -> Row:
    """Return the results of a setting. Costs are in nats per image, means over the seeds that have finished."""
    done = [run for run in runs if run.status == "FINISHED"]
    curves = [reader.history(run.run_id, names.HELDOUT_NEG_ELBO) for run in done]
    then = _mean([curve.get(study.terms.epochs) for curve in curves])
    value = trial.value if trial else None
    return {
        "trial": trial.number if trial else None,
        "setting": dict(trial.params) if trial else {},
        "seeds": [run.seed for run in done],
        "runs": [run.run_id for run in done],
        "trial_value": value,  # the trial's own held-out negative ELBO
        "heldout_then": then,  # the same quantity at the same epoch, on fresh seeds
        "cost": _mean([run.cost for run in done]),
        "test_neg_elbo": [run.test_neg_elbo for run in done if run.test_neg_elbo is not None],
        "optimism": None if then is None or value is None else then - value,  # by how much `value` was too low
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _conclude(study: Study, found: list[Row]) -> None:
    """Log the results to the study's parent run, and print them."""
    with phase("logging the results"), survive_store():
        what = {"epochs_of_trials": study.terms.epochs, "settings": found}
        artifacts.log_files(study.parent, {names.FINISH_FILE: json.dumps(what, indent=2).encode()})
    say(f"\nstudy {study.name}, retrained on fresh seeds; nats per image")
    shown = []
    for row in found:
        tests = row["test_neg_elbo"]
        shown.append(
            {
                "setting": OWN if row["trial"] is None else f"trial {row['trial']}: {spaces.shown(row['setting'])}",
                "seeds": len(row["seeds"]),
                "trial": row["trial_value"],
                f"same, epoch {study.terms.epochs}": row["heldout_then"],
                "optimism": row["optimism"],
                "final_cost": row["cost"],
                "test_neg_elbo": _mean(tests),
                "+-": stdev(tests) if len(tests) > 1 else None,
            }
        )
    table(shown)
    say("trial: the held-out negative ELBO that it was chosen for; optimism: how much higher fresh seeds are by then")
    say("+- is the standard deviation over seeds of the test negative ELBO")
