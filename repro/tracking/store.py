"""The tracking store: by default SQLite at mlruns/mlflow.db with artifacts beside it; MLFLOW_TRACKING_URI is honoured.

Importing this module sets MLflow's environment before MLflow itself is imported; import MLflow only through here.
"""

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from repro.errors import ReproError
from repro.text import first_line, without_password

for _key, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # an unreachable server is noticed in seconds, not in four minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_key, _value)
for _name in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what goes wrong is an exception, and said in our words

from mlflow import MlflowClient  # noqa: E402 - after its environment is set
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402
from sqlalchemy import NullPool, create_engine  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

_ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


class StoreError(ReproError):
    """The tracking store cannot be opened, read or written."""


def folder() -> Path:
    """Where runs keep what is theirs: `mlruns` in the current directory."""
    return Path("mlruns").resolve()


def embedded() -> Path | None:
    """The SQLite file of the embedded store, or None when MLFLOW_TRACKING_URI names another store."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else folder() / "mlflow.db"


def uri() -> str:
    """Address of the tracking store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder() / 'mlflow.db'}"


def shown_uri() -> str:
    """The address without a password, to be printed."""
    return without_password(uri())


def exists() -> bool:
    """Whether there is anything to read: an embedded store that no run has made yet does not exist."""
    database = embedded()
    return database is None or database.exists()


def open_client() -> MlflowClient:
    """A client of the store, which is made if it is not there. Raises StoreError in one sentence."""
    try:
        database = embedded()
        if database is not None:
            _prepare(database)
        _connect_once(uri())
        client = MlflowClient(tracking_uri=uri())
        client.search_experiments(max_results=1)
    except (OSError, ImportError, sqlite3.Error, SQLAlchemyError, MlflowException) as error:
        remedy = "" if embedded() else "; correct MLFLOW_TRACKING_URI, or unset it to use mlruns here"
        raise StoreError(f"the tracking store {shown_uri()} cannot be opened: {first_line(error)}{remedy}") from None
    return client


def experiment_id(client: MlflowClient, name: str) -> str:
    """Id of the MLflow experiment of that name, made if need be, also while other processes do the same."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            local = embedded()
            location = (local.parent / "artifacts" / name).as_uri() if local else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise StoreError(f"MLflow experiment {name!r} cannot be made: {first_line(error)}") from None
    if found.lifecycle_stage == "deleted":
        raise StoreError(f"MLflow experiment {name!r} was deleted; restore it in the UI, or set another store")
    return str(found.experiment_id)


def _connect_once(address: str) -> None:
    """Find out at once whether a database server answers; MLflow by itself would try for two minutes."""
    if address.partition("://")[0].partition("+")[0] in ("postgresql", "mysql"):
        engine = create_engine(address, poolclass=NullPool, connect_args={"connect_timeout": 10})
        engine.connect().close()


def _prepare(database: Path) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name("mlflow.db.lock"), timeout=120):  # several processes may start at once
        if database.exists() and database.stat().st_size:
            _mend_moved(database)
        else:
            _create(database)


def _create(database: Path) -> None:
    """Make the store under another name and rename it, so that a creation cut short leaves nothing half-made."""
    fresh = database.with_name("mlflow.db.new")
    fresh.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{fresh}", (database.parent / "artifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode=wal")  # kept in the file; writes become several times faster
    fresh.replace(database)


def _mend_moved(database: Path) -> None:
    """Point the store at its artifacts again after its folder was moved: MLflow keeps absolute addresses."""
    here = (database.parent / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        rows = connection.execute("SELECT artifact_location FROM experiments WHERE name != 'Default'") if tables else ()
        roots = {location.rsplit("/", 1)[0] for (location,) in rows if location}
        for old in roots - {here}:
            if not old.endswith("/mlruns/artifacts"):
                continue
            for table, column in _ARTIFACT_COLUMNS:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ? || '/%'",
                        (here, len(old) + 1, old),
                    )
        connection.commit()
