"""Ctrl-C and SIGTERM, turned into an exception that is raised where nothing can be left half-done."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The user or the system asked the run to stop. `exit_code` is 130 for Ctrl-C and 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within the block a first signal only takes note; the function that is yielded raises Interrupted then.

    A second signal raises at once. Outside the main thread signals are left alone.
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
