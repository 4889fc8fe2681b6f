"""Retraining the best settings of a study at full length on fresh seeds, beside the experiment's own.

Only here are the test images looked at. The best trial's value is the lowest of many, and so too low to be true: how
much of it is luck shows when its settings are trained again with other seeds.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from optuna.trial import FrozenTrial

from repro import names
from repro.data import Dataset
from repro.errors import UsageError
from repro.runs import seeds
from repro.runs.config import load_data
from repro.runs.result import RunResult
from repro.spec import overrides
from repro.spec.registry import Entry
from repro.sweep import space as spaces
from repro.sweep.storage import Storage, is_there
from repro.sweep.study import Study
from repro.sweep.sweep import held_out
from repro.sweep.worker import How
from repro.terminal import say, table
from repro.tracking import reader, sweeps
from repro.tracking.store import StoreError

OWN = "the experiment's own"


@dataclass(frozen=True)
class Retrained:
    """A setting trained again. Means and deviations over seeds, nats per image; None where nothing finished."""

    trial: int | None  # None for the experiment's own setting
    setting: dict[str, Any]
    seeds: list[int]
    runs: list[str]
    trial_value: float | None  # the trial's own held-out negative ELBO
    heldout_then: float | None  # the mean of the same quantity at the same epoch, on fresh seeds
    cost: float | None
    test_neg_elbo: list[float]  # one for each seed

    @property
    def test_mean(self) -> float | None:
        """Their mean."""
        return fmean(self.test_neg_elbo) if self.test_neg_elbo else None

    @property
    def optimism(self) -> float | None:
        """By how much the trial's value was too low, nats per image."""
        known = self.heldout_then is not None and self.trial_value is not None
        return self.heldout_then - self.trial_value if known else None  # type: ignore[operator]


def finish(entry: Entry, how: How, best: int, fresh: int, as_json: bool = False) -> int:
    """Retrain the best settings on so many fresh seeds and compare; the exit code. What has finished is left alone.

    When interrupted it compares what has finished by then.

    Raises UsageError if there is no such study, if it is of another experiment, spec or data, or has no complete trial.
    """
    study = _study(how)
    spec = overrides.apply(entry.spec, held_out(entry.spec))
    dataset = load_data(spec, how.config.data, how.config.data_dir)
    _refuse_others(study, entry, dataset)
    first = study.terms.seed + study.terms.seeds_per_trial
    numbers = tuple(range(first, first + fresh))
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # JSON is to be all of the output
        code, found = _retrain(study, entry, dataset, how, best, numbers)
    _conclude(study, found, as_json)
    if code >= 128:
        say("go on: the same command again", error=as_json)
    return code


def _study(how: How) -> Study:
    """The study, which has to be there. Raises UsageError if it is not."""
    try:
        if is_there(how.url):
            return Study(Storage(how.url, how.heartbeat), how.study)
    except KeyError:
        pass
    raise UsageError(f"no study {how.study!r} to finish; python -m repro sweep --status lists them")


def _retrain(
    study: Study, entry: Entry, dataset: Dataset, how: How, best: int, numbers: tuple[int, ...]
) -> tuple[int, list[Retrained]]:
    """Exit code, and what came of each setting."""
    found: list[Retrained] = []
    code = 0
    for trial in (*study.best()[:best], None):
        assignments = (*held_out(entry.spec), *spaces.assignments(trial.params if trial else {}))
        spec = overrides.apply(entry.spec, assignments)
        config = replace(how.found(dataset).config, spec=spec, assignments=assignments)
        if code >= 128:
            found.append(_retrained(study, trial, seeds.finished(config, dataset, numbers)))
            continue
        say(f"\n{_label(trial)}")
        outcome = seeds.run(config, dataset, numbers, how.jobs)
        code = outcome.exit_code or code
        if outcome.parent_run_id:
            sweeps.adopt(study.parent, outcome.parent_run_id, {names.SWEEP: study.name})
        found.append(_retrained(study, trial, outcome.runs))
    return code, found


def _refuse_others(study: Study, entry: Entry, dataset: Dataset) -> None:
    terms = study.terms
    faults = []
    if terms.experiment != entry.name:
        faults.append(f"study {study.name!r} is of {terms.experiment}, not of {entry.name}; name that, or --study NAME")
    elif terms.signature != entry.spec.signature:
        faults.append(f"study {study.name!r} was of another spec of {entry.name}, {terms.signature}; now it is "
                      f"{entry.spec.signature}")  # fmt: skip
    if terms.fingerprint != dataset.fingerprint:
        faults.append(f"study {study.name!r} chose by other data than {dataset.origin}; name that with --data-dir")
    if not faults and not study.best():
        faults.append(f"study {study.name!r} has no complete trial yet; the same command without --finish goes on")
    if faults:
        raise UsageError(*faults)


def _retrained(study: Study, trial: FrozenTrial | None, runs: Sequence[RunResult]) -> Retrained:
    done = [run for run in runs if run.status == "FINISHED"]
    costs = [run.cost for run in done if run.cost is not None]
    curves = [reader.history(run.run_id, names.HELDOUT_NEG_ELBO) for run in done]
    then = [curve[study.terms.epochs] for curve in curves if study.terms.epochs in curve]
    return Retrained(
        trial=trial.number if trial else None,
        setting=dict(trial.params) if trial else {},
        seeds=[run.seed for run in done],
        runs=[run.run_id for run in done],
        trial_value=trial.value if trial else None,
        heldout_then=fmean(then) if then else None,
        cost=fmean(costs) if costs else None,
        test_neg_elbo=[run.test_neg_elbo for run in done if run.test_neg_elbo is not None],
    )


def _label(trial: FrozenTrial | None) -> str:
    return f"trial {trial.number}: {spaces.shown(trial.params)}" if trial else OWN


def _conclude(study: Study, found: list[Retrained], as_json: bool) -> None:
    rows = [asdict(each) | {"optimism": each.optimism} for each in found]
    try:
        sweeps.log_json(study.parent, names.FINISH_FILE, {"epochs_of_trials": study.terms.epochs, "settings": rows})
    except StoreError as error:
        say(f"note: {error}", error=True)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    say(f"\nstudy {study.name}, retrained on fresh seeds; nats per image")
    shown = [
        {
            "setting": f"trial {each.trial}: {spaces.shown(each.setting)}" if each.trial is not None else OWN,
            "seeds": len(each.seeds),
            "trial": each.trial_value,
            f"same, epoch {study.terms.epochs}": each.heldout_then,
            "optimism": each.optimism,
            "final_cost": each.cost,
            "test_neg_elbo": each.test_mean,
            "+-": stdev(each.test_neg_elbo) if len(each.test_neg_elbo) > 1 else None,
        }
        for each in found
    ]
    table(shown)
    say("trial: the held-out negative ELBO that it was chosen for; optimism: how much higher fresh seeds are by then")
    say("+- is the standard deviation over seeds of the test negative ELBO")
