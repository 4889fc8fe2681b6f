"""One trial: a short run of each of its seeds, which is stopped early where other trials do better."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import optuna
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState

from repro import names
from repro.data import Dataset
from repro.errors import ReproError
from repro.runs import run_dir, runner
from repro.runs.config import RunConfig
from repro.runs.parallel import POLL
from repro.runs.result import PrunedError
from repro.signals import Interrupted
from repro.spec import Data, overrides, ranges
from repro.sweep import space as spaces
from repro.sweep.display import Show, SweepDisplay, outlook
from repro.sweep.storage import StorageError, patiently
from repro.sweep.study import REASON, RUN, STATES, Study, Sweep, runs_of
from repro.terminal import duration, say
from repro.text import plural
from repro.tracking import parents
from repro.tracking.store import StoreError
from repro.tracking.writer import RunWriter

SAY_EVERY = 30.0  # seconds between two lines on how a trial goes


class TrialFailedError(ReproError):
    """A trial's run failed."""


class StopOptimizeError(BaseException):
    """Ends `study.optimize`, which catches every Exception, without an outcome of the trial.

    `error` is why, or None if another worker has the trial by now.
    """

    def __init__(self, error: BaseException | None) -> None:
        super().__init__(str(error))
        self.error = error


class Objective:
    """What `study.optimize` calls for each trial. `failures` counts the trials in a row that failed."""

    def __init__(
        self, study: Study, sweep: Sweep, datasets: dict[Data, Dataset], check_stop: Callable[[], None], show: Show
    ) -> None:
        """`datasets` are those that are loaded already; `check_stop` raises Interrupted if the worker is to stop."""
        self.study, self.sweep, self.datasets, self.check_stop, self.show = study, sweep, datasets, check_stop, show
        self.failures = 0

    def __call__(self, trial: Trial) -> float:
        """Train a trial; return its value, the mean held-out negative ELBO of its seeds in nats per image.

        Raises TrialPruned, TrialFailedError, and StopOptimizeError with an Interrupted or a StoreError after handing
        the trial back, with a StorageError, and with None if another worker has the trial by now.
        """
        try:
            self.study.storage.patiently(lambda: self.study.begin(trial, self.sweep.space))
            say(f"trial {trial.number}: {spaces.shown(trial.params)}")
            return self._train_seeds(trial)
        except UpdateFinishedTrialError:
            self._abandon(trial)
            raise StopOptimizeError(None) from None
        except (Interrupted, StoreError) as error:
            self.study.hand_back(trial)
            raise StopOptimizeError(error) from None
        except StorageError as error:
            raise StopOptimizeError(error) from None

    def ended(self, _: optuna.Study, trial: FrozenTrial) -> None:
        """Say how a trial went, and remove its checkpoints. A callback of `study.optimize`."""
        for run_id in here(trial):
            shutil.rmtree(run_dir.checkpoints(run_id), ignore_errors=True)
        complete, failed = trial.state == TrialState.COMPLETE, trial.state == TrialState.FAIL
        self.failures = self.failures + 1 if failed else 0
        value = f", held-out {trial.value:.4f} nats" if complete else ""
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
        reason = f": {trial.user_attrs[REASON]}" if REASON in trial.user_attrs else ""
        now = outlook(self.study, self.sweep.trials, self.sweep.until)
        self.show(partial(SweepDisplay.end, number=trial.number, now=now))
        say(f"trial {trial.number}: {STATES[trial.state]}{value} in {duration(seconds)}{reason}")
        say("; ".join(filter(None, (f"  {now.ended} of {plural(now.total, 'trial')}", now.figures))))

    def _train_seeds(self, trial: Trial) -> float:
        values: list[float] = []
        state, reason = TrialState.COMPLETE, ""
        first = self.study.terms.seed
        for seed in range(first, first + self.study.terms.seeds_per_trial):
            try:
                values.append(self._train(trial, seed, values))
            except (StoreError, StorageError):
                raise
            except (TrialPruned, ReproError, OSError) as error:
                state = TrialState.PRUNED if isinstance(error, TrialPruned) else TrialState.FAIL
                reason = str(error)
                break
        tags = {names.TRIAL_STATE: STATES[state]} | ({names.ERROR: reason} if reason else {})
        for run_id in here(trial):
            tag(run_id, tags)
        if reason:
            self.study.storage.patiently(lambda: trial.set_user_attr(REASON, reason))
        if self.study.trials()[trial.number].state.is_finished():
            raise UpdateFinishedTrialError
        if state == TrialState.PRUNED:
            raise TrialPruned(reason)
        if state == TrialState.FAIL:
            raise TrialFailedError(reason)
        return fmean(values)

    def _train(self, trial: Trial, seed: int, values: list[float]) -> float:
        """Train one seed, from where an earlier worker left it; return its held-out cost, nats per image.

        `values` are those of the seeds before. Raises TrialPruned and TrialFailedError if the run has no final cost.
        """
        config = replace(with_values(self.sweep.config, trial.params), seed=seed)
        if config.spec.data not in self.datasets:
            self.datasets[config.spec.data] = config.load_data()
        dataset = self.datasets[config.spec.data]
        run_id = self._resume(trial, seed) or self._begin(trial, config, dataset)
        result = run_dir.load_result(run_id)
        if not result:
            result = runner.run(run_id, config, dataset, _Reporter(self, trial, values))
        if result.cause == "interrupted":
            tag(run_id, {names.TRIAL_STATE: "waiting"})
            raise Interrupted(result.exit_code - 128)
        if result.cause in ("pruned", "not finite"):
            raise TrialPruned(result.error)
        if result.status != "FINISHED" or result.heldout_neg_elbo is None:
            raise TrialFailedError(str(result.error))
        return result.heldout_neg_elbo

    def _resume(self, trial: Trial, seed: int) -> str:
        """Return the run that an earlier worker left of this seed, if its directory is here and free; else ""."""
        run_id: str = trial.user_attrs.get(f"{RUN}{seed}", "")
        if not run_id or not run_dir.exists(run_id):
            return ""
        try:
            with run_dir.locked(run_id):
                tag(run_id, {names.TRIAL: str(trial.number), names.TRIAL_STATE: "running"})
                tag(run_id, {names.RUN_NAME: self._run_name(trial, seed)})  # MLflow has a transaction of its own for it
        except run_dir.BusyError:  # its worker is silent, and may wake up
            return ""
        return run_id

    def _begin(self, trial: Trial, config: RunConfig, dataset: Dataset) -> str:
        """Start a new run, and end those that earlier workers left of this seed."""
        study, seed = self.study, config.seed
        earlier = RetryHeartbeatStaleTrialCallback.retry_history(study.trials()[trial.number])
        if earlier:
            patiently(lambda: parents.abandon(study.terms.experiment, study.name, earlier, seed), (StoreError,))
        tags = {names.PARENT: study.parent, names.SWEEP: study.name}
        tags |= {
            names.TRIAL: str(trial.number),
            names.TRIAL_STATE: "running",
            names.RUN_NAME: self._run_name(trial, seed),
        }
        experiment = parents.mlflow_experiment(study.terms.experiment)
        run_id = patiently(lambda: runner.begin(config, dataset, experiment, tags), (StoreError,))
        study.storage.patiently(lambda: trial.set_user_attr(f"{RUN}{seed}", run_id))
        return run_id

    def _run_name(self, trial: Trial, seed: int) -> str:
        return f"trial {trial.number}" + (f" seed {seed}" if self.study.terms.seeds_per_trial > 1 else "")

    def _abandon(self, trial: Trial) -> None:
        """End this worker's runs of a trial that another worker has by now, unless that worker goes on with them."""
        reason = f"trial {trial.number} was given to another worker, since this one was silent for too long"
        say(f"note: {reason}", error=True)
        self.show(partial(SweepDisplay.end, number=trial.number))
        for run_id in here(trial):
            with suppress(run_dir.BusyError, StoreError), run_dir.locked(run_id):
                parents.end(run_id, "abandoned", reason)


class _Reporter(runner.Reporter):
    """A Reporter that reports each epoch's held-out cost to the study, which may prune the trial."""

    def __init__(self, objective: Objective, trial: Trial, values: list[float]) -> None:
        self.study, self.trial, self.values = objective.study, trial, values
        self.check_stop, self.show = objective.check_stop, objective.show
        self._steps, self._done, self._figures = 1, 0, ""
        self.reported = self.study.trials()[trial.number].last_step or 0  # also by earlier workers
        self._next_line, self._next_check = time.monotonic() + SAY_EVERY, 0.0

    def started(self, run_id: str, steps: int, done: int) -> None:
        self._steps, self._done = steps, done
        self._figures = f"epoch {self.study.terms.epochs * done // steps + 1}/{self.study.terms.epochs}"

    def phase(self, text: str) -> None:
        self._figures = text
        self._show()

    def tell(self, text: str) -> None:
        say(f"trial {self.trial.number}: note: {text}")

    def step(self, count: int = 1) -> None:
        self._done += count
        if time.monotonic() >= self._next_check:
            self._show()
            self.check_stop()
            self._next_check = time.monotonic() + POLL

    def epoch(self, number: int, row: dict[str, float]) -> None:
        terms, storage, heldout = self.study.terms, self.study.storage, row[names.HELDOUT_NEG_ELBO]
        step, value = len(self.values) * terms.epochs + number, fmean([*self.values, heldout])
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SAY_EVERY
            say(f"trial {self.trial.number}: epoch {number}/{terms.epochs}, held-out {heldout:.2f}")
        self._figures = f"epoch {min(number + 1, terms.epochs)}/{terms.epochs}, held-out {heldout:.2f}"
        if step <= self.reported:
            return
        try:
            storage.patiently(lambda: self.trial.report(value, step))
            last = step == terms.epochs * terms.seeds_per_trial
            prune = not last and storage.patiently(self.trial.should_prune)
        except StorageError as error:
            raise StopOptimizeError(error) from None
        if prune:
            raise PrunedError(f"pruned after epoch {number} at {value:.2f} nats: other trials were lower by then")

    def _show(self) -> None:
        done = (len(self.values) + self._done / self._steps) / self.study.terms.seeds_per_trial
        self.show(partial(SweepDisplay.trial, number=self.trial.number, done=done, figures=self._figures))


def with_values(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """Return a configuration with values by dotted key, such as a trial's. Raises UsageError if they cannot be."""
    assignments = [ranges.assignment(key, value) for key, value in values.items()]
    spec = overrides.apply(config.spec, assignments)
    return replace(config, spec=spec, assignments=(*config.assignments, *assignments))


def here(trial: Trial | FrozenTrial) -> list[str]:
    """Return the ids of those of a trial's runs that have a directory on this disk."""
    return [run_id for run_id in runs_of(trial) if run_dir.exists(run_id)]


def tag(run_id: str, tags: dict[str, str]) -> None:
    """Set tags of a run; a tracking store that does not answer is given them by a later `sync`."""
    writer = RunWriter(run_id, run_dir.path(run_id))
    writer.tags(tags)
    writer.deliver()
