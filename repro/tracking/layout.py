"""How a run is laid out in MLflow, for a person to read: few params and few tags; the rest is JSON in one tag.

Everywhere else a run has all of its params and tags. Runs of earlier versions have all of them in MLflow too, and are
read by the same function.
"""

import json

from mlflow.entities import RunData

from repro import names
from repro.spec import Experiment
from repro.spec.architecture import architecture

Texts = dict[str, str]


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
