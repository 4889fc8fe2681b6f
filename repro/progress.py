"""What a person sees while a run goes: a live line on a terminal, one plain line an epoch when piped."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from repro.outcome import Summary
from repro.runner import Reporter, Request
from repro.spec import Experiment
from repro.tracking import names


def announce(request: Request) -> None:
    """Say what is about to run, on what data; a stand-in in words that nobody can miss."""
    spec, dataset = request.spec, request.dataset
    reported = f", reported cost {spec.reported.cost:.2f} nats at epoch {spec.reported.epoch}" if spec.reported else ""
    epochs = f"{spec.training.epochs} epoch{'s' * (spec.training.epochs > 1)}"
    print(f"{request.entry.name}, seed {request.seed}, {epochs}{reported}")
    print(f"data: {dataset.name}, {dataset.status}; {dataset.origin}; {len(dataset.train):,} training images")
    if dataset.status == "stand-in":
        banner = "*** STAND-IN DATA: this is not the real data set. Nothing here compares with a reported cost. ***"
        print(banner, "*** Name a directory that has it (--data-dir DIR), or allow a download. ***", sep="\n")
    sys.stdout.flush()


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
        print(f"run {summary.run_id} {summary.status} after {summary.epochs} epochs and {minutes}: {summary.error}")
        print(f"go on: python -m repro resume {summary.run_id}")
        return
    print(f"\nrun {summary.run_id} FINISHED in {minutes}")
    print(f"  training cost, last epoch  {summary.cost:10.4f} nats per image")
    if spec.reported is not None and summary.comparable and summary.cost is not None:
        difference = summary.cost - spec.reported.cost
        print(f"  reported                   {spec.reported.cost:10.4f}  difference {difference:+.4f}")
    print(f"  test negative ELBO         {summary.test_neg_elbo:10.4f} nats per image")
    if not summary.comparable:
        print(f"  NOT COMPARABLE with the reported cost: {'; '.join(summary.reasons)}")
    if summary.error:
        print(f"error: {summary.error}", file=sys.stderr)
    print("see curves, samples and checkpoints: python -m repro ui")


class _Plain:
    """One line an epoch."""

    def __init__(self, spec: Experiment) -> None:
        self.epochs, self.began, self.done = spec.training.epochs, time.perf_counter(), 0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        print(f"run {run_id}: {_steps(steps, done)}", flush=True)

    def tell(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr, flush=True)

    def step(self) -> None:
        pass

    def epoch(self, number: int, row: dict[str, float]) -> None:
        left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
        print(f"epoch {number:4d}/{self.epochs}  {_figures(row)}  {_duration(left)} left", flush=True)


class _Live:
    """A bar over the steps, with the last epoch's figures."""

    def __init__(self, spec: Experiment, console: Console) -> None:
        self.epochs, self.began, self.done = spec.training.epochs, time.perf_counter(), 0
        columns = TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn()
        self.progress = Progress(*columns, TextColumn("{task.fields[figures]}"), console=console, refresh_per_second=5)
        self.task: TaskID | None = None

    def __enter__(self) -> "_Live":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        self.progress.console.print(f"run {run_id}: {_steps(steps, done)}", highlight=False)
        shown = f"{min(self.done + 1, self.epochs)}/{self.epochs}"
        self.task = self.progress.add_task("", total=steps, completed=done, epoch=shown, figures="")

    def tell(self, text: str) -> None:
        self.progress.console.print(f"note: {text}", highlight=False, markup=False)

    def step(self) -> None:
        if self.task is not None:
            self.progress.advance(self.task)

    def epoch(self, number: int, row: dict[str, float]) -> None:
        if self.task is None:
            return
        left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
        figures = f"cost {row[names.COST]:.2f}  {row[names.IMAGES_PER_SECOND]:,.0f} img/s  {_duration(left)} left"
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
