"""One study that any number of processes share: which trials there are, and who works on which."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from repro.errors import ReproError, UsageError
from repro.rng import stream
from repro.spec import Space
from repro.sweep import space as spaces
from repro.sweep.storage import Storage

SamplerName = Literal["tpe", "random", "grid", "gp", "cmaes", "qmc"]
PrunerName = Literal["median", "hyperband", "none"]

TERMS, PARENT = "terms", "mlflow_run_id"  # attributes of a study
OWNER, ATTEMPTS, REASON, SECONDS = "owner", "attempts", "reason", "seconds"  # attributes of a trial
RUN = "run."  # and a seed: its run in the tracking store
MOST_ATTEMPTS = 5  # workers that may die over one trial
OPEN = (TrialState.WAITING, TrialState.RUNNING)


@dataclass(frozen=True)
class Terms:
    """What makes two studies the same. `space` is its JSON; `signature` is the experiment's, before any trial."""

    experiment: str
    signature: str
    fingerprint: str  # of the data
    space: str
    epochs: int
    seeds_per_trial: int
    seed: int
    sampler: SamplerName
    pruner: PrunerName
    heartbeat: int  # seconds; workers with another would take those that are alive for silent

    @property
    def steps(self) -> int:
        """How many values a trial reports in all."""
        return self.epochs * self.seeds_per_trial


class LostError(ReproError):
    """The trial was given to another worker, since this one was silent for too long."""


class Study:
    """A study in a store. Its objective is the mean held-out negative ELBO of a trial's seeds, nats per image."""

    def __init__(self, storage: Storage, name: str) -> None:
        """The study of that name. Raises KeyError if there is none."""
        self.storage, self.name = storage, name
        self.optuna = optuna.load_study(study_name=name, storage=storage.rdb)
        attributes = self.optuna.user_attrs
        if TERMS not in attributes:
            raise UsageError(f"study {name!r} in {storage.shown} was not made by `sweep`; take another --study NAME")
        self.terms = Terms(**attributes[TERMS])
        self.parent: str = attributes.get(PARENT, "")
        self.optuna.pruner = _pruner(self.terms)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Its trials in order; of these states only, if any are named."""
        found = self.storage.patiently(lambda: self.optuna.get_trials(deepcopy=False, states=states or None))
        return sorted(found, key=lambda trial: trial.number)

    def best(self) -> list[FrozenTrial]:
        """Its complete trials, the lowest value first."""
        return sorted(self.trials(TrialState.COMPLETE), key=lambda trial: (trial.values[0], trial.number))

    def plan(self, count: int, space: Space) -> int:
        """Let there be so many trials, those that failed apart; return how many were added."""
        cells = spaces.cells(space) if self.terms.sampler == "grid" else None
        with self.storage.locked(self.name):
            every = self.trials()
            there = sum(trial.state != TrialState.FAIL for trial in every)
            if cells is None:
                new = [optuna.create_trial(state=TrialState.WAITING) for _ in range(count - there)]
            else:
                kinds = spaces.as_distributions(space)
                taken = [trial.params for trial in every if trial.state != TrialState.FAIL]
                left = [cell for cell in cells if cell not in taken][: max(0, count - there)]
                new = [optuna.create_trial(state=TrialState.WAITING, params=p, distributions=kinds) for p in left]
            self.optuna.add_trials(new)
        return len(new)

    def claim(self, owner: str, space: Space) -> Trial | None:
        """A trial to work on, with what it is to try drawn already, or None if nobody waits for a worker.

        One whose worker has gone silent is taken up again, under its own number.
        """
        rdb = self.storage.rdb
        with self.storage.locked(self.name):
            for stale in rdb._get_stale_trial_ids(rdb.get_study_id_from_name(self.name)):
                rdb.set_trial_state_values(stale, TrialState.WAITING)
            for frozen in self.trials(TrialState.WAITING):
                trial_id = frozen._trial_id
                rdb.record_heartbeat(trial_id)  # first: one that runs without any would never count as silent
                if not rdb.set_trial_state_values(trial_id, TrialState.RUNNING):
                    continue  # another's: a server that was started again in between has let go of the lock
                attempts = int(frozen.user_attrs.get(ATTEMPTS, 0)) + 1
                rdb.set_trial_user_attr(trial_id, OWNER, owner)
                rdb.set_trial_user_attr(trial_id, ATTEMPTS, attempts)
                drawn = set(space) <= set(frozen.params)
                self.optuna.sampler = RandomSampler() if drawn else _sampler(self.terms, frozen.number)
                trial = Trial(self.optuna, trial_id)
                if attempts > MOST_ATTEMPTS:
                    trial.set_user_attr(REASON, f"its worker died {MOST_ATTEMPTS} times")
                    self.optuna.tell(trial, state=TrialState.FAIL)
                    continue
                spaces.draw(trial, space)
                return trial
        return None

    def require_owner(self, trial: Trial, owner: str) -> FrozenTrial:
        """The trial as it stands. Raises LostError if it is another worker's by now."""
        frozen = self.storage.patiently(lambda: self.storage.rdb.get_trial(trial._trial_id))
        if frozen.state == TrialState.WAITING or frozen.user_attrs.get(OWNER) != owner:
            raise LostError(f"trial {trial.number} was given to another worker, since this one was silent for too long")
        return frozen

    def give_back(self, trial: Trial, owner: str, seconds: float) -> None:
        """Let another worker, or a later command, go on with the trial. Raises LostError if one does already."""

        def back() -> None:
            trial.set_user_attr(SECONDS, seconds)
            trial.set_user_attr(ATTEMPTS, trial.user_attrs.get(ATTEMPTS, 1) - 1)
            self.storage.rdb.set_trial_state_values(trial._trial_id, TrialState.WAITING)

        self._end(trial, owner, back)

    def end(
        self, trial: Trial, owner: str, state: TrialState, value: float | None, reason: str, seconds: float
    ) -> None:
        """The trial is over. Raises LostError if it is another worker's by now."""

        def tell() -> None:
            trial.set_user_attr(SECONDS, seconds)
            if reason:
                trial.set_user_attr(REASON, reason)
            self.optuna.tell(trial, value, state=state if value is None else None)

        self._end(trial, owner, tell)

    def _end(self, trial: Trial, owner: str, how: Callable[[], Any]) -> None:
        def whole() -> None:
            with self.storage.locked(self.name):
                if not self.require_owner(trial, owner).state.is_finished():  # as an attempt without answer has left it
                    how()

        self.storage.patiently(whole)


def join(storage: Storage, name: str, terms: Terms, make_parent: Callable[[], str]) -> Study:
    """The study of that name and these terms, made if there is none. Raises UsageError if it has other terms."""
    with storage.locked(name):
        try:
            made = optuna.load_study(study_name=name, storage=storage.rdb)
            begun = TERMS in made.user_attrs or bool(made.get_trials(deepcopy=False))
        except KeyError:
            made, begun = None, False
        if not begun:  # it is new, or its maker was killed before it had terms
            parent = make_parent()  # before the study: where the tracking store fails there is to be none
            made = made or optuna.create_study(study_name=name, storage=storage.rdb, direction="minimize")
            made.set_user_attr(PARENT, parent)
            made.set_user_attr(TERMS, asdict(terms))
        study = Study(storage, name)
    _refuse_other_terms(study, terms)
    return study


def _refuse_other_terms(study: Study, terms: Terms) -> None:
    before, now = asdict(study.terms), asdict(terms)
    changed = [key for key in now if before[key] != now[key]]
    if changed:
        raise UsageError(
            f"study {study.name!r} exists with other terms; go on with those, or take another --study NAME:",
            *(f"  {key.replace('_', ' ')}: was {_words(before[key])}, is {_words(now[key])}" for key in changed),
        )


def _words(value: Any) -> str:
    """A space without JSON's signs."""
    if isinstance(value, str) and value.startswith("{"):
        return ", ".join(f"{key}={each}" for key, each in json.loads(value).items())
    return str(value)


def _sampler(terms: Terms, number: int) -> BaseSampler:
    """What draws the trial of that number. The seed is of both, so that a study that was cut off goes on the same."""
    seed = stream("sampler", terms.seed, number).initial_seed() % 2**32
    match terms.sampler:
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=10)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=10)
        case "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "qmc":
            return QMCSampler(seed=terms.seed, scramble=True, warn_independent_sampling=False)
        case _:
            return RandomSampler(seed=seed)


def _pruner(terms: Terms) -> BasePruner:
    match terms.pruner:
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, terms.epochs // 5))
        case "hyperband":
            return HyperbandPruner(min_resource=max(1, terms.epochs // 9), max_resource=terms.steps)
        case _:
            return NopPruner()
