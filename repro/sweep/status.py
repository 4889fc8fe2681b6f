"""The studies of a store, and their trials, as rows of a table."""

import json

import optuna

from repro.errors import UsageError
from repro.sweep import space as spaces
from repro.sweep.objective import runs_of
from repro.sweep.storage import Storage, existing
from repro.sweep.study import OWNER, REASON, RETRIED, STATES, TERMS, Study
from repro.text import did_you_mean

Row = dict[str, str | int | float | None]


def studies(url: str, experiment: str = "") -> list[Row]:
    """Return a row for each study of the store, of one experiment if it is named."""
    storage = existing(url)
    found = [Study(storage, name) for name in _names(storage)] if storage else []
    return [_study_row(study) for study in found if experiment in ("", study.terms.experiment)]


def trials(url: str, name: str) -> list[Row]:
    """Return a row for each trial of a study. Raises UsageError if there is no study of that name."""
    storage = existing(url)
    known = _names(storage) if storage else []
    if storage is None or name not in known:
        there = ", ".join(known) or "none yet"
        raise UsageError(f"no study {name!r}{did_you_mean(name, known)}; there are: {there}")
    study = Study(storage, name)
    return [
        {
            "trial": trial.number,
            "state": state,
            "value": trial.value,
            **{key: trial.params.get(key) for key in json.loads(study.terms.space)},
            "epochs": len(trial.intermediate_values),
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "reason": trial.user_attrs.get(REASON),
            "worker": trial.user_attrs.get(OWNER),
            "runs": ", ".join(runs_of(trial)) or None,
        }
        for trial, state in zip(study.trials(), study.states(), strict=True)
    ]


def _names(storage: Storage) -> list[str]:
    """Return the names of the studies that `sweep` made."""
    found = optuna.get_all_study_summaries(storage.rdb, include_best_trial=False)
    return [each.study_name for each in found if TERMS in each.user_attrs]


def _study_row(study: Study) -> Row:
    best, states = study.best(), study.states()
    return {
        "study": study.name,
        "experiment": study.terms.experiment,
        **{word: states.count(word) for word in (*STATES.values(), RETRIED)},
        "best": best[0].value if best else None,
        "trial": best[0].number if best else None,
        "settings": spaces.shown(best[0].params) if best else None,
        "epochs": study.terms.epochs,
        "mlflow_run": study.parent,
    }
