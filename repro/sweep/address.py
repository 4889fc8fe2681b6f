"""Addresses of stores of studies. It does not import Optuna, so that a wrong address is refused at once."""

from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from repro.errors import UsageError
from repro.runs import ids
from repro.text import without_password

FORMS = "sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE for several machines"


def address(text: str) -> sqlalchemy.URL:
    """Return the address of a store of studies; `text` may be empty for the file beside the tracking store.

    Raises UsageError, without the password, if no store can be there.
    """
    default = ids.root().with_name("optuna.db")
    try:
        url = make_url(text or sqlalchemy.URL.create("sqlite", database=str(default)))
    except (ArgumentError, ValueError):  # ValueError for a port that is no number
        words = f"***@{text.rpartition('@')[2]}" if "@" in text else text
        raise UsageError(f"--storage {without_password(words)}: is no address; should be {FORMS}") from None
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if "@" in (url.host or ""):
        raise UsageError(f"--storage ***@{text.rpartition('@')[2]}: should have %40 for each @ of the password")
    if url.drivername not in ("sqlite", "postgresql+psycopg") or url.database in (None, "", ":memory:"):
        raise UsageError(f"--storage {shown(url)}: should be {FORMS}")
    if url.drivername == "sqlite":
        file = Path(url.database or "").resolve()
        if file != default and not file.parent.is_dir():
            raise UsageError(f"--storage {url}: should be a file in a directory that exists")
        return url.set(database=str(file))
    try:
        sqlalchemy.create_engine(url)
    except (ImportError, NoSuchModuleError):
        raise UsageError(f"--storage {shown(url)}: needs psycopg; pip install 'psycopg[binary]'") from None
    return url


def shown(url: sqlalchemy.URL) -> str:
    """Return the address without a password, to be printed."""
    return without_password(url.render_as_string())
