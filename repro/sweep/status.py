"""The studies of a store, and their trials, as rows of a table."""

import json

from repro.sweep import space as spaces
from repro.sweep.study import OWNER, REASON, RETRIED, STATES, Study, all_studies, find, runs_of

Row = dict[str, str | int | float | None]


def studies(url: str, experiment: str = "") -> list[Row]:
    """Return a row for each study of the store, of one experiment if it is named."""
    return [_study_row(study) for study in all_studies(url).values() if experiment in ("", study.terms.experiment)]


def trials(url: str, name: str) -> list[Row]:
    """Return a row for each trial of a study. Raises UsageError if there is no study of that name."""
    study = find(url, name)
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
