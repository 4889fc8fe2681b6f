"""Errors a user can meet. Each is one readable message and one exit code; none is shown with a traceback."""


class ReproError(Exception):
    """A run that failed, or anything else that ends the command with exit code 1."""

    exit_code = 1


class UsageError(ReproError):
    """Wrong use of the command line, a spec or an override. Exit code 2."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        """Take every fault found, so that all of them are reported at once."""
        super().__init__("\n".join(faults))
        self.faults = faults


class DataError(ReproError):
    """Data that cannot be had, or is not what it should be. Exit code 3."""

    exit_code = 3
