"""Notes and tags that are given to runs after they have ended."""

from dataclasses import dataclass

from mlflow.entities import Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from repro.tracking.reader import store_id
from repro.tracking.store import Client


@dataclass(frozen=True)
class Note:
    """Markdown for a run's description in the MLflow UI, and tags beside it."""

    text: str
    tags: dict[str, str]


def annotate(notes: dict[str, Note]) -> int:
    """Give runs, by id, their notes; return how many of them were changed by it. Raises StoreError."""
    changed = 0
    with Client("runs cannot be given their notes") as client:
        for run_id, note in notes.items():
            run = client.get_run(store_id(run_id))
            tags = changed_tags(run, note.tags | {MLFLOW_RUN_NOTE: note.text})
            if tags:
                client.log_batch(run.info.run_id, tags=tags)
                changed += 1
    return changed


def changed_tags(run: Run, wanted: dict[str, str]) -> list[RunTag]:
    """Return those of the wanted tags that the run does not have yet."""
    return [RunTag(key, value) for key, value in wanted.items() if run.data.tags.get(key) != value]
