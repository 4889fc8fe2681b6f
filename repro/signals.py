"""Ctrl-C and SIGTERM as an exception that is raised only where a run can stop cleanly."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Raised if the user or the system asked the run to stop. `exit_code` is 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function that raises Interrupted if there was a signal since the block began.

    A second signal raises Interrupted at once. Outside the main thread signals are not handled.
    """
    pending: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        if pending:
            raise Interrupted(signum)
        pending.append(signum)
        print("\nstopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    def check() -> None:
        if pending:
            raise Interrupted(pending[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
