"""How a run is laid out in MLflow, for a person to read: metrics in groups, few params, few tags.

All other params and tags are JSON in one tag. Everywhere else a run has all of its params and tags, and metrics have
their names of the glossary. Runs of earlier versions are so in MLflow too, and are read by the same functions.
"""

import json

from mlflow import MlflowClient
from mlflow.entities import Metric, RunData

from repro import names
from repro.spec import Experiment
from repro.spec.architecture import architecture

Texts = dict[str, str]
_OWN = {shown: own for own, shown in names.SHOWN_METRICS.items()}


def metric(name: str, value: float, time: int, step: int) -> Metric:
    """Return a value of a metric of the glossary under its name in MLflow. `time` is in milliseconds since 1970."""
    return Metric(names.SHOWN_METRICS.get(name, name), value, time, step)


def points(client: MlflowClient, mlflow_id: str, name: str) -> list[Metric]:
    """Return all that was logged of a metric of the glossary, first what an earlier version has logged."""
    return [
        point
        for key in dict.fromkeys((name, names.SHOWN_METRICS.get(name, name)))
        for point in client.get_metric_history(mlflow_id, key)
    ]


def metrics(data: RunData) -> dict[str, float]:
    """Return the last value of each metric, by its name in the glossary."""
    earlier_first = sorted(data.metrics, key=lambda key: key in _OWN)
    return {_OWN.get(key, key): data.metrics[key] for key in earlier_first}


def settings(spec: Experiment) -> Texts:
    """Return the params that follow from a spec."""
    return spec.flat() | {names.ARCHITECTURE: architecture(spec.model)}


def pack(params: Texts, tags: Texts) -> tuple[Texts, Texts]:
    """Return the params and the tags that MLflow is given for a run with these; `unpack` is the inverse."""
    shown = {*names.SHOWN_PARAMS, *tags.get(names.SET, "").split()}
    details = {
        "params": {key: value for key, value in params.items() if key not in shown},
        "tags": {key: value for key, value in tags.items() if key.startswith(names.DETAIL_TAGS)},
    }
    text = json.dumps(details, ensure_ascii=False)
    pieces = [text[start : start + names.LONGEST_TAG] for start in range(0, len(text), names.LONGEST_TAG)]
    return (
        {key: value for key, value in params.items() if key in shown},
        {key: value for key, value in tags.items() if key not in details["tags"]}
        | {f"{names.DETAILS}{number or ''}": piece for number, piece in enumerate(pieces)},
    )


def unpack(data: RunData) -> tuple[Texts, Texts]:
    """Return all params and tags of a run, of this version or an earlier one."""
    pieces = sorted((key for key in data.tags if key.startswith(names.DETAILS)), key=lambda key: (len(key), key))
    details = json.loads("".join(data.tags[key] for key in pieces) or '{"params": {}, "tags": {}}')
    whole = {key: value for key, value in data.tags.items() if key not in pieces}
    return details["params"] | data.params, details["tags"] | whole
