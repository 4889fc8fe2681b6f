"""The command line. The commands import their heavy modules themselves, so that `--help` answers at once."""

import sys
import tempfile
import traceback
from contextlib import suppress

from repro.cli import evaluate, experiments, results, runs, store, sweeps  # noqa: F401 - they register their commands
from repro.cli.options import app
from repro.errors import ReproError


def main(arguments: list[str]) -> int:
    """Run one command. Returns 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)  # returns 130 after Ctrl-C
        return result if isinstance(result, int) else 0
    except ReproError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # an error of the parser
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
