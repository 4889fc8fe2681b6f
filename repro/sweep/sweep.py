"""A sweep from its terms to its end: the study, its parent in the tracking store, its workers, what came of it."""

import shlex
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

from optuna.trial import TrialState

from repro import names
from repro.data import Dataset
from repro.errors import UsageError
from repro.runs import run_dir, runner
from repro.runs.config import load_data
from repro.spec import Experiment, Space, overrides
from repro.spec.registry import Entry
from repro.sweep import space as spaces
from repro.sweep import worker
from repro.sweep.figures import figures
from repro.sweep.storage import Storage
from repro.sweep.study import OPEN, REASON, PrunerName, SamplerName, Study, Terms, join
from repro.sweep.trial import STATES, runs_of
from repro.terminal import say
from repro.tracking import reader, sweeps
from repro.tracking.store import StoreError

HOLDOUT = 5000  # images that are taken out of training where the experiment holds out none


@dataclass(frozen=True)
class Options:
    """What the command line asks of a sweep."""

    trials: int
    epochs: int
    seeds_per_trial: int
    seed: int
    sampler: SamplerName
    pruner: PrunerName
    timeout: float | None  # seconds


def held_out(spec: Experiment) -> tuple[str, ...]:
    """What `--set` would say to hold out training images to choose by, where the experiment holds out none."""
    return () if spec.data.holdout else (f"data.holdout={HOLDOUT}",)


def sweep(entry: Entry, space: Space, options: Options, how: worker.How) -> int:
    """Run trials until there are as many as asked for; the exit code. The same again goes on with what is missing.

    `space` is one that `space.check` passes. Raises UsageError for terms that cannot be, DataError, StorageError and
    StoreError.
    """
    assignments = (f"training.epochs={options.epochs}", *held_out(entry.spec))
    spec = overrides.apply(entry.spec, assignments)
    if options.sampler == "grid":
        spaces.cells(space)
    if options.sampler == "cmaes" and find_spec("cmaes") is None:  # which Optuna looks for as late as the second trial
        raise UsageError("--sampler cmaes: needs the package cmaes; pip install cmaes")
    dataset = load_data(spec, how.config.data, how.config.data_dir)
    storage = Storage(how.url, how.heartbeat)
    terms = Terms(
        experiment=entry.name,
        signature=entry.spec.signature,
        fingerprint=dataset.fingerprint,
        space=spaces.dumped(space),
        epochs=options.epochs,
        seeds_per_trial=options.seeds_per_trial,
        seed=options.seed,
        sampler=options.sampler,
        pruner=options.pruner,
        heartbeat=how.heartbeat,
    )
    study = join(storage, how.study, terms, lambda: _parent(entry, space, terms, how.study))
    study.plan(options.trials, space)
    _announce(study, space, dataset, storage)
    if not study.trials(*OPEN):
        there = len(study.trials()) - len(study.trials(TrialState.FAIL))
        more = f"--trials {2 * there} would add to them" if there >= options.trials else "it has tried all combinations"
        say(f"study {study.name!r} has its {there} trials; {more}")
        code = 0
    else:
        _show(study, "RUNNING")
        until = time.time() + options.timeout if options.timeout is not None else None
        code = worker.run(worker.Order(how.found(dataset), assignments, space, until), {spec.data: dataset})
    return conclude(study, code, how)


def conclude(study: Study, code: int, how: worker.How) -> int:
    """Deliver what trials have left undelivered, bring the parent up to date, and say what came of the study."""
    open_, failed = study.trials(*OPEN), study.trials(TrialState.FAIL)
    _deliver(study)
    _end_runs_of_the_dead(study)
    status = "FINISHED" if not open_ else "KILLED" if code >= 128 else "RUNNING"
    if not study.trials(TrialState.RUNNING):
        _show(study, status if status != "RUNNING" else "KILLED")
    if not open_:
        _log_figures(study)
    counts = ", ".join(f"{count} {word}" for word, count in counted(study).items() if count)
    say(f"\nstudy {study.name}: {counts or 'no trials'}")
    best = study.best()
    if best:
        value, settings = best[0].value, spaces.shown(best[0].params)
        say(f"  best: trial {best[0].number}, held-out {value:.4f} nats per image, {settings}")
        say(f"  that is the best of {len(best)}, chosen for being low; how it fares on test images, with fresh seeds:")
        say(f"  {_finishing(study, how)}")
    if code >= 128 or open_:
        say("go on: the same command again")
    return code or int(bool(failed))


def _finishing(study: Study, how: worker.How) -> str:
    """The command that finishes a study; a password in its address is not shown."""
    config = how.config
    words = ["sweep", config.experiment, "--study", study.name, "--finish"]
    words += ["--storage", study.storage.shown] if how.url else []
    words += ["--data", config.data] if config.data != "auto" else []
    words += ["--data-dir", str(config.data_dir)] if config.data_dir else []
    return shlex.join(["python", "-m", "repro", *words])


def counted(study: Study) -> dict[str, int]:
    """How many trials are in which state, by the states' names here."""
    trials = study.trials()
    return {word: sum(trial.state == state for trial in trials) for state, word in STATES.items()}


def _parent(entry: Entry, space: Space, terms: Terms, name: str) -> str:
    params = {f"space.{key}": str(each) for key, each in space.items()}
    params |= {
        "experiment": entry.name,
        "epochs": str(terms.epochs),
        "seeds_per_trial": str(terms.seeds_per_trial),
        "sampler": terms.sampler,
        "pruner": terms.pruner,
        names.SEED: str(terms.seed),
    }
    return sweeps.start_parent(entry.name, name, params)


def _announce(study: Study, space: Space, dataset: Dataset, storage: Storage) -> None:
    terms = study.terms
    searched = ", ".join(f"{key}={each}" for key, each in space.items())
    say(f"study {study.name} of {terms.experiment}: {searched}")
    length = f"{terms.epochs} epoch{'s' * (terms.epochs > 1)}"
    each = f"{terms.seeds_per_trial} seed{'s' * (terms.seeds_per_trial > 1)} each"
    say(f"trials of {length}, {each}, sampler {terms.sampler}, pruner {terms.pruner}, in {storage.shown}")
    say(f"data: {dataset.name}, {dataset.status}, {dataset.origin}; chosen by {len(dataset.heldout):,} held-out images")
    if dataset.status == "stand-in":
        say("*** STAND-IN DATA: what is best here says nothing about the real data set. ***")
    counts = ", ".join(f"{count} {word}" for word, count in counted(study).items() if count)
    say(f"trials: {counts}")


def _show(study: Study, status: str) -> None:
    best = study.best()
    tags = {}
    if best:
        values = {"trial": best[0].number, "value": best[0].value} | best[0].params
        tags = {f"{names.BEST}{key}": str(value) for key, value in values.items()}
    try:
        sweeps.show(study.parent, status, tags, best[0].value if best else None, len(best))
    except StoreError as error:
        say(f"note: {error}", error=True)


def _log_figures(study: Study) -> None:
    try:
        sweeps.log_files(study.parent, figures(study.optuna), "figures")
    except StoreError as error:
        say(f"note: {error}", error=True)


def _deliver(study: Study) -> None:
    """What the tracking store did not take when trials of this machine ended."""
    for trial in study.trials():
        for run_id in runs_of(trial):
            if run_dir.exists(run_id):
                with suppress(run_dir.BusyError):
                    runner.deliver(run_id, say)


def _end_runs_of_the_dead(study: Study) -> None:
    """No worker was left to end the run of a trial over which too many have died."""
    try:
        for trial in study.trials(TrialState.FAIL):
            for run_id in runs_of(trial):
                if reader.run(run_id).status == "RUNNING":
                    sweeps.end(run_id, STATES[TrialState.FAIL], trial.user_attrs.get(REASON, ""))
    except StoreError as error:
        say(f"note: {error}", error=True)
