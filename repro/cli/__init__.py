"""The command line. The commands import their heavy modules themselves, so that `--help` answers at once."""

import errno
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Any

from repro.cli import evaluate, experiments, results, runs, store, sweeps  # noqa: F401 - they register their commands
from repro.cli.options import app
from repro.errors import ReproError
from repro.text import first_line, printable, without_password

LONGEST_NAME = 200  # of a file, in a message


def main(arguments: list[str]) -> int:
    """Run one command. Returns 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)  # returns 130 after Ctrl-C
        return result if isinstance(result, int) else 0
    except ReproError as error:
        for line in str(error).splitlines():
            _say(line)
        return error.exit_code
    except OSError as error:
        return _refused(error)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # an error of the parser
            return _misread(error)
        return _unexpected(error)


def _say(text: str) -> None:
    """Print one line of an error."""
    print(f"error: {without_password(printable(text))}", file=sys.stderr)


def _misread(error: Any) -> int:
    """Print what the parser does not understand; return the exit code."""
    message = error.format_message()
    if message.startswith("Usage:"):  # no command was named: it is the help
        print(message, file=sys.stderr)
        return int(error.exit_code)
    if getattr(error, "ctx", None):
        print(error.ctx.get_usage(), file=sys.stderr)
    _say(" ".join(message.split()))
    return int(error.exit_code)


def _unexpected(error: Exception) -> int:
    _say(f"unexpected {type(error).__name__}: {first_line(error)}")
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="repro-error-", suffix=".txt", delete=False) as file,
    ):
        file.write(without_password("".join(traceback.format_exception(error))))
        print(f"error: the details are in {file.name}", file=sys.stderr)
    return 1


def _refused(error: OSError) -> int:
    """Say which file the disk refuses, and why; return the exit code."""
    if isinstance(error, BrokenPipeError):
        return 1
    if error.filename is None:
        return _unexpected(error)
    name = str(error.filename)
    said = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... ({len(name)} characters)"
    _say(f"{said}: {error.strerror}")
    return 2 if error.errno == errno.ENAMETOOLONG else 1
