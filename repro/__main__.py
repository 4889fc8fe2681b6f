"""`python -m repro`, also installed as `repro`."""

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its code. Ctrl-C during the imports prints no traceback either."""
    gc.set_threshold(50_000, 20, 50)  # by default a tenth of the imports' time goes into looking for garbage
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # docs/performance.md: "On a busy machine"
    try:
        from repro import cli  # noqa: PLC0415 - so that Ctrl-C during the import is caught here

        code = cli.main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk or a closed pipe, for which Python would change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    gc.freeze()  # else the collector looks at half a million objects of the libraries, which takes seconds
    sys.exit(code)


if __name__ == "__main__":
    main()
