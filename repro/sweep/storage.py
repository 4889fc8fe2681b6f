"""Where studies are kept: a SQLite file beside the tracking store, or PostgreSQL, for many machines.

All that decides who works on what is done under the study's lock, which every process of every machine takes: a trial
is claimed by one, and one that has gone silent is given to one.
"""

import hashlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from repro.errors import ReproError, UsageError
from repro.text import first_line, without_password
from repro.tracking.store import uri

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
warnings.filterwarnings("ignore", "The reported value is ignored", UserWarning)  # of a run that was begun anew

SILENT = 4  # heartbeats that a worker may miss
LOCK_WAIT = 120  # seconds
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)  # seconds between attempts while a server does not answer
DRIVERS = ("sqlite", "postgresql+psycopg")

T = TypeVar("T")


class StorageError(ReproError):
    """The store of studies cannot be reached, or refuses. Exit code 3."""

    exit_code = 3


class Storage:
    """An open store of studies."""

    def __init__(self, url: str, heartbeat: int) -> None:
        """Open it, making its tables if need be. Raises UsageError for a wrong address, StorageError for no answer.

        `heartbeat` is how often, in seconds, a worker says that it is alive.
        """
        self.heartbeat = heartbeat
        self._url = address(url)
        self.shown = without_password(self._url.render_as_string())
        self._file = Path(self._url.database or "").absolute() if self._url.drivername == "sqlite" else None
        sqlite = {"connect_args": {"timeout": 60}}
        postgres = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        try:
            self._refuse_tracking_store()
            if self._file:
                _write_ahead(self._file)
            with self.locked("tables"):
                self.rdb = RDBStorage(
                    self._url.render_as_string(hide_password=False),
                    sqlite if self._file else postgres,
                    heartbeat_interval=heartbeat,
                    grace_period=SILENT * heartbeat,
                )
        except (SQLAlchemyError, sqlite3.Error, StorageInternalError, OSError, RuntimeError) as error:
            raise StorageError(f"the studies in {self.shown} cannot be opened: {first_line(error)}") from None

    def _refuse_tracking_store(self) -> None:
        """Optuna and MLflow both keep their version in a table of the same name, and would damage each other's."""
        tracking = _place(without_password(uri())) == _place(self.shown)
        if not tracking and not (self._file and not self._file.exists()):
            engine = sqlalchemy.create_engine(
                self._url, poolclass=sqlalchemy.NullPool, connect_args={} if self._file else {"connect_timeout": 10}
            )
            tracking = {"experiments", "runs"} <= set(sqlalchemy.inspect(engine).get_table_names())
        if tracking:
            raise UsageError(f"--storage {self.shown}: is a tracking store of MLflow's; studies need one of their own")

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold a lock against all processes, on all machines. Raises StorageError if another holds it too long."""
        if self._file:
            try:
                with FileLock(self._file.with_name(f"{self._file.name}.lock"), timeout=LOCK_WAIT):
                    yield
            except Timeout:
                raise StorageError(f"{self.shown} has been locked by another process for {LOCK_WAIT} s") from None
            return
        number = int.from_bytes(hashlib.sha256(f"repro {what}".encode()).digest()[:8], signed=True)
        with self._lock_connection() as connection:
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_WAIT}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
            yield  # the lock goes with the connection

    @contextmanager
    def _lock_connection(self) -> Iterator[sqlalchemy.Connection]:
        engine = sqlalchemy.create_engine(
            self._url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10}
        )
        connection = engine.connect()
        try:
            yield connection
        finally:
            with suppress(SQLAlchemyError):  # a server that has gone has let go of the lock
                connection.close()

    @contextmanager
    def alive(self, trial_id: int) -> Iterator[None]:
        """Say again and again, while the block lasts, that a trial is being worked on."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.heartbeat):
                with suppress(SQLAlchemyError, StorageInternalError, OSError):  # the next one may get through
                    self.rdb.record_heartbeat(trial_id)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=10)

    def patiently(self, call: Callable[[], T]) -> T:
        """What `call` returns, which is called again for a minute and a half while the store does not answer."""
        for pause in PAUSES:
            try:
                return call()
            except (SQLAlchemyError, StorageInternalError, OSError):
                time.sleep(pause)
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            raise StorageError(f"the studies in {self.shown} do not answer: {first_line(error)}") from None


def default() -> str:
    """Address of the store of studies beside the tracking store."""
    return f"sqlite:///{Path('mlruns').resolve() / 'optuna.db'}"


def is_there(url: str) -> bool:
    """Whether a store has been made at an address; a server is taken to have one. Raises UsageError as `address`."""
    place = address(url)
    return place.drivername != "sqlite" or Path(place.database or "").exists()


def address(text: str) -> sqlalchemy.URL:
    """The address of a store of studies, "" being the default. A password in it is not shown.

    Raises UsageError if no store can be there.
    """
    text = text or default()
    forms = "sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE for several machines"
    try:
        url = make_url(text)
    except ArgumentError:
        shown = f"***@{text.rpartition('@')[2]}" if "@" in text else text
        raise UsageError(f"--storage {shown}: is no address; should be {forms}") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in DRIVERS or not url.database or url.database == ":memory:":
        raise UsageError(f"--storage {url.render_as_string()}: should be {forms}")
    if url.drivername != "sqlite":
        try:
            sqlalchemy.create_engine(url)
        except (ImportError, NoSuchModuleError):
            raise UsageError(
                f"--storage {url.render_as_string()}: needs psycopg; pip install 'psycopg[binary]'"
            ) from None
    elif not Path(url.database).absolute().parent.is_dir() and url.database != make_url(default()).database:
        raise UsageError(f"--storage {url}: should be a file in a directory that exists")
    return url


def _place(address: str) -> str:
    """Where an address points to, whatever the driver."""
    kind, _, place = address.partition("://")
    return str(Path(place[1:]).resolve()) if kind == "sqlite" else place


def _write_ahead(file: Path) -> None:
    """Make the file with a write-ahead log, which is kept; writes become several times faster."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f"{file.name}.lock"), timeout=LOCK_WAIT), closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=wal")
