"""Progress display of a sweep: on a terminal a row for each trial that runs and one for all trials; else nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from optuna.trial import TrialState
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from repro.runs.progress import bars
from repro.sweep.study import Study
from repro.terminal import duration, say

Message = str | partial[None]
"""A line to print, or a call of a method of SweepDisplay."""
Show = Callable[[partial[None]], None]


@dataclass(frozen=True)
class Outlook:
    """How many trials are complete or pruned, of how many there are to be; the best value and the time left."""

    ended: int
    total: int
    figures: str


def outlook(study: Study, count: int, until: float | None) -> Outlook:
    """Return how far a study is, if there are to be `count` trials and none begins after `until`.

    The time left is estimated for this worker and those that have a trial at the moment.
    """
    ended, best = study.trials(TrialState.COMPLETE, TrialState.PRUNED), study.best()
    tried = len(study.trials()) - len(study.trials(TrialState.FAIL))
    total = tried if study.terms.sampler == "grid" else max(count, tried)
    figures = [f"best {best[0].value:.4f}, trial {best[0].number}"] if best else []
    seconds = [trial.duration.total_seconds() for trial in ended if trial.duration]
    missing = total - len(ended)
    if seconds and missing:
        workers = min(missing, 1 + len(study.trials(TrialState.RUNNING)))
        left = fmean(seconds) * missing / workers
        left = min(left, max(0.0, until - time.time())) if until else left
        figures.append(f"about {duration(left)} left")
    return Outlook(len(ended), total, "; ".join(figures))


def rows() -> Progress:
    """Return the rows of a terminal, which are drawn during a `with` block; elsewhere they are invisible."""
    return bars(TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[figures]}"))


class SweepDisplay:
    """The rows of a sweep. `receive` is given what the workers send, from this process or another."""

    def __init__(self, progress: Progress, begun: Outlook, text: str = "") -> None:
        """`text` is shown until the first trial begins."""
        self.progress, self.all, self.last = progress, progress.add_task("", figures=""), begun
        self._trials: dict[int, TaskID] = {}
        self._show_all(text)

    def receive(self, message: Message) -> None:
        if isinstance(message, str):
            say(message)
        else:
            message(self)

    def trial(self, number: int, done: float, figures: str) -> None:
        """Show a trial of which a part `done` is trained, from 0 to 1."""
        if number not in self._trials:
            self._trials[number] = self.progress.add_task(f"trial {number}", total=1, figures="")
            self._show_all()
        self.progress.update(self._trials[number], completed=done, figures=figures)

    def end(self, number: int, now: Outlook | None = None) -> None:
        """Remove the row of a trial; show how far the study is now."""
        if number in self._trials:
            self.progress.remove_task(self._trials.pop(number))
        self.last = now or self.last
        self._show_all()

    def _show_all(self, text: str = "") -> None:
        title, figures = f"{self.last.ended} of {self.last.total} trials", text or self.last.figures
        ended, total = self.last.ended, self.last.total
        self.progress.update(self.all, description=title, completed=ended, total=total, figures=figures)
