"""What studies there are, and how their trials stand."""

import json
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from repro.errors import UsageError
from repro.sweep import space as spaces
from repro.sweep.storage import Storage, is_there
from repro.sweep.study import OWNER, REASON, SECONDS, Study
from repro.sweep.sweep import counted
from repro.sweep.trial import STATES, runs_of
from repro.text import did_you_mean


def studies(url: str, heartbeat: int, experiment: str = "") -> list[dict[str, Any]]:
    """A row for each study of the store, of one experiment if that is named."""
    found = [Study(storage, name) for storage, name in _names(url, heartbeat)]
    return [_row(study) for study in found if not experiment or study.terms.experiment == experiment]


def trials(url: str, heartbeat: int, name: str) -> list[dict[str, Any]]:
    """A row for each trial of a study. Raises UsageError if there is no study of that name."""
    found = {each: storage for storage, each in _names(url, heartbeat)}
    if name not in found:
        known = ", ".join(found) or "none yet"
        raise UsageError(f"no study {name!r}{did_you_mean(name, found)}; there are: {known}")
    study = Study(found[name], name)
    return [_trial(trial, json.loads(study.terms.space)) for trial in study.trials()]


def _names(url: str, heartbeat: int) -> list[tuple[Storage, str]]:
    if not is_there(url):
        return []
    storage = Storage(url, heartbeat)
    every = optuna.get_all_study_names(storage.rdb)
    return [
        (storage, name)
        for name in every
        if "terms" in optuna.load_study(study_name=name, storage=storage.rdb).user_attrs
    ]


def _row(study: Study) -> dict[str, Any]:
    best = study.best()
    return {
        "study": study.name,
        "experiment": study.terms.experiment,
        **counted(study),
        "best": best[0].value if best else None,
        "trial": best[0].number if best else None,
        "settings": spaces.shown(best[0].params) if best else None,
        "epochs": study.terms.epochs,
        "mlflow_run": study.parent,
    }


def _trial(trial: FrozenTrial, keys: Iterable[str]) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": STATES[trial.state],
        "value": trial.value,
        **{key: trial.params.get(key) for key in keys},
        "epochs": len(trial.intermediate_values),
        "seconds": trial.user_attrs.get(SECONDS),
        "reason": trial.user_attrs.get(REASON),
        "worker": trial.user_attrs.get(OWNER),
        "runs": ", ".join(runs_of(trial)) or None,
    }
