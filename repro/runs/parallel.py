"""Several tasks at a time: a function runs in child processes, which send messages up and can be told to stop.

Each child has a pipe of its own: messages go up, the number of a signal goes down. If either process is killed, the
other reads the end of the pipe. A queue for all children would stay locked if one were killed while writing to it.
"""

import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from repro.signals import Interrupted, interruptible

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
POLL = 0.25  # seconds between two looks at signals while no message comes
PATIENCE = 30.0  # seconds that a child is given to end by itself when the command ends

Task = TypeVar("Task")
Message = TypeVar("Message")
OnMessage = Callable[[Task, Message], None]
OnEnd = Callable[[Task, int | None, bool], None]


class Channel(Generic[Message]):
    """A child's connection to the process that started it."""

    def __init__(self, pipe: Connection, check_signals: Callable[[], None]) -> None:
        self._pipe, self._check_signals = pipe, check_signals

    def send(self, message: Message) -> None:
        """Send a message, which is pickled. If the parent process is gone, nothing happens; see `check_stop`."""
        with suppress(OSError):
            self._pipe.send(message)

    def check_stop(self) -> None:
        """Raise Interrupted if this process or its parent received a signal, or if the parent is gone."""
        self._check_signals()
        try:
            signum = self._pipe.recv() if self._pipe.poll() else None
        except (EOFError, OSError):
            signum = signal.SIGTERM
        if signum is not None:
            raise Interrupted(signum)


def run_all(
    function: Callable[[Task, Channel[Message]], None],
    tasks: Iterable[Task],
    at_once: int,
    on_end: OnEnd[Task],
    on_message: OnMessage[Task, Message] = lambda _task, _message: None,
) -> int:
    """Call `function(task, channel)` for each task in a process of its own, `at_once` at a time; wait for all of them.

    The function and the tasks are pickled. This process calls `on_message(task, message)` for each message of a child,
    and `on_end(task, exit_code, stopped)` when it has ended. The exit code is negative if a signal ended the child, and
    None if the child was never started; `stopped` is whether all children were told to stop.

    A first SIGINT or SIGTERM is passed on to the children, and no further child is started; a second one terminates
    them. Returns 0, or 130 or 143 if such a signal came. No child is left running.
    """
    pool = _Pool(function, list(tasks), on_end, on_message)
    try:
        with interruptible() as check_interrupt:
            resource_tracker.ensure_running()  # it unblocks signals when it starts, which `start` has blocked
            pool.pass_on_signal(check_interrupt)
            while pool.waiting or pool.children:
                while pool.waiting and len(pool.children) < at_once:
                    pool.start(pool.waiting.pop(0))
                for pipe in wait(list(pool.children), timeout=POLL):
                    pool.receive(pipe)
                pool.pass_on_signal(check_interrupt)
    except Interrupted as second:
        pool.stopped = second.exit_code
        for _, process in pool.children.values():
            process.terminate()
    finally:
        pool.end_all()
    return pool.stopped


@dataclass
class _Pool(Generic[Task, Message]):
    function: Callable[[Task, Channel[Message]], None]
    waiting: list[Task]
    on_end: OnEnd[Task]
    on_message: OnMessage[Task, Message]
    children: dict[Connection, tuple[Task, BaseProcess]] = field(default_factory=dict)  # by our end of the pipe
    stopped: int = 0  # the exit code that a signal asks for

    def start(self, task: Task) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_child_main, args=(self.function, task, theirs))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the child can handle them
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.children[ours] = task, process

    def receive(self, pipe: Any) -> None:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            self._ended(pipe)
        else:
            self.on_message(self.children[pipe][0], message)

    def pass_on_signal(self, check_interrupt: Callable[[], None]) -> None:
        try:
            check_interrupt()
        except Interrupted as stop:
            if self.stopped:
                return
            self.stopped = stop.exit_code
            for task in self.waiting:
                self.on_end(task, None, True)
            self.waiting.clear()
            for pipe in self.children:
                with suppress(OSError):
                    pipe.send(stop.exit_code - 128)

    def end_all(self) -> None:
        """Close the pipes, which tells the children that are left to stop; kill those that do not."""
        for pipe in self.children:
            pipe.close()
        for pipe, (_, process) in list(self.children.items()):
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
            self._ended(pipe)

    def _ended(self, pipe: Connection) -> None:
        task, process = self.children.pop(pipe)
        pipe.close()
        process.join()
        self.on_end(task, process.exitcode, bool(self.stopped))


def _child_main(function: Callable[[Any, Channel[Any]], None], task: Any, pipe: Connection) -> None:
    try:
        with interruptible() as check_signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            function(task, Channel(pipe, check_signals))
    except Interrupted as stop:
        sys.exit(stop.exit_code)
