"""The tracking store: by default SQLite at mlruns/mlflow.db with artifacts beside it; MLFLOW_TRACKING_URI is honoured.

Importing this module sets MLflow's environment before MLflow itself is imported; import MLflow only through here.
"""

import logging
import os
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from repro.errors import ReproError
from repro.text import first_line, without_password

for _key, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # an unreachable server is noticed in seconds, not in four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; so is one that accepts and never answers
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_key, _value)
for _name in ("mlflow.store.db.utils", "alembic"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # their errors reach us as exceptions

from mlflow import MlflowClient  # noqa: E402 - after its environment is set
from mlflow.exceptions import MlflowException, RestException  # noqa: E402
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402
from sqlalchemy import URL, NullPool, create_engine  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

SILENCE = 60.0
"""Seconds that this process waits for a server that did not answer before it asks again."""
_silent: tuple[float, str] = (0.0, "")  # time.monotonic() from which on such a server is asked again; what it did

_ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


class StoreError(ReproError):
    """The tracking store cannot be opened, read or written."""


class SilentError(StoreError):
    """Something listens at the server's address, and gives no answer or none of a tracking server's."""


class Client:
    """Context manager: give a client of the store.

    An error of the store or of the disk in the block becomes a StoreError that begins with `fault`.
    """

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def __enter__(self) -> MlflowClient:
        return open_client()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (MlflowException, SQLAlchemyError, OSError)):
            kind = SilentError if _is_silent(error) else StoreError
            raise kind(f"{self.fault}: {first_line(error)}") from None


def folder() -> Path:
    """Return `mlruns` in the current directory, which holds the embedded store and the directories of runs."""
    return Path("mlruns").resolve()


def embedded() -> Path | None:
    """Return the SQLite file of the embedded store, or None when MLFLOW_TRACKING_URI names another store."""
    return None if os.environ.get("MLFLOW_TRACKING_URI") else folder() / "mlflow.db"


def uri() -> str:
    """Return the store's address. SQLAlchemy escapes what a folder's name may have, such as % and ?."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _address(folder() / "mlflow.db")


def _address(database: Path) -> str:
    return URL.create("sqlite", database=str(database)).render_as_string()


def shown_uri() -> str:
    """Return the address without a password, to be printed."""
    database = embedded()
    return f"sqlite:///{database}" if database else without_password(uri())


def exists() -> bool:
    """Whether there is a store to read: the embedded one exists from the first run on."""
    database = embedded()
    return database is None or database.exists()


def require() -> None:
    """Raise ReproError, with a remedy, if there is no store to read; to open it would create an empty one."""
    if not exists():
        remedy = "start with: python -m repro run mnist_fc; or read committed results with --results DIR"
        raise ReproError(f"no runs yet in {folder()}; {remedy}")


def open_client() -> MlflowClient:
    """Return a client of the store, which is created if it does not exist. Raises StoreError."""
    global _silent  # noqa: PLW0603 - of this process
    refused = f"the tracking store {shown_uri()} cannot be opened"
    if time.monotonic() < _silent[0]:
        raise SilentError(f"{refused}: {_silent[1]}")
    try:
        database = embedded()
        if database is not None:
            _prepare(database)
        _require_answer(uri())
        client = MlflowClient(tracking_uri=uri())
        client.search_experiments(max_results=1)
    except Exception as error:
        if _is_silent(error):
            _silent = time.monotonic() + SILENCE, first_line(error)
            raise SilentError(f"{refused}: {first_line(error)}") from None
        if isinstance(error, (OSError, ImportError, sqlite3.Error, SQLAlchemyError, MlflowException)):
            remedy = "" if embedded() else "; correct MLFLOW_TRACKING_URI, or unset it to use mlruns here"
            raise StoreError(f"{refused}: {first_line(error)}{remedy}") from None
        raise
    return client


def ask_again() -> None:
    """Ask a server that did not answer at the next call, and not only when SILENCE is over."""
    global _silent  # noqa: PLW0603 - of this process
    _silent = 0.0, ""


def _is_silent(error: BaseException) -> bool:
    """Whether the error is that of a server which can be reached, but does not answer as a tracking server."""
    address = urlsplit(uri())
    if address.scheme not in ("http", "https") or isinstance(error, (RestException, StoreError)):
        return False
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname or "", port), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def local_path(uri: str) -> Path | None:
    """Return the path of an artifact's address, or None if it is not on this disk."""
    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else None


def experiment_id(client: MlflowClient, name: str) -> str:
    """Return the id of an MLflow experiment, which is created if need be. Several processes may do so at once.

    Raises StoreError if it cannot be created, or was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            local = embedded()
            location = (local.parent / "artifacts" / name).as_uri() if local else None
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise StoreError(f"MLflow experiment {name!r} cannot be created: {first_line(error)}") from None
    if found.lifecycle_stage == "deleted":
        raise StoreError(f"MLflow experiment {name!r} was deleted; restore it in the UI, or set another store")
    return str(found.experiment_id)


def _require_answer(address: str) -> None:
    """Raise SQLAlchemyError if a database server does not answer in ten seconds; MLflow would try for two minutes."""
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
    """Create the store under another name and rename it: if the process is killed, no incomplete store is left."""
    fresh = database.with_name("mlflow.db.new")
    fresh.unlink(missing_ok=True)
    SqlAlchemyStore(_address(fresh), (database.parent / "artifacts").as_uri()).engine.dispose()
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode=wal")  # kept in the file; writes become several times faster
    fresh.replace(database)


def _mend_moved(database: Path) -> None:
    """Correct the absolute addresses of artifacts, which MLflow keeps, after the store's folder was moved."""
    here = (database.parent / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=20)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        rows = connection.execute("SELECT artifact_location FROM experiments WHERE name != 'Default'") if tables else ()
        roots = {location.rsplit("/", 1)[0] for (location,) in rows if location}
        for old in roots - {here}:
            for table, column in _ARTIFACT_COLUMNS if old.endswith("/mlruns/artifacts") else ():
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ? || '/%'",
                        (here, len(old) + 1, old),
                    )
        connection.commit()
