"""Notes and tags on runs that are there already, as the MLflow UI shows them."""

from dataclasses import dataclass

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from sqlalchemy.exc import SQLAlchemyError

from repro.text import first_line
from repro.tracking.store import StoreError, open_client


@dataclass(frozen=True)
class Note:
    """Markdown for a run's description, and tags beside it."""

    text: str
    tags: dict[str, str]


def annotate(notes: dict[str, Note]) -> int:
    """Give runs, by id, their notes; return how many were not so already. Raises StoreError."""
    client, changed = open_client(), 0
    try:
        for run_id, note in notes.items():
            before = client.get_run(run_id).data.tags
            wanted = note.tags | {MLFLOW_RUN_NOTE: note.text}
            tags = [RunTag(key, value) for key, value in wanted.items() if before.get(key) != value]
            if tags:
                client.log_batch(run_id, tags=tags)
                changed += 1
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"runs cannot be given their notes: {first_line(error)}") from None
    return changed
