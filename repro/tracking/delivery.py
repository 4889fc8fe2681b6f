"""Sending a run's records to the tracking store, in a thread of its own: training never waits for the store."""

import time
from collections.abc import Callable
from threading import Event, Thread

from repro.text import first_line
from repro.tracking.outbox import Outbox, Record

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds between attempts while the store does not answer
LAST_ATTEMPTS, LAST_PAUSE = 3, 1.0  # when the run has ended
TOLD_AFTER = 2
"""Attempts in a row that fail before the user is told; one fails in passing when many processes write at once."""
LAST_WAIT = 20.0
"""Seconds that the end of a run waits for the store to take one more record."""


class Delivery:
    """Sends the pending records of an outbox in order. `send` is given a record, and whether the store may have it."""

    def __init__(self, outbox: Outbox, send: Callable[[Record, bool], None]) -> None:
        self.outbox, self._send = outbox, send
        self._in_doubt = bool(outbox.pending())  # the store may have the next record, though it is not marked so
        self._fault, self._news = "", list[str]()
        self._failures = 0  # in a row
        self._thread: Thread | None = None
        self._work, self._hurry, self._tried = Event(), Event(), Event()
        self._ended, self._last, self._attempts = False, 0.0, 0  # the last record was taken; attempts since the end

    def start(self) -> None:
        """Send in a thread from now on, which ends with the process if the store keeps it waiting."""
        self._thread = Thread(target=self._deliver_always, name="delivery", daemon=True)
        self._thread.start()
        self.wake()

    def wake(self) -> None:
        """Tell the thread that there is something to send."""
        self._work.set()

    def news(self) -> list[str]:
        """Return sentences for the user that were not returned before: the store went away, or came back."""
        return [self._news.pop(0) for _ in range(len(self._news))]

    def attempt(self, attempts: int = 1) -> bool:
        """Send what is pending, in the calling thread; return whether no error stopped it."""
        for number in range(attempts):
            if number:
                time.sleep(LAST_PAUSE)
            try:
                while not self._ended and self.outbox.pending():
                    record = self.outbox.pending()[0]
                    if not self.outbox.is_replaced(record):
                        self._send(record, self._in_doubt)
                    if self._ended:  # whoever opens the outbox next finds out whether the store has the record
                        return True
                    self._in_doubt = False
                    self.outbox.mark_delivered()
                    self._last = time.monotonic()
            except Exception as error:  # whatever a server answers must not end the thread
                self._failed(error)
                continue
            if self._failures >= TOLD_AFTER:
                self._news.append("the tracking store answers again; nothing is lost")
            self._fault, self._failures = "", 0
            return True
        return False

    def finish(self) -> bool:
        """Wait until the store has everything; return whether it has. The thread sends nothing any more.

        It ends LAST_WAIT seconds after the last record that the store took, or after LAST_ATTEMPTS that failed.
        """
        if self._thread is None:
            return self.attempt(LAST_ATTEMPTS)
        self._last, self._attempts = time.monotonic(), 0
        self._hurry.set()
        self.wake()
        while self.outbox.pending() and self._attempts < LAST_ATTEMPTS:
            left = self._last + LAST_WAIT - time.monotonic()
            if left <= 0:
                break
            self._tried.wait(min(left, 0.5))
            self._tried.clear()
        self._ended = True
        self.wake()
        return not self.outbox.pending()

    def fault(self) -> str:
        """Return why the store does not have everything."""
        return self._fault or f"it has taken nothing for {LAST_WAIT:.0f} s"

    def _deliver_always(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended:
            self._work.wait()
            self._work.clear()
            delivered = self.attempt()
            self._attempts += not delivered
            self._tried.set()
            if delivered:
                pause = FIRST_PAUSE
                continue
            if self._hurry.is_set():
                time.sleep(LAST_PAUSE)
            self._hurry.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self.wake()

    def _failed(self, error: Exception) -> None:
        self._in_doubt = True
        self._failures += 1
        if self._failures == TOLD_AFTER:
            self._news.append(f"the tracking store does not answer, training goes on: {first_line(error)}")
        self._fault = first_line(error)
