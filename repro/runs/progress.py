"""Progress display: a live line for each run on a terminal, one plain line an epoch when piped."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from statistics import fmean, stdev

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from repro import names
from repro.data import Dataset
from repro.runs.config import RunConfig
from repro.runs.result import RunResult
from repro.spec import Experiment
from repro.terminal import duration, say, table
from repro.text import plural

SEE_MORE = "see curves, samples and checkpoints: python -m repro ui"


def announce(config: RunConfig, dataset: Dataset, seeds: str = "") -> None:
    """Print what is about to run, on which data, with a warning if it is a stand-in. `seeds` names several."""
    spec = config.spec
    costs = " and ".join(f"{each.cost:.2f} nats at epoch {each.epoch}" for each in spec.reported)
    reported = f", reported cost {costs}" if costs else ""
    epochs = plural(spec.training.epochs, "epoch")
    say(f"{config.entry.name}, {seeds or f'seed {config.seed}'}, {epochs}{reported}")
    status = "" if dataset.status == "stand-in" else f"{dataset.status}, "  # a stand-in's origin says so
    say(f"data: {dataset.name}, {status}{dataset.origin}, {len(dataset.train):,} training images")
    if dataset.status == "stand-in":
        say(
            "*** STAND-IN DATA: this is not the real data set. Nothing here compares with a reported cost. ***",
            "*** Name a directory that has it (--data-dir DIR), or allow a download. ***",
        )


@contextmanager
def bars() -> Iterator[Progress | None]:
    """Give the bars that are drawn during the block, or None if the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    figures = TextColumn("{task.fields[figures]}")
    with Progress(*columns, figures, console=console, refresh_per_second=5) as progress:
        yield progress


class RunDisplay:
    """One run: a bar over its steps on a terminal, else a line for each epoch. It is a `runner.Reporter`.

    Everything begins with `label`. `every` is a bar over the steps of all runs, of which this run has `steps`.
    """

    def __init__(
        self, spec: Experiment, progress: Progress | None, label: str = "", every: TaskID | None = None, steps: int = 0
    ) -> None:
        self.epochs, self.progress, self.label, self.every = spec.training.epochs, progress, label, every
        self.task: TaskID | None = None
        self.left, self.began, self.done = steps, time.perf_counter(), 0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        say(f"{self.label}run {run_id}: {steps:,} steps" + (f", {done:,} of them done before" if done else ""))
        self.left = steps
        self.step(done)
        if self.progress:
            self.task = self.progress.add_task("", total=steps, completed=done, figures="")
            self._show(self.done)

    def tell(self, text: str) -> None:
        say(f"{self.label}note: {text}", error=True)

    def step(self, count: int = 1) -> None:
        self.left -= count
        for task in (self.task, self.every):
            if self.progress and task is not None:
                self.progress.advance(task, count)

    def epoch(self, number: int, row: dict[str, float]) -> None:
        if self.progress:
            self._show(number, f"cost {row[names.COST]:.2f}  {row[names.IMAGES_PER_SECOND]:,.0f} images/s")
            return
        left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
        say(
            f"{self.label}epoch {number:4d}/{self.epochs}  cost {row[names.COST]:9.4f}  reconstruction "
            f"{row[names.RECONSTRUCTION]:9.4f}  KL {row[names.KL]:8.4f}  held-out {row[names.HELDOUT_NEG_ELBO]:9.4f}  "
            f"{row[names.IMAGES_PER_SECOND]:7,.0f} images/s  {duration(left)} left"
        )

    def close(self) -> None:
        self.step(self.left)
        if self.progress and self.task is not None:
            self.progress.remove_task(self.task)

    def _show(self, done: int, figures: str = "") -> None:
        if self.progress and self.task is not None:
            shown = f"{self.label}epoch {min(done + 1, self.epochs)}/{self.epochs}"
            self.progress.update(self.task, description=shown, figures=figures)


class SeedsDisplay:
    """Several seeds at a time: a live row for each and one for them all on a terminal, else plain lines."""

    def __init__(self, spec: Experiment, seeds: int, steps: int, progress: Progress | None) -> None:
        """Show `seeds` seeds, each of `steps` steps."""
        self.spec, self.seeds, self.steps, self.progress, self.ended = spec, seeds, steps, progress, 0
        self.all = progress.add_task(self._title(), total=seeds * steps, figures="") if progress else None
        self._rows: dict[int, RunDisplay] = {}

    def row(self, seed: int) -> RunDisplay:
        """Return the display of a seed."""
        if seed not in self._rows:
            self._rows[seed] = RunDisplay(self.spec, self.progress, f"seed {seed}  ", self.all, self.steps)
        return self._rows[seed]

    def end(self, result: RunResult) -> None:
        """Remove the row of a seed that has ended, and print its result."""
        self.row(result.seed).close()
        self.ended += 1
        if self.progress and self.all is not None:
            self.progress.update(self.all, description=self._title())
        if result.status == "FINISHED":
            how = f"in {duration(result.seconds)}, run {result.run_id[:8]}, cost {result.cost:.4f}"
        else:
            how = f"after {plural(result.epochs, 'epoch')}"
        error = f": {result.error}" if result.error else ""
        say(f"seed {result.seed}: {result.status} {how}{error}")

    def _title(self) -> str:
        return f"{self.ended} of {self.seeds} seeds"


def conclude(result: RunResult) -> None:
    """Print a run's result, how it compares with the reported costs, and where to see more."""
    took = duration(result.seconds)
    if result.status != "FINISHED":
        say(f"run {result.run_id} {result.status} after {plural(result.epochs, 'epoch')} and {took}: {result.error}")
        say(f"go on: python -m repro resume {result.run_id}")
        return
    say(f"\nrun {result.run_id} FINISHED in {took}")
    say(f"  training cost, last epoch  {result.cost:10.4f} nats per image")
    if result.comparable:
        _say_reported([result])
    if result.test_neg_elbo is not None:
        say(f"  test negative ELBO         {result.test_neg_elbo:10.4f} nats per image")
    if not result.comparable:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(result.reasons)}")
    if result.error:
        say(f"error: {result.error}", error=True)
    say(SEE_MORE)


def conclude_seeds(runs: Sequence[RunResult], reasons: Sequence[str]) -> None:
    """Print a table of the seeds' runs, the mean of their costs and its sample standard deviation, nats per image.

    `reasons` are why the cost may not be compared with the reported one; empty if it may.
    """
    rows = [
        {
            "seed": str(run.seed),
            "run": run.run_id[:8] or None,
            "status": run.status,
            "cost": run.cost,
            "test_neg_elbo": run.test_neg_elbo,
        }
        for run in runs
    ]
    say("")
    with suppress(OSError, SystemExit):  # as in `say`; rich makes a SystemExit of a closed pipe
        table(rows)
    finished = [run for run in runs if run.status == "FINISHED"]
    costs = [run.cost for run in finished if run.cost is not None]
    if costs:
        deviation = f", standard deviation {stdev(costs):.4f}" if len(costs) > 1 else ""
        say(f"\n  training cost, mean of {len(costs):4d} {fmean(costs):10.4f} nats per image{deviation}")
    if reasons:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(reasons)}")
    else:
        _say_reported(finished)
    say(SEE_MORE)


def _say_reported(runs: Sequence[RunResult]) -> None:
    """Print each reported cost whose epoch all runs have reached, and how far their mean is from it."""
    for each in zip(*(run.reported for run in runs), strict=False):
        difference = fmean(run.difference for run in each)
        say(f"  reported at epoch {each[0].epoch:<8d} {each[0].reported:10.4f}  difference {difference:+.4f}")
