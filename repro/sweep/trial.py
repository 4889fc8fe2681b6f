"""One trial: a short run of each of its seeds, watched, and stopped early where other trials do better."""

import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from statistics import fmean
from typing import Any, TypeVar

from optuna.trial import FrozenTrial, Trial, TrialState

from repro import names
from repro.data import Dataset
from repro.errors import ReproError
from repro.names import Status
from repro.runs import run_dir, runner
from repro.runs.config import RunConfig
from repro.runs.result import PrunedError, RunResult
from repro.signals import Interrupted
from repro.spec import Data, Space, overrides
from repro.sweep import space as spaces
from repro.sweep.storage import StorageError
from repro.sweep.study import ATTEMPTS, RUN, SECONDS, LostError, Study
from repro.tracking import sweeps
from repro.tracking.outbox import Outbox
from repro.tracking.store import StoreError
from repro.tracking.writer import LAST_ATTEMPTS, RunWriter

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}
"""What a trial's states are called here, and in the tag of its run."""
PAUSES = (2.0, 5.0, 10.0, 20.0, 40.0)  # seconds between attempts while the tracking store is away
TELL_EVERY = 30.0  # seconds between two words on how a trial goes

T = TypeVar("T")


@dataclass
class Bench:
    """What all trials of a worker share: the experiment, the data once loaded, and how to compute."""

    config: RunConfig
    assignments: tuple[str, ...]  # what holds for every trial
    space: Space
    owner: str
    say: Callable[[str], None]
    loaded: dict[Data, Dataset]

    def run(self, values: dict[str, Any], seed: int) -> tuple[RunConfig, Dataset]:
        """What to train for these values, and on which data. Raises UsageError if that cannot be."""
        assignments = (*self.assignments, *spaces.assignments(values))
        spec = overrides.apply(self.config.spec, assignments)
        config = replace(self.config, spec=spec, assignments=assignments, seed=seed, trial=True)
        if spec.data not in self.loaded:
            self.loaded[spec.data] = config.load_data()
        return config, self.loaded[spec.data]


def work(study: Study, trial: Trial, bench: Bench) -> TrialState:
    """Train a trial to its end and record what came of it.

    Raises Interrupted and StoreError after giving the trial back; LostError if another worker has it by now, and
    StorageError if the studies do not answer for long.
    """
    began, before = time.perf_counter(), float(trial.user_attrs.get(SECONDS, 0.0))
    try:
        with study.storage.alive(trial._trial_id):  # to the last, since a tracking store that is away takes its time
            state, value, reason = _seeds(study, trial, bench)
            tags = {names.TRIAL_STATE: STATES[state]} | ({names.ERROR: reason} if reason else {})
            for run_id in _here(trial):
                _tag(run_id, tags)
            study.end(trial, bench.owner, state, value, reason, before + time.perf_counter() - began)
    except (Interrupted, StoreError):
        with suppress(LostError):
            study.give_back(trial, bench.owner, before + time.perf_counter() - began)
        raise
    except LostError:
        _leave(study, trial)
        raise
    for run_id in _here(trial):
        shutil.rmtree(run_dir.checkpoints(run_id), ignore_errors=True)
    return state


def _here(trial: Trial) -> list[str]:
    """A trial's runs whose folders are on this disk."""
    return [run_id for run_id in runs_of(trial) if run_dir.exists(run_id)]


def _leave(study: Study, trial: Trial) -> None:
    """End this worker's runs of a trial that is another's by now, save those with which that one has gone on."""
    now = study.trials()[trial.number]
    for run_id in _here(trial):
        if now.state.is_finished() and run_id in runs_of(now):
            continue
        with suppress(run_dir.BusyError), run_dir.locked(run_id):
            _tag(run_id, {names.TRIAL_STATE: "abandoned"}, "KILLED")


def runs_of(trial: Trial | FrozenTrial) -> list[str]:
    """Ids of a trial's runs, one for each seed that it has begun."""
    return [run_id for key, run_id in trial.user_attrs.items() if key.startswith(RUN)]


def _seeds(study: Study, trial: Trial, bench: Bench) -> tuple[TrialState, float | None, str]:
    """State, mean held-out negative ELBO and reason of a trial: its seeds one after the other."""
    values: list[float] = []
    for seed in range(study.terms.seed, study.terms.seed + study.terms.seeds_per_trial):
        try:
            summary = _train(study, trial, seed, values, bench)
        except (StoreError, StorageError, LostError):
            raise
        except (ReproError, OSError) as error:
            return TrialState.FAIL, None, str(error)
        if summary.status != "FINISHED" or summary.heldout_neg_elbo is None:
            early = summary.cause in ("pruned", "not finite")
            return TrialState.PRUNED if early else TrialState.FAIL, None, str(summary.error)
        values.append(summary.heldout_neg_elbo)
    return TrialState.COMPLETE, fmean(values), ""


def _train(study: Study, trial: Trial, seed: int, values: list[float], bench: Bench) -> RunResult:
    """A run of the trial, from where an earlier worker has left it. `values` are those of the seeds before."""
    config, dataset = bench.run(trial.params, seed)
    run_id = _left(trial, seed)
    if not run_id:
        _patiently(lambda: _abandon(study, trial, seed))
        run_id = _begin(study, trial, config, dataset)
        study.storage.patiently(lambda: trial.set_user_attr(f"{RUN}{seed}", run_id))
    finished = run_dir.load_result(run_id)
    if finished:
        return finished
    watch = _Watch(study, trial, bench, values)
    summary = runner.run(run_id, config, dataset, watch)
    if watch.error:
        raise watch.error
    if summary.cause == "interrupted":
        _tag(run_id, {names.TRIAL_STATE: "waiting"})
        raise Interrupted(summary.exit_code - 128)
    return summary


def _left(trial: Trial, seed: int) -> str:
    """The run of this seed that an earlier worker has left, if its folder is here and nobody holds it; else ""."""
    run_id: str = trial.user_attrs.get(f"{RUN}{seed}", "")
    if not run_id or not run_dir.exists(run_id):
        return ""
    try:
        with run_dir.locked(run_id):
            _tag(run_id, {names.TRIAL_STATE: STATES[TrialState.RUNNING]})
    except run_dir.BusyError:  # by a worker that is silent and may wake up
        return ""
    return run_id


def _begin(study: Study, trial: Trial, config: RunConfig, dataset: Dataset) -> str:
    """Start the run, which waits for a tracking store that is away for a moment."""
    label = f"trial {trial.number}" + (f" seed {config.seed}" if study.terms.seeds_per_trial > 1 else "")
    place = sweeps.place(config.entry.name, study.name, study.parent, trial.number, label)
    return _patiently(lambda: runner.begin(config, dataset, place))


def _patiently(call: Callable[[], T]) -> T:
    """What `call` returns, which is called again while the tracking store does not answer. Raises StoreError."""
    for pause in PAUSES:
        with suppress(StoreError):
            return call()
        time.sleep(pause)
    return call()


def _abandon(study: Study, trial: Trial, seed: int) -> None:
    """End what an earlier worker has left of this trial in the store where its folder is not at hand."""
    if trial.user_attrs.get(ATTEMPTS, 1) == 1 and f"{RUN}{seed}" not in trial.user_attrs:
        return
    for run in sweeps.runs_of(study.terms.experiment, study.name):
        mine = run.tags.get(names.TRIAL) == str(trial.number) and run.params.get(names.SEED, str(seed)) == str(seed)
        if mine and run.tags.get(names.TRIAL_STATE) != "abandoned":
            sweeps.end(run.run_id, "abandoned", "another worker began anew, since it could not get at the checkpoints")


def _tag(run_id: str, tags: dict[str, str], status: Status | None = None) -> None:
    """Set tags of a run, and its status; a store that is away is given them by a later `sync`."""
    writer = RunWriter(run_id, Outbox(run_dir.path(run_id)))
    writer.tags(tags)
    if status:
        writer.status(status)
    writer.deliver(LAST_ATTEMPTS)


class _Watch:
    """A Reporter that passes each epoch's held-out cost on to the study, which may want no more of the trial."""

    def __init__(self, study: Study, trial: Trial, bench: Bench, values: list[float]) -> None:
        self.study, self.trial, self.bench, self.values = study, trial, bench, values
        self._next = time.monotonic() + TELL_EVERY
        self.error: LostError | StorageError | None = None  # what ended the run in `epoch`

    def started(self, run_id: str, steps: int, done: int) -> None:
        pass

    def tell(self, text: str) -> None:
        self.bench.say(f"trial {self.trial.number}: note: {text}")

    def step(self, count: int = 1) -> None:
        pass

    def epoch(self, number: int, row: dict[str, float]) -> None:
        try:
            self._report(number, row)
        except (LostError, StorageError) as error:
            self.error = error
            raise

    def _report(self, number: int, row: dict[str, float]) -> None:
        parent = parent_process()
        if parent is not None and not parent.is_alive():
            raise Interrupted(signal.SIGTERM)
        epochs, heldout = self.study.terms.epochs, row[names.HELDOUT_NEG_ELBO]
        step, value = len(self.values) * epochs + number, fmean([*self.values, heldout])
        storage = self.study.storage
        before = self.study.require_owner(self.trial, self.bench.owner).last_step or 0
        storage.patiently(lambda: self.trial.report(value, step))
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_EVERY
            self.bench.say(f"trial {self.trial.number}: epoch {number}/{epochs}, held-out {heldout:.2f}")
        judged = before <= step < self.study.terms.steps  # what was begun anew, only when it is as far as it was before
        if judged and storage.patiently(self.trial.should_prune):
            raise PrunedError(f"pruned after epoch {number} at {value:.2f} nats: other trials were lower by then")
