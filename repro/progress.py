"""What a person sees while runs go: a live line for each on a terminal, one plain line an epoch when piped."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import fmean, stdev
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from repro.outcome import Summary
from repro.request import Request
from repro.runner import Reporter
from repro.spec import Experiment
from repro.terminal import table
from repro.tracking import names


def say(*lines: str, error: bool = False) -> None:
    """Print lines. Where the terminal or the disk takes none, training goes on all the same."""
    with suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr if error else sys.stdout, flush=True)


def announce(request: Request, seeds: str = "") -> None:
    """Say what is about to run, on what data; a stand-in in words nobody can miss. `seeds`, if several, in words."""
    spec, dataset = request.spec, request.dataset
    costs = " and ".join(f"{each.cost:.2f} nats at epoch {each.epoch}" for each in spec.reported)
    reported = f", reported cost {costs}" if costs else ""
    epochs = f"{spec.training.epochs} epoch{'s' * (spec.training.epochs > 1)}"
    say(f"{request.entry.name}, {seeds or f'seed {request.seed}'}, {epochs}{reported}")
    status = "" if dataset.status == "stand-in" else f"{dataset.status}, "  # a stand-in's origin says so
    say(f"data: {dataset.name}, {status}{dataset.origin}, {len(dataset.train):,} training images")
    if dataset.status == "stand-in":
        banner = "*** STAND-IN DATA: this is not the real data set. Nothing here compares with a reported cost. ***"
        say(banner, "*** Name a directory that has it (--data-dir DIR), or allow a download. ***")


@contextmanager
def reporter(spec: Experiment) -> Iterator[Reporter]:
    """A live reporter on a terminal, a plain one otherwise."""
    with _bars() as progress:
        yield _Row(spec, progress) if progress else _Lines(spec)


class SeedsDisplay:
    """Several seeds under way: a live row for each and one for them all on a terminal, else plain lines."""

    def __init__(self, spec: Experiment, seeds: int, steps: int, progress: Progress | None) -> None:
        """For so many seeds, each of so many steps."""
        self.spec, self.seeds, self.steps, self.progress, self.ended = spec, seeds, steps, progress, 0
        self.all = progress.add_task(self._title(), total=seeds * steps, figures="") if progress else None

    def row(self, seed: int) -> "SeedReporter":
        """Who is told how a seed goes."""
        label = f"seed {seed}  "
        if self.progress is None:
            return _Lines(self.spec, label)
        return _Row(self.spec, self.progress, label, self.all, self.steps)

    def end(self, row: "SeedReporter", summary: Summary) -> None:
        """A seed has ended: say how."""
        row.close()
        self.ended += 1
        if self.progress and self.all is not None:
            self.progress.update(self.all, description=self._title())
        if summary.status == "FINISHED":
            how = f"in {duration(summary.seconds)}, run {summary.run_id[:8]}, cost {summary.cost:.4f}"
        else:
            how = f"after {summary.epochs} epoch{'s' * (summary.epochs != 1)}"
        error = f": {summary.error}" if summary.error else ""
        say(f"seed {summary.seed}: {summary.status} {how}{error}")

    def _title(self) -> str:
        return f"{self.ended} of {self.seeds} seeds"


class SeedReporter(Reporter, Protocol):
    """A reporter that may be told of several steps at once."""

    def step(self, count: int = 1) -> None:
        """So many steps were trained."""

    def close(self) -> None:
        """The run has ended."""


@contextmanager
def seeds_display(spec: Experiment, seeds: int, steps: int) -> Iterator[SeedsDisplay]:
    """The display for so many seeds, each of so many steps."""
    with _bars() as progress:
        yield SeedsDisplay(spec, seeds, steps, progress)


def conclude(summary: Summary) -> None:
    """Say what came of it, how it compares, and where to see more."""
    minutes = duration(summary.seconds)
    if summary.status != "FINISHED":
        done = f"{summary.epochs} epoch{'s' * (summary.epochs != 1)}"
        say(f"run {summary.run_id} {summary.status} after {done} and {minutes}: {summary.error}")
        say(f"go on: python -m repro resume {summary.run_id}")
        return
    say(f"\nrun {summary.run_id} FINISHED in {minutes}")
    say(f"  training cost, last epoch  {summary.cost:10.4f} nats per image")
    if summary.comparable:
        _say_reported([summary.reported])
    if summary.test_neg_elbo is not None:
        say(f"  test negative ELBO         {summary.test_neg_elbo:10.4f} nats per image")
    if not summary.comparable:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(summary.reasons)}")
    if summary.error:
        say(f"error: {summary.error}", error=True)
    say("see curves, samples and checkpoints: python -m repro ui")


def conclude_seeds(runs: list[dict[str, Any]], reasons: list[str]) -> None:
    """A table of the seeds' runs, and their cost together. `reasons` are why it may not be compared; empty if it may.

    `runs` are summaries as `--summary` writes them. The deviation is the sample's, nats per image.
    """
    keys = ("status", "cost", "test_neg_elbo")
    named = [{"seed": str(run["seed"]), "run": run["run_id"][:8] or None} for run in runs]
    say("")
    with suppress(OSError, SystemExit):  # as in `say`; rich makes a SystemExit of a closed pipe
        table([name | {key: run[key] for key in keys} for name, run in zip(named, runs, strict=True)])
    costs = [run["cost"] for run in runs if run["status"] == "FINISHED"]
    if costs:
        deviation = f", standard deviation {stdev(costs):.4f}" if len(costs) > 1 else ""
        say(f"\n  training cost, mean of {len(costs):4d} {fmean(costs):10.4f} nats per image{deviation}")
    if costs and not reasons:
        _say_reported([run.get("reported", []) for run in runs if run["status"] == "FINISHED"])
    if reasons:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(reasons)}")
    say("see curves, samples and checkpoints: python -m repro ui")


def _say_reported(runs: list[list[dict[str, Any]]]) -> None:
    """Each reported cost whose epoch all runs have reached, and how far their mean is from it, nats per image."""
    for each in zip(*runs, strict=False):
        epoch, reported = each[0]["epoch"], each[0]["reported"]
        difference = fmean(run["difference"] for run in each)
        say(f"  reported at epoch {epoch:<8d} {reported:10.4f}  difference {difference:+.4f}")


class _Lines:
    """One line an epoch. `label` begins each."""

    def __init__(self, spec: Experiment, label: str = "") -> None:
        self.epochs, self.label, self.began, self.done = spec.training.epochs, label, time.perf_counter(), 0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        say(f"{self.label}run {run_id}: {_steps(steps, done)}")

    def tell(self, text: str) -> None:
        say(f"{self.label}note: {text}", error=True)

    def step(self, count: int = 1) -> None:
        pass

    def epoch(self, number: int, row: dict[str, float]) -> None:
        left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
        say(f"{self.label}epoch {number:4d}/{self.epochs}  {_figures(row)}  {duration(left)} left")

    def close(self) -> None:
        pass


class _Row:
    """A bar over a run's steps, with the last epoch's figures. `every` is a bar over other runs' steps besides."""

    def __init__(
        self, spec: Experiment, progress: Progress, label: str = "", every: TaskID | None = None, steps: int = 0
    ) -> None:
        self.epochs, self.label, self.progress, self.every = spec.training.epochs, label, progress, every
        self.task: TaskID | None = None
        self.left = steps

    def started(self, run_id: str, steps: int, done: int) -> None:
        self._print(f"run {run_id}: {_steps(steps, done)}")
        self.left = steps
        self.step(done)
        self.task = self.progress.add_task("", total=steps, completed=done, figures="")
        self._show(self.epochs * done // steps)

    def tell(self, text: str) -> None:
        self._print(f"note: {text}")

    def step(self, count: int = 1) -> None:
        self.left -= count
        for task in (self.task, self.every):
            if task is not None:
                self.progress.advance(task, count)

    def epoch(self, number: int, row: dict[str, float]) -> None:
        self._show(number, figures=f"cost {row[names.COST]:.2f}  {row[names.IMAGES_PER_SECOND]:,.0f} images/s")

    def close(self) -> None:
        self.step(self.left)
        if self.task is not None:
            self.progress.remove_task(self.task)

    def _show(self, done: int, figures: str = "") -> None:
        if self.task is not None:
            shown = f"{self.label}epoch {min(done + 1, self.epochs)}/{self.epochs}"
            self.progress.update(self.task, description=shown, figures=figures)

    def _print(self, text: str) -> None:
        self.progress.console.print(self.label + text, highlight=False, markup=False)


@contextmanager
def _bars() -> Iterator[Progress | None]:
    """Where bars are drawn while the block lasts, or None if the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    figures = TextColumn("{task.fields[figures]}")
    with Progress(*columns, figures, console=console, refresh_per_second=5) as progress:
        yield progress


def _steps(steps: int, done: int) -> str:
    return f"{steps:,} steps" + (f", {done:,} of them done before" if done else "")


def _figures(row: dict[str, float]) -> str:
    return (
        f"cost {row[names.COST]:9.4f}  reconstruction {row[names.RECONSTRUCTION]:9.4f}  KL {row[names.KL]:8.4f}  "
        f"held-out {row[names.HELDOUT_NEG_ELBO]:9.4f}  {row[names.IMAGES_PER_SECOND]:7,.0f} images/s"
    )


def duration(seconds: float) -> str:
    """Seconds in words: `5 s`, `3 min 02 s`, `1 h 20 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return (
        f"{seconds // 60} min {seconds % 60:02d} s"
        if seconds < 3600
        else f"{seconds // 3600} h {seconds // 60 % 60:02d} min"
    )
