"""What a person sees while a run goes: a live line on a terminal, one plain line an epoch when piped."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from repro.outcome import Summary
from repro.request import Request
from repro.runner import Reporter
from repro.spec import Experiment
from repro.tracking import names


def say(*lines: str, error: bool = False) -> None:
    """Print lines. Where the terminal or the disk takes none, training goes on all the same."""
    with suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


def announce(request: Request) -> None:
    """Say what is about to run, on what data; a stand-in in words that nobody can miss."""
    spec, dataset = request.spec, request.dataset
    reported = f", reported cost {spec.reported.cost:.2f} nats at epoch {spec.reported.epoch}" if spec.reported else ""
    epochs = f"{spec.training.epochs} epoch{'s' * (spec.training.epochs > 1)}"
    say(f"{request.entry.name}, seed {request.seed}, {epochs}{reported}")
    status = "" if dataset.status == "stand-in" else f"{dataset.status}, "  # a stand-in's origin says so
    say(f"data: {dataset.name}, {status}{dataset.origin}, {len(dataset.train):,} training images")
    if dataset.status == "stand-in":
        banner = "*** STAND-IN DATA: this is not the real data set. Nothing here compares with a reported cost. ***"
        say(banner, "*** Name a directory that has it (--data-dir DIR), or allow a download. ***")


@contextmanager
def reporter(spec: Experiment) -> Iterator[Reporter]:
    """A live reporter on a terminal, a plain one otherwise."""
    console = Console()
    if console.is_terminal:
        with _Live(spec, console) as live:
            yield live
    else:
        yield _Plain(spec)


def conclude(summary: Summary, spec: Experiment) -> None:
    """Say what came of it, how it compares, and where to see more."""
    minutes = _duration(summary.seconds)
    if summary.status != "FINISHED":
        done = f"{summary.epochs} epoch{'s' * (summary.epochs != 1)}"
        say(f"run {summary.run_id} {summary.status} after {done} and {minutes}: {summary.error}")
        say(f"go on: python -m repro resume {summary.run_id}")
        return
    say(f"\nrun {summary.run_id} FINISHED in {minutes}")
    say(f"  training cost, last epoch  {summary.cost:10.4f} nats per image")
    if spec.reported is not None and summary.comparable and summary.cost is not None:
        difference = summary.cost - spec.reported.cost
        say(f"  reported                   {spec.reported.cost:10.4f}  difference {difference:+.4f}")
    say(f"  test negative ELBO         {summary.test_neg_elbo:10.4f} nats per image")
    if not summary.comparable:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(summary.reasons)}")
    if summary.error:
        say(f"error: {summary.error}", error=True)
    say("see curves, samples and checkpoints: python -m repro ui")


class _Plain:
    """One line an epoch."""

    def __init__(self, spec: Experiment) -> None:
        self.epochs, self.began, self.done = spec.training.epochs, time.perf_counter(), 0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        say(f"run {run_id}: {_steps(steps, done)}")

    def tell(self, text: str) -> None:
        say(f"note: {text}", error=True)

    def step(self) -> None:
        pass

    def epoch(self, number: int, row: dict[str, float]) -> None:
        left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
        say(f"epoch {number:4d}/{self.epochs}  {_figures(row)}  {_duration(left)} left")


class _Live:
    """A bar over the steps, with the last epoch's figures."""

    def __init__(self, spec: Experiment, console: Console) -> None:
        self.epochs = spec.training.epochs
        columns = TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console, refresh_per_second=5)
        self.task: TaskID | None = None

    def __enter__(self) -> "_Live":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.progress.console.print(f"run {run_id}: {_steps(steps, done)}", highlight=False)
        shown = f"{min(self.epochs * done // steps + 1, self.epochs)}/{self.epochs}"
        self.task = self.progress.add_task("", total=steps, completed=done, epoch=shown, figures="")

    def tell(self, text: str) -> None:
        self.progress.console.print(f"note: {text}", highlight=False, markup=False)

    def step(self) -> None:
        if self.task is not None:
            self.progress.advance(self.task)

    def epoch(self, number: int, row: dict[str, float]) -> None:
        if self.task is None:
            return
        figures = f"cost {row[names.COST]:.2f}  {row[names.IMAGES_PER_SECOND]:,.0f} images/s"
        shown = f"{min(number + 1, self.epochs)}/{self.epochs}"
        self.progress.update(self.task, epoch=shown, figures=figures)


def _steps(steps: int, done: int) -> str:
    return f"{steps:,} steps" + (f", {done:,} of them done before" if done else "")


def _figures(row: dict[str, float]) -> str:
    return (
        f"cost {row[names.COST]:9.4f}  reconstruction {row[names.RECONSTRUCTION]:9.4f}  KL {row[names.KL]:8.4f}  "
        f"held-out {row[names.HELDOUT_NEG_ELBO]:9.4f}  {row[names.IMAGES_PER_SECOND]:7,.0f} images/s"
    )


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return (
        f"{seconds // 60} min {seconds % 60:02d} s"
        if seconds < 3600
        else f"{seconds // 3600} h {seconds // 60 % 60:02d} min"
    )
