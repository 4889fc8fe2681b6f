"""Threads that wait for work, so that a step can be handed to them without starting any."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Crew:
    """Runs a function with 0 .. n-1 at once, on the caller's thread and n-1 others that wait for the next call."""

    def __init__(self, workers: int) -> None:
        self.starts = [threading.Semaphore(0) for _ in range(workers - 1)]
        self.done, self.in_use = threading.Semaphore(0), threading.Lock()
        self.work: Callable[[int], None] = _nothing
        self.fault: BaseException | None = None
        for index, start in enumerate(self.starts, start=1):
            threading.Thread(target=self._serve, args=(index, start), daemon=True).start()

    def __call__(self, work: Callable[[int], None]) -> None:
        """Run `work` and wait for the end of all of it. What one of them raises is raised."""
        with self.in_use:
            self.work = work
            for start in self.starts:
                start.release()
            try:
                work(0)
            finally:
                for _ in self.starts:
                    self.done.acquire()
                self.work = _nothing  # or the crew, which outlives every step, would keep the last one's memory
                fault, self.fault = self.fault, None
            if fault:
                raise fault

    def _serve(self, index: int, start: threading.Semaphore) -> None:
        torch.set_num_threads(1)  # holds for this thread
        torch.set_grad_enabled(False)
        while True:
            start.acquire()
            try:
                self.work(index)
            except BaseException as fault:  # raised in the caller's thread
                self.fault = fault
            self.done.release()


@functools.cache
def crew(workers: int) -> Crew:
    """The one crew of that size, which all steps share."""
    return Crew(workers)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=crew.cache_clear)  # a forked process has none of its parent's threads


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's own threads are off in the block: the crew's workers take their place."""
    before = torch.get_num_threads()
    if before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if before != 1:
            torch.set_num_threads(before)


def _nothing(_: int) -> None: ...
