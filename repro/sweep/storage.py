"""Where studies are kept: a SQLite file beside the tracking store, or PostgreSQL, for several machines."""

import hashlib
import sqlite3
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
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import SQLAlchemyError

from repro.errors import ReproError, UsageError
from repro.sweep.address import address, shown
from repro.text import first_line, without_password
from repro.tracking.store import uri

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, and the retry of trials

MISSED_HEARTBEATS = 4  # after which a worker counts as dead
MOST_RETRIES = 5  # of a trial whose workers die
LOCK_WAIT = 120  # seconds
PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)  # seconds between attempts while a server does not answer
FAULTS = (SQLAlchemyError, StorageInternalError, OSError)  # of a database that does not answer

T = TypeVar("T")


class StorageError(ReproError):
    """The store of studies cannot be reached, or refuses. Exit code 3."""

    exit_code = 3


class _Database(RDBStorage):
    """Optuna's storage, whose heartbeats outlive a moment without the database."""

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(*FAULTS):
            super().record_heartbeat(trial_id)


class Storage:
    """An open store of studies. `rdb` is Optuna's storage; `shown` is the address without its password."""

    def __init__(self, url: str, heartbeat: int | None = None) -> None:
        """Open the store, and make its tables if there are none.

        `heartbeat` is how often, in seconds, a worker says that it is alive; only workers need it. Raises UsageError
        for a wrong address or a tracking store of MLflow's, and StorageError if the store does not answer.
        """
        self._url = address(url)
        self.shown = shown(self._url)
        self._file = Path(self._url.database or "") if self._url.drivername == "sqlite" else None
        sqlite = {"connect_args": {"timeout": 60}}
        postgres = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
        try:
            self._refuse_tracking_store()
            if self._file:
                self._file.parent.mkdir(parents=True, exist_ok=True)
            with self.locked("tables"):
                if self._file:
                    with closing(sqlite3.connect(self._file)) as connection:
                        connection.execute("PRAGMA journal_mode=wal")  # makes writes several times faster
                self.rdb = _Database(
                    self._url.render_as_string(hide_password=False),
                    sqlite if self._file else postgres,
                    heartbeat_interval=heartbeat,
                    grace_period=MISSED_HEARTBEATS * heartbeat if heartbeat else None,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
                        MOST_RETRIES, inherit_intermediate_values=True
                    ),
                )
        except (*FAULTS, sqlite3.Error, RuntimeError) as error:
            raise StorageError(f"the studies in {self.shown} cannot be opened: {first_line(error)}") from None

    def _refuse_tracking_store(self) -> None:
        """Optuna and MLflow both keep their version in a table of the same name, and would damage each other's."""
        tracking = without_password(uri()).partition("://")[2] == self.shown.partition("://")[2]
        if not tracking and (self._file is None or self._file.exists()):
            tracking = {"experiments", "runs"} <= set(sqlalchemy.inspect(self._engine()).get_table_names())
        if tracking:
            raise UsageError(f"--storage {self.shown}: is a tracking store of MLflow's; studies need one of their own")

    def _engine(self) -> sqlalchemy.Engine:
        """Return an engine whose connections end when they are closed."""
        wait = {} if self._file else {"connect_timeout": 10}
        return sqlalchemy.create_engine(
            self._url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT", connect_args=wait
        )

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold a lock against all processes on all machines. Raises StorageError if another process holds it too long.

        A server that is started again lets go of the lock.
        """
        if self._file:
            try:
                with FileLock(self._file.with_name(f"{self._file.name}.lock"), timeout=LOCK_WAIT):
                    yield
            except Timeout:
                raise StorageError(f"{self.shown} has been locked by another process for {LOCK_WAIT} s") from None
            return
        number = int.from_bytes(hashlib.sha256(f"repro {what}".encode()).digest()[:8], signed=True)
        connection = self._engine().connect()
        try:
            connection.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_WAIT}s'"))
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:number)"), {"number": number})
            yield
        finally:
            with suppress(SQLAlchemyError):
                connection.close()

    def patiently(self, call: Callable[[], T]) -> T:
        """Return what `call` returns; call it again while the store does not answer. Raises StorageError."""
        try:
            return patiently(call, FAULTS)
        except FAULTS as error:
            raise StorageError(f"the studies in {self.shown} do not answer: {first_line(error)}") from None


def patiently(call: Callable[[], T], faults: tuple[type[Exception], ...]) -> T:
    """Return what `call` returns; call it again for a minute and a half while it raises one of `faults`."""
    for pause in PAUSES:
        with suppress(*faults):
            return call()
        time.sleep(pause)
    return call()
