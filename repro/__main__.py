"""`python -m repro`, also installed as `repro`."""

import sys


def main() -> None:
    """Run the command line and exit with its code; an interrupt during imports is no traceback either."""
    try:
        from repro import cli  # noqa: PLC0415 - so that Ctrl-C during the import is caught here

        code = cli.main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
