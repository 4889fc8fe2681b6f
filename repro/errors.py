"""Errors that a user can meet. The command line prints their message and exits with their code."""


class ReproError(Exception):
    """A failure, such as of a run or of the tracking store. Exit code 1."""

    exit_code = 1


class UsageError(ReproError):
    """Wrong use of the command line, a spec or an override, with all faults found. Exit code 2."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DataError(ReproError):
    """Data that is missing or damaged. Exit code 3."""

    exit_code = 3
