"""Progress display: a live line for each run on a terminal, one plain line an epoch when piped."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import fmean, stdev

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from repro import names
from repro.data import Dataset
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.estimate import STEPS, Estimate
from repro.runs.result import RunResult
from repro.runs.runner import Reporter
from repro.spec import Experiment, registry
from repro.terminal import duration, say, table
from repro.text import plural
from repro.tracking import artifacts


def announce(config: RunConfig, dataset: Dataset, seeds: str = "") -> None:
    """Print what is about to run, on which data, with a warning if it is a stand-in. `seeds` names several."""
    spec = config.spec
    costs = " and ".join(f"{each.cost:.2f} nats at epoch {each.epoch}" for each in spec.reported)
    reported = f", reported cost {costs}" if costs else ""
    epochs = plural(spec.training.epochs, "epoch")
    say(f"{config.entry.name}, {seeds or f'seed {config.seed}'}, {epochs}{reported}")
    if registry.is_file(config.experiment):
        say(f"its runs are in the MLflow experiment {config.entry.name}")
    status = "" if dataset.status == "stand-in" else f"{dataset.status}, "  # a stand-in's origin says so
    say(f"data: {dataset.name}, {status}{dataset.origin}, {len(dataset.train):,} training images")
    if dataset.status == "stand-in":
        say(
            "*** STAND-IN DATA: this is not the real data set. Nothing here compares with a reported cost. ***",
            "*** Name a directory that has it (--data-dir DIR), or allow a download. ***",
        )


def forecast(found: Estimate, epochs: int, runs: int, at_once: int = 1) -> float:
    """Print how `runs` runs would be computed and how long they would take; return that in seconds."""
    how, seconds = found.settings, found.epoch_seconds * epochs * math.ceil(runs / at_once)
    say(
        f"engine: {' '.join(filter(None, (how.engine, how.products)))}, {how.device}, "
        f"{plural(how.threads, 'thread')}, {how.precision}",
        f"{plural(runs, 'run')} of {plural(epochs, 'epoch')} of {plural(found.steps, 'step')}: about "
        f"{duration(seconds)}; an epoch takes {found.epoch_seconds:.1f} s, by {STEPS} steps timed now",
        "dry run: nothing was trained, nothing written",
    )
    return seconds


def bars(*columns: ProgressColumn) -> Progress:
    """Return the bars of a terminal, which are drawn during a `with` block; elsewhere they are invisible.

    By default they show the steps done of all and the time left. Each task has the field `figures`.
    """
    console = Console()
    counted = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = columns or (*counted, TextColumn("{task.fields[figures]}"))
    return Progress(*shown, console=console, refresh_per_second=5, transient=True, disable=not console.is_terminal)


class RunDisplay(Reporter):
    """One run: a bar over its steps on a terminal, else a line for each epoch. Everything begins with `label`.

    `beside` is given the cost of the first of several epochs; the sentence that it returns is printed.
    """

    def __init__(
        self, spec: Experiment, progress: Progress, label: str = "", beside: Callable[[float], str] = lambda _: ""
    ) -> None:
        self.epochs, self.progress, self.label, self.beside = spec.training.epochs, progress, label, beside
        self.task = progress.add_task("", total=None, visible=False, figures="")
        self.began, self.done = time.perf_counter(), 0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self.began, self.done = time.perf_counter(), self.epochs * done // steps
        say(f"{self.label}run {run_id}: {steps:,} steps" + (f", {done:,} of them done before" if done else ""))
        self.progress.update(self.task, total=steps, completed=done, visible=True)
        self._show(self.done)

    def phase(self, text: str) -> None:
        self.progress.update(self.task, description=f"{self.label}{text}", figures="", visible=True)
        self.progress.refresh()

    def tell(self, text: str) -> None:
        say(f"{self.label}note: {text}", error=True)

    def step(self, count: int = 1) -> None:
        self.progress.advance(self.task, count)

    def epoch(self, number: int, row: dict[str, float]) -> None:
        self._show(number, f"cost {row[names.COST]:.2f}  {row[names.IMAGES_PER_SECOND]:,.0f} images/s")
        if not self.progress.console.is_terminal:
            left = (time.perf_counter() - self.began) / (number - self.done) * (self.epochs - number)
            say(
                f"{self.label}epoch {number:4d}/{self.epochs}  cost {row[names.COST]:9.4f}  reconstruction "
                f"{row[names.RECONSTRUCTION]:9.4f}  KL {row[names.KL]:8.4f}  held-out "
                f"{row[names.HELDOUT_NEG_ELBO]:9.4f}  {row[names.IMAGES_PER_SECOND]:7,.0f} images/s  "
                f"{duration(left)} left"
            )
        if number == 1 < self.epochs and (sentence := self.beside(row[names.COST])):
            say(sentence)

    def _show(self, done: int, figures: str = "") -> None:
        shown = f"{self.label}epoch {min(done + 1, self.epochs)}/{self.epochs}"
        self.progress.update(self.task, description=shown, figures=figures)
        self.progress.refresh()


class SeedsDisplay:
    """`seeds` seeds, each of `steps` steps: a row for each and one for them all on a terminal, else plain lines."""

    def __init__(self, spec: Experiment, seeds: int, steps: int, progress: Progress) -> None:
        self.spec, self.seeds, self.steps, self.progress, self.ended = spec, seeds, steps, progress, 0
        self.all = progress.add_task(f"0 of {seeds} seeds", total=seeds * steps, figures="starting processes")
        self._rows: dict[int, RunDisplay] = {}

    def pass_on(self, seed: int, call: Callable[[RunDisplay], None]) -> None:
        """Call a method of a seed's display."""
        if seed not in self._rows:
            self._rows[seed] = RunDisplay(self.spec, self.progress, f"seed {seed}  ")
        call(self._rows[seed])
        self._show()

    def end(self, result: RunResult) -> None:
        """Remove the row of a seed that has ended, and print its result."""
        if result.seed in self._rows:
            self.progress.remove_task(self._rows.pop(result.seed).task)
        self.ended += 1
        self._show()
        if result.status == "RUNNING":
            say(f"seed {result.seed}: another process trains it, or has trained it")
            return
        if result.status == "FINISHED":
            how = f"in {duration(result.seconds)}, run {result.run_id[:8]}, cost {result.cost:.4f}"
        else:
            how = f"after {plural(result.epochs, 'epoch')}"
        error = f": {result.error}" if result.error else ""
        say(f"seed {result.seed}: {result.status} {how}{error}")

    def _show(self) -> None:
        """Update the row for all seeds. A seed that has ended has no steps left."""
        trained = sum(task.completed for task in self.progress.tasks if task.id != self.all)
        title, completed = f"{self.ended} of {self.seeds} seeds", self.ended * self.steps + trained
        self.progress.update(self.all, description=title, completed=completed, figures="")


def conclude(result: RunResult, experiment: str, beside: str = "") -> None:
    """Print a run's result, how it compares with the reported costs, what to do next, and where the weights are.

    `experiment` is its name or file; `beside` is a sentence on the last epoch.
    """
    took = duration(result.seconds)
    if result.status != "FINISHED":
        say(f"run {result.run_id} {result.status} after {plural(result.epochs, 'epoch')} and {took}: {result.error}")
        say(_remedy(result, experiment))
        return
    say(f"\nrun {result.run_id} FINISHED in {took}")
    say(f"  training cost, last epoch  {result.cost:10.4f} nats per image")
    _say_comparison([result], result.reasons)
    if beside:
        say(f"  {beside}")
    if result.test_neg_elbo is not None:
        say(f"  test negative ELBO         {result.test_neg_elbo:10.4f} nats per image")
    if result.error:
        say(f"error: {result.error}", error=True)
    waiting = run_dir.path(result.run_id) / "files" / names.WEIGHTS_FILE  # to be delivered
    weights = str(waiting) if waiting.exists() else artifacts.place(result.run_id, names.WEIGHTS_FILE)
    say_next(experiment, result.run_id)
    say(f"weights: {weights}")


def _remedy(result: RunResult, experiment: str) -> str:
    """Return the command that may help after a run that did not finish."""
    if result.cause != "not finite":
        return f"go on: python -m repro resume {result.run_id}"
    lower = f"optim.lr={run_dir.load_config(result.run_id).spec.optim.lr / 10:g}"
    again = f"python -m repro run {shlex.quote(experiment)} --seed {result.seed} --set {lower}"
    return f"resumed, it would diverge at the same step; a lower learning rate may help: {again}"


def say_next(experiment: str, run_id: str) -> None:
    """Print three commands for what a person does after a run of an experiment, a name or a file."""
    say(
        f"compare: python -m repro compare {shlex.quote(experiment)}",
        "look:    python -m repro ui",
        f"draw:    python -m repro evaluate {run_id[:8]} --measure latents",
    )


def conclude_seeds(runs: Sequence[RunResult], experiment: str, reasons: Sequence[str]) -> None:
    """Print a table of the seeds' runs, the mean of their costs and its sample standard deviation, nats per image.

    `experiment` is a name or a file. `reasons` are why the cost may not be compared with the reported one; empty if it
    may.
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
    _say_comparison(finished, reasons)
    if finished:
        say_next(experiment, finished[0].run_id)


def _say_comparison(runs: Sequence[RunResult], reasons: Sequence[str]) -> None:
    """Print each reported cost whose epoch all runs have reached, and how far their mean is from it, or why not."""
    if reasons:
        say(f"  NOT COMPARABLE with the reported cost: {'; '.join(reasons)}")
        return
    for each in zip(*(run.reported for run in runs), strict=False):
        difference = fmean(run.difference for run in each)
        say(f"  reported at epoch {each[0].epoch:<8d} {each[0].reported:10.4f}  difference {difference:+.4f}")
