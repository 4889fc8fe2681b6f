"""`sweep run`: makes the study and its parent run, starts workers, and prints the best settings."""

import io
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from functools import partial

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib import rc_context
from optuna.trial import TrialState
from optuna.visualization import matplotlib as visualization

from repro import names
from repro.data import Dataset
from repro.errors import ReproError
from repro.runs import progress, run_dir, runner
from repro.runs.config import RunConfig
from repro.runs.estimate import estimate
from repro.runs.parallel import Channel, run_all
from repro.signals import Interrupted, interruptible
from repro.spec import Data
from repro.sweep import space as spaces
from repro.sweep.address import address, shown
from repro.sweep.display import Message, Show, SweepDisplay, outlook, rows
from repro.sweep.objective import Objective, StopOptimizeError, TrialFailedError, with_values
from repro.sweep.storage import Storage
from repro.sweep.study import OPEN, REASON, Study, Sweep, all_studies, join, runs_of
from repro.terminal import phase, say
from repro.text import plural
from repro.tracking import artifacts, parents
from repro.tracking.store import StoreError, ask_again

HOLDOUT = 5000  # images that are taken out of training if the experiment holds out none
FAILURES_IN_A_ROW = 3  # trials, after which a worker stops
PAUSE = 1.0  # seconds between two looks for a trial to begin
PLOTS = ("optimization_history", "param_importances", "slice", "contour", "parallel_coordinate", "edf",
         "intermediate_values")  # fmt: skip


def run(sweep: Sweep, jobs: int) -> int:
    """Run trials until there are as many as asked for; return the exit code. Given again, it goes on.

    `sweep.config` is the experiment's own, and `sweep.terms` lack the fingerprint of the data. Raises UsageError for
    terms that cannot be, DataError, StorageError and StoreError.
    """
    sweep, dataset = _with_data(sweep)
    with phase("opening the study and the tracking store"):
        storage = Storage(sweep.storage, sweep.terms.heartbeat)
        study = join(storage, sweep.study, sweep.terms, partial(_start_parent, sweep))
    if sweep.terms.sampler == "grid":
        study.queue_grid(sweep.space, sweep.trials)
    _announce(sweep, study.storage.shown, dataset)
    say(f"trials: {study.count() or 'none yet'}")
    code = 0
    if study.is_done(sweep.trials):
        tried = len(study.trials()) - len(study.trials(TrialState.FAIL))
        more = "it has tried all combinations" if tried < sweep.trials else f"--trials {2 * tried} would add to them"
        say(f"study {study.name!r} has its {tried} trials; {more}")
    else:
        _show(study, "RUNNING")
        code = _run_workers(study, sweep, {sweep.config.spec.data: dataset}, jobs)
    return _conclude(study, sweep, code)


def forecast(sweep: Sweep, jobs: int) -> int:
    """Print which trials `run` would begin, and how long they would take at most; return the exit code, 0.

    The study is looked up and not made. Raises as `run` does.
    """
    sweep, dataset = _with_data(sweep)
    study, terms = all_studies(sweep.storage).get(sweep.study), sweep.terms
    if study:
        study.require(terms)
    _announce(sweep, shown(address(sweep.storage)), dataset)
    tried = len(study.trials()) - len(study.trials(TrialState.FAIL, *OPEN)) if study else 0
    most = min(sweep.trials, len(spaces.cells(sweep.space))) if terms.sampler == "grid" else sweep.trials
    say(f"trials: {(study and study.count()) or 'none yet'}; {max(0, most - tried)} left, of which the pruner may end "
        "some early")  # fmt: skip
    runs = max(0, most - tried) * terms.seeds_per_trial
    with phase("timing a few steps"):
        found = estimate(sweep.config, dataset)
    progress.forecast(found, terms.epochs, runs, jobs)
    return 0


def _with_data(sweep: Sweep) -> tuple[Sweep, Dataset]:
    """Load the data; return the sweep with their fingerprint, and with the configuration of a trial."""
    config, dataset = load_data(sweep.config)
    config = replace(with_values(config, {"training.epochs": sweep.terms.epochs}), trial=True)
    return replace(sweep, config=config, terms=replace(sweep.terms, fingerprint=dataset.fingerprint)), dataset


def load_data(config: RunConfig) -> tuple[RunConfig, Dataset]:
    """Hold out training images to choose by, if the experiment holds out none, and load the data.

    The configuration that is returned looks no further for the data if only a stand-in was found.
    """
    if not config.spec.data.holdout:
        config = with_values(config, {"data.holdout": HOLDOUT})
    with phase("reading the data"):
        dataset = config.load_data()
    return replace(config, data="stand-in") if dataset.status == "stand-in" else config, dataset


def work(sweep: Sweep, datasets: dict[Data, Dataset], check_stop: Callable[[], None], show: Show) -> int:
    """Run trials in this process until none is left to begin, here or in place of a dead worker; return the exit code.

    `show` is given calls of methods of SweepDisplay. Raises Interrupted, and StorageError and StoreError if a store
    does not answer for long.
    """
    study = Study(Storage(sweep.storage, sweep.terms.heartbeat), sweep.study)
    objective = Objective(study, sweep, datasets, check_stop, show)
    told = False
    while sweep.until is None or time.time() < sweep.until:
        check_stop()
        try:
            begun = study.storage.patiently(lambda: _run_trial(study, objective, sweep.trials))
        except StopOptimizeError as stop:
            if stop.error:
                raise stop.error from None
            continue
        if objective.failures == FAILURES_IN_A_ROW:
            say(f"{FAILURES_IN_A_ROW} trials in a row have failed; this worker stops", error=True)
            return 1
        if begun:
            continue
        others = len(study.trials(TrialState.RUNNING))
        if not others:
            break
        if not told:
            say(f"nothing left to begin; {plural(others, 'trial')} of other workers still running, to be taken up if "
                "they go silent")  # fmt: skip
        told = True
        time.sleep(PAUSE)
    return 0


def _run_trial(study: Study, objective: Objective, count: int) -> bool:
    """Run the next trial; return False if there is none to begin."""
    with study.claim(count) as free:
        if free:
            study.optuna.optimize(objective, n_trials=1, catch=(TrialFailedError,), callbacks=[objective.ended])
    return free


def _run_workers(study: Study, sweep: Sweep, datasets: dict[Data, Dataset], jobs: int) -> int:
    """Run workers until no trial is left; return the exit code of the worst."""
    with rows() as progress:
        begun = outlook(study, sweep.trials, sweep.until)
        if jobs > 1:
            return _run_children(sweep, SweepDisplay(progress, begun, f"loading PyTorch in {jobs} workers"), jobs)
        display = SweepDisplay(progress, begun)
        try:
            with interruptible() as check_interrupt:
                return work(sweep, datasets, check_interrupt, display.receive)
        except Interrupted as stop:
            return stop.exit_code


def _run_children(sweep: Sweep, display: SweepDisplay, jobs: int) -> int:
    worst = 0

    def on_end(number: int, exit_code: int | None, _stopped: bool) -> None:
        nonlocal worst
        if exit_code is not None and exit_code < 0:
            say(f"worker {number} was ended by signal {-exit_code}; the others go on with its trial", error=True)
            exit_code = 1
        worst = max(worst, exit_code or 0)

    task = partial(_work_in_child, sweep)
    return run_all(task, range(jobs), jobs, on_end, lambda _, message: display.receive(message)) or worst


class _Lines(io.TextIOBase):
    """A stream that sends each line to the parent process, which alone prints."""

    def __init__(self, channel: Channel[Message]) -> None:
        self.channel, self._begun = channel, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.channel.send(line)
        return len(text)


def _work_in_child(sweep: Sweep, _: int, channel: Channel[Message]) -> None:
    try:
        with redirect_stdout(_Lines(channel)):
            code = work(sweep, {}, channel.check_stop, channel.send)
    except ReproError as error:
        say(*(f"error: {line}" for line in str(error).splitlines()), error=True)
        code = error.exit_code
    sys.exit(code)


def _conclude(study: Study, sweep: Sweep, code: int) -> int:
    """Deliver what the tracking store lacks, update the parent run, and print the best settings."""
    with phase("delivering to the tracking store"):
        _deliver(study)
        failed = "failed" in study.states()
        done = study.is_done(sweep.trials)
        if done or not study.trials(TrialState.RUNNING):
            _show(study, "FINISHED" if done else "KILLED")
    if done:
        with phase("drawing the plots of the study"), survive_store():
            artifacts.log_files(study.parent, plots(study.optuna), "figures")
    say(f"\nstudy {study.name}: {study.count() or 'no trials'}")
    best = study.best()
    if best:
        value, settings = best[0].value, spaces.shown(best[0].params)
        say(f"  best: trial {best[0].number}, held-out {value:.4f} nats per image, {settings}")
        say(f"  that is the best of {len(best)}, chosen for being low; how it fares on test images, with fresh seeds:")
        say(f"  {_retrain_command(study, sweep)}")
    if code >= 128 or not done:
        say("go on: the same command again")
    return code or int(failed)


def plots(study: optuna.Study) -> dict[str, bytes]:
    """Return the plots that the study has enough trials for, by file name."""
    plt.switch_backend("agg")
    found = {}
    for name in PLOTS:
        with warnings.catch_warnings(), rc_context():  # Optuna sets a style for the whole process
            warnings.simplefilter("ignore")
            try:
                axes, out = np.ravel(getattr(visualization, f"plot_{name}")(study)), io.BytesIO()
                axes[0].figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
                found[f"{name}.png"] = out.getvalue()
            except (ValueError, RuntimeError):
                pass  # too few trials, or all alike
        plt.close("all")
    return found


def _retrain_command(study: Study, sweep: Sweep) -> str:
    """Return the command that retrains the best settings, without a password."""
    config = sweep.config
    words = ["sweep", "retrain", config.experiment, "--study", study.name]
    words += ["--storage", study.storage.shown] if sweep.storage else []
    words += ["--data", config.data] if config.data != "auto" else []
    words += ["--data-dir", str(config.data_dir)] if config.data_dir else []
    return shlex.join(["python", "-m", "repro", *words])


def _start_parent(sweep: Sweep, begun: str) -> str:
    params = {f"space.{key}": str(each) for key, each in sweep.space.items()}
    for key in ("experiment", "epochs", "seeds_per_trial", "sampler", "pruner", names.SEED):
        params[key] = str(getattr(sweep.terms, key))
    return parents.start_sweep(sweep.terms.experiment, sweep.study, params, begun)


def _announce(sweep: Sweep, storage: str, dataset: Dataset) -> None:
    terms = sweep.terms
    length, seeds = plural(terms.epochs, "epoch"), plural(terms.seeds_per_trial, "seed")
    say(
        f"study {sweep.study} of {terms.experiment}: {', '.join(f'{key}={each}' for key, each in sweep.space.items())}",
        f"trials of {length}, {seeds} each, sampler {terms.sampler}, pruner {terms.pruner}, in {storage}",
        f"data: {dataset.name}, {dataset.status}, {dataset.origin}; chosen by {len(dataset.heldout):,} held-out images",
    )
    if dataset.status == "stand-in":
        say("*** STAND-IN DATA: what is best here says nothing about the real data set. ***")


def _show(study: Study, status: str) -> None:
    best = study.best()
    values = {"trial": best[0].number, "value": best[0].value} | best[0].params if best else {}
    tags = {f"{names.BEST}{key}": str(value) for key, value in values.items()}
    with survive_store():
        parents.show_best(study.parent, status, tags, best[0].value if best else None, len(best))


def _deliver(study: Study) -> None:
    """Send what the store lacks of this machine's runs; end the runs of trials that failed with their workers."""
    ask_again()
    for trial, state in zip(study.trials(), study.states(), strict=True):
        for run_id in runs_of(trial):
            if run_dir.exists(run_id):
                with suppress(run_dir.BusyError):
                    runner.deliver(run_id, say)
            if state == "failed" and REASON not in trial.user_attrs:
                with survive_store():
                    parents.end(run_id, "failed", "its workers died")


@contextmanager
def survive_store() -> Iterator[None]:
    """Print that the tracking store does not answer, and go on."""
    try:
        yield
    except StoreError as error:
        say(f"note: {error}", error=True)
