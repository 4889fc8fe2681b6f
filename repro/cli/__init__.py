"""The command line: parses, calls, prints. Heavy imports are inside the commands, so that `--help` answers at once."""

import sys
import tempfile
import traceback
from contextlib import suppress

from repro.cli import evidence, experiments, runs, sweeps, tools  # noqa: F401 - they register their commands
from repro.cli.app import app
from repro.errors import ReproError


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)  # an interrupt comes back as 130
        return result if isinstance(result, int) else 0
    except ReproError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # what the parser has to say
            error.show()
            return int(error.exit_code)
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    first = (str(error).strip() or "no message").splitlines()[0]
    print(f"error: unexpected {type(error).__name__}: {first}", file=sys.stderr)
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="repro-error-", suffix=".txt", delete=False) as file,
    ):
        traceback.print_exception(error, file=file)
        print(f"error: the details are in {file.name}", file=sys.stderr)
    return 1
