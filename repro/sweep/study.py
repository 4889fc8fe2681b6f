"""A study that any number of workers share: what it is of, which trials it has, and who may begin the next."""

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from repro.errors import UsageError
from repro.rng import stream
from repro.runs import ids
from repro.runs.config import RunConfig
from repro.spec import Choice, Space
from repro.sweep import space as spaces
from repro.sweep.address import address
from repro.sweep.storage import Storage
from repro.text import did_you_mean

SamplerName = Literal["tpe", "random", "grid", "gp", "cmaes", "qmc"]
PrunerName = Literal["median", "hyperband", "none"]

TERMS, PARENT = "terms", "mlflow_run_id"  # attributes of a study
INTENDED = "intended_parent"  # of a study: the id by which its parent run is found if no PARENT was noted
OWNER, BEGUN, REASON = "owner", "begun", "reason"  # attributes of a trial: its worker, its number, why it ended early
RUN = "run."  # and a seed: attribute of a trial, its run in the tracking store
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}
"""A trial's states, as they are printed and as they are tags of its runs."""
RETRIED = "retried"  # the state of a trial whose worker ended, and which another trial goes on with or stands for
OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class Terms:
    """What makes two studies the same. `space` is its JSON; `signature` is that of the experiment, before any trial."""

    experiment: str
    signature: str
    fingerprint: str  # of the data
    space: str
    epochs: int
    seeds_per_trial: int
    seed: int
    sampler: SamplerName
    pruner: PrunerName
    heartbeat: int  # seconds; a worker with a shorter one would take the others for dead
    precision: str = "float32"  # in which trials are trained


@dataclass(frozen=True)
class Sweep:
    """What a worker works on."""

    study: str
    storage: str  # address of the studies; "" for the file beside the tracking store
    terms: Terms
    config: RunConfig  # of every trial but for what it draws
    space: Space
    trials: int  # that there are to be in all
    until: float | None  # time.time() after which no trial is begun


Row = dict[str, str | int | float | None]


class Study:
    """A study in a store. Its objective is the mean held-out negative ELBO of a trial's seeds, nats per image."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Load a study. Raises KeyError if there is none, UsageError if it was not made by `sweep`."""
        self.storage, self.name = storage, name
        self._claimed = ExitStack()  # the study's lock, while this worker begins a trial
        self.optuna = optuna.load_study(study_name=name, storage=storage.rdb)
        attributes = self.optuna.user_attrs
        if TERMS not in attributes:
            raise UsageError(f"study {name!r} in {storage.shown} was not made by `sweep`; take another --study NAME")
        self.terms = Terms(**attributes[TERMS])
        self.parent: str = attributes.get(PARENT, "")
        self.optuna.pruner = _pruner(self.terms)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials, in order; only those in one of the states if any are given."""
        return self.storage.patiently(lambda: self.optuna.get_trials(deepcopy=False, states=states or None))

    def best(self) -> list[FrozenTrial]:
        """Return the complete trials, the lowest value first."""
        return sorted(self.trials(TrialState.COMPLETE), key=lambda trial: (trial.values[0], trial.number))

    def states(self) -> list[str]:
        trials = self.trials()
        retried = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        unbegun = {each.number for each in trials if each.state == TrialState.FAIL and not each.params}  # drew nothing
        return [RETRIED if each.number in retried | unbegun else STATES[each.state] for each in trials]

    def count(self) -> str:
        """Return how many trials there are in each state, in words."""
        counted = Counter(self.states())
        return ", ".join(f"{counted[word]} {word}" for word in (*STATES.values(), RETRIED) if counted[word])

    def row(self) -> Row:
        """Return the study as a row of a table."""
        best, counted = self.best(), Counter(self.states())
        return {
            "study": self.name,
            "experiment": self.terms.experiment,
            **{word: counted[word] for word in (*STATES.values(), RETRIED)},
            "best": best[0].value if best else None,
            "trial": best[0].number if best else None,
            "settings": spaces.shown(best[0].params) if best else None,
            "epochs": self.terms.epochs,
            "mlflow_run": self.parent,
        }

    def trial_rows(self) -> list[Row]:
        """Return each trial as a row of a table."""
        return [
            {
                "trial": trial.number,
                "state": state,
                "value": trial.value,
                **{key: trial.params.get(key) for key in json.loads(self.terms.space)},
                "epochs": len(trial.intermediate_values),
                "seconds": trial.duration.total_seconds() if trial.duration else None,
                "reason": trial.user_attrs.get(REASON),
                "worker": trial.user_attrs.get(OWNER),
                "runs": ", ".join(runs_of(trial)) or None,
            }
            for trial, state in zip(self.trials(), self.states(), strict=True)
        ]

    def is_done(self, count: int) -> bool:
        """Whether `count` trials, or all of a grid, are complete or pruned."""
        return not self.trials(*OPEN) and not self._may_begin(count)

    def _may_begin(self, count: int) -> bool:
        if self.trials(TrialState.WAITING):
            return True
        tried = sum(trial.state != TrialState.FAIL for trial in self.trials())
        return tried < count and self.terms.sampler != "grid"

    def require(self, terms: Terms) -> None:
        """Raise UsageError if the study has other terms than these."""
        before, now = asdict(self.terms), asdict(terms)
        changed = [key for key in now if before[key] != now[key]]
        if changed:
            raise UsageError(
                f"study {self.name!r} exists with other terms; go on with those, or take another --study NAME:",
                *(f"  {key.replace('_', ' ')}: was {before[key]}, is {now[key]}" for key in changed),
            )

    def queue_grid(self, space: Space, count: int) -> None:
        """Queue what has not been tried of a grid, so that there are at most `count` trials."""
        kinds: dict[str, BaseDistribution] = {
            key: CategoricalDistribution(each.values) for key, each in space.items() if isinstance(each, Choice)
        }
        with self.storage.locked(self.name):
            tried = [trial.params for trial in self.trials() if trial.state != TrialState.FAIL]
            new = [cell for cell in spaces.cells(space) if cell not in tried][: max(0, count - len(tried))]
            for cell in new:
                self.optuna.add_trial(create_trial(state=TrialState.WAITING, params=cell, distributions=kinds))

    @contextmanager
    def claim(self, count: int) -> Iterator[bool]:
        """Yield whether there is a trial to begin: one that waits, or a new one if fewer than `count` are begun.

        The study's lock, which is held until `begin` or the end of the block, keeps several workers from beginning more
        than `count`. Trials of dead workers are queued again before.
        """
        with self._claimed:
            self._claimed.enter_context(self.storage.locked(self.name))
            fail_stale_trials(self.optuna)
            for trial in self.trials(TrialState.RUNNING):
                begun = trial.user_attrs.get(BEGUN, trial.number) == trial.number and OWNER in trial.user_attrs
                if not begun:  # its worker died under the lock, before the first heartbeat, which Optuna waits for
                    self._retry(trial.number)
            yield self._may_begin(count)

    def begin(self, trial: Trial, space: Space) -> None:
        """Draw what a claimed trial is to try, record this process as its worker, and give the study's lock back."""
        self.optuna.sampler = self._sampler(self.trials()[trial.number])
        spaces.draw(trial, space)
        trial.set_user_attr(OWNER, f"{socket.gethostname()} {os.getpid()}")
        trial.set_user_attr(BEGUN, trial.number)
        self._claimed.close()

    def hand_back(self, trial: Trial) -> None:
        """Queue a trial, which this worker does not finish, for another worker or a later command."""

        def queue_again() -> None:
            with self.storage.locked(self.name):
                if self.trials()[trial.number].state == TrialState.RUNNING:
                    self._retry(trial.number)

        self.storage.patiently(queue_again)

    def _retry(self, number: int) -> None:
        """Fail a trial, and queue another in its place with the same values and attributes."""
        failed = self.optuna.tell(number, state=TrialState.FAIL)
        if failed.params:
            RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(self.optuna, failed)

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of a trial; its seed is made of the study's seed and of how many trials were drawn before.

        So all workers draw different values, and a study that was cut off goes on as if it had not been.
        """
        retried = RetryHeartbeatStaleTrialCallback.retry_history
        drawn = sum(not retried(each) for each in self.trials()[: trial.number])
        purpose, index = ("sampler of a retry", trial.number) if retried(trial) else ("sampler", drawn)
        seed = stream(purpose, self.terms.seed, index).initial_seed() % 2**32
        match self.terms.sampler:
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=10)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=10)
            case "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "qmc":
                return QMCSampler(seed=self.terms.seed, scramble=True, warn_independent_sampling=False)
            case _:
                return RandomSampler(seed=seed)


def join(storage: Storage, name: str, terms: Terms, start_parent: Callable[[str], str]) -> Study:
    """Return the study of that name and these terms, made if there is none. Raises UsageError if it has other terms.

    `start_parent` is given an id, and returns that of the parent run; with the same id it returns the same run.
    """
    with storage.locked(name):
        made = optuna.create_study(study_name=name, storage=storage.rdb, direction="minimize", load_if_exists=True)
        if TERMS not in made.user_attrs and not made.get_trials(deepcopy=False):
            intended = made.user_attrs.get(INTENDED) or ids.new()
            made.set_user_attr(INTENDED, intended)
            made.set_user_attr(PARENT, start_parent(intended))
            made.set_user_attr(TERMS, asdict(terms))
        study = Study(storage, name)
    study.require(terms)
    return study


def all_studies(url: str) -> dict[str, Study]:
    """Return by name the studies that `sweep` has made in the store at an address. No store is made if there is none.

    Raises UsageError and StorageError.
    """
    where = address(url)
    if where.drivername == "sqlite" and not Path(where.database or "").exists():
        return {}
    storage = Storage(url)
    found = optuna.get_all_study_summaries(storage.rdb, include_best_trial=False)
    return {each.study_name: Study(storage, each.study_name) for each in found if TERMS in each.user_attrs}


def find(url: str, name: str) -> Study:
    """Return the study of that name in the store at an address. Raises UsageError if there is none."""
    known = all_studies(url)
    if name not in known:
        raise UsageError(f"no study {name!r}{did_you_mean(name, known)}; there are: {', '.join(known) or 'none yet'}")
    return known[name]


def runs_of(trial: Trial | FrozenTrial) -> list[str]:
    """Return the ids of a trial's runs, one for each seed that it has begun."""
    return [run_id for key, run_id in trial.user_attrs.items() if key.startswith(RUN)]


def _pruner(terms: Terms) -> BasePruner:
    match terms.pruner:
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, terms.epochs // 5))
        case "hyperband":
            most = terms.epochs * terms.seeds_per_trial
            return HyperbandPruner(min_resource=max(1, terms.epochs // 9), max_resource=most)
        case _:
            return NopPruner()
