"""Parent runs in the tracking store: of several seeds of one experiment, and of the trials of a study.

The parent of seeds has curves over the finished seeds. All of it is derived from its children, so it can be made again
at any time. A step of a metric that was logged cannot be taken back: where the curves have to change, a new parent
replaces the old one.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from repro import names
from repro.names import Status
from repro.spec import Experiment
from repro.text import first_line, seed_list
from repro.tracking import layout, reader
from repro.tracking.notes import changed_tags
from repro.tracking.store import Client, StoreError, experiment_id, open_client
from repro.tracking.writer import comparability, find_begun, log_settings, run_name, start_run

BATCH = 1000  # metrics that the store takes in one call

Curve = dict[int, float]  # by step
_REDUCE: dict[str, Callable[[Collection[float]], float]] = {"mean": fmean, "low": min, "high": max}


@dataclass
class SeedsParent:
    """The parent run of seeds of one MLflow experiment, spec and data set, including seeds of earlier commands.

    An error of the store is told once and stops nothing. `reasons` say why the cost may not be compared; `changes` are
    in the name, and set these seeds apart from others of the experiment.
    """

    experiment: str
    spec: Experiment
    data_fingerprint: str
    data_status: str
    reasons: tuple[str, ...]
    seeds: frozenset[int]
    tell: Callable[[str], None]
    changes: tuple[str, ...] = ()
    run_id: str | None = None  # None until `open` or `close`, or if the store refused the parent
    _refused: bool = field(default=False, init=False)

    def open(self, finished: Collection[str]) -> None:
        """Create the parent, or set the existing one to RUNNING. `finished` are ids of finished runs that it covers."""
        with self._errors_told():
            parents, runs = self._find()
            parent = parents[0] if parents else self._create()
            self.run_id = str(parent.info.run_id)
            self._update(parent, _covered(parents, runs, finished), "RUNNING")

    def add(self, run_id: str) -> None:
        """Make a run a child of the parent."""
        if self.run_id is not None and not self._refused:
            with self._errors_told():
                self._client.set_tag(reader.store_id(run_id), names.PARENT, self.run_id)

    def close(self, status: Status, finished: Collection[str]) -> None:
        """Log the curves over the finished children and end the parent. If nothing has changed, nothing is written.

        `finished` are ids of runs; those that the store does not have as finished yet are left to a later command.
        """
        with self._errors_told():
            client = self._client
            parents, runs = self._find()
            covered = _covered(parents, runs, finished)
            curves = _curves(client, covered)
            parent = parents[0] if parents else self._create()
            logged = {name: _history(client, parent.info.run_id, name) for name in layout.metrics(parent.data)}
            if logged and logged != curves:
                parent, logged = self._create(), {}
            self.run_id = str(parent.info.run_id)
            if logged != curves:
                now = int(time.time() * 1000)
                points = [
                    layout.metric(name, curve[step], now, step) for name, curve in curves.items() for step in curve
                ]
                for start in range(0, len(points), BATCH):
                    client.log_batch(self.run_id, metrics=points[start : start + BATCH])
            old = {each.info.run_id for each in parents} - {self.run_id}
            for run in runs.values():
                before = run.data.tags.get(names.PARENT)
                if before in old or (before != self.run_id and run in covered.values()):
                    client.set_tag(run.info.run_id, names.PARENT, self.run_id)
            self._update(parent, covered, status)
            for each in old:
                client.set_terminated(each, status)  # a deleted run would be RUNNING for ever
                client.delete_run(each)

    @cached_property
    def _client(self) -> MlflowClient:
        return open_client()

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        """End the block early at an error of the store, and tell the first error."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, StoreError, OSError) as error:
            if not self._refused:
                later = "training goes on; the parent is made when the command is given again"
                self.tell(f"the tracking store does not take the parent of these seeds, {later}: {first_line(error)}")
            self._refused = True

    def _find(self) -> tuple[list[Run], dict[str, Run]]:
        """Return the parents of these seeds, newest first, usually one, and the trained runs by id."""
        signature, fingerprint = self.spec.signature, self.data_fingerprint
        where = f"tags.`{names.SIGNATURE}` = '{signature}' and tags.`{names.DATA_FINGERPRINT}` = '{fingerprint}'"
        found = reader.search(self._client, experiment_id(self._client, self.experiment), where)
        parents = [run for run in found if run.data.tags.get(names.KIND) == names.KIND_SEEDS and self._has_spec(run)]
        return parents, {reader.own_id(run): run for run in found if names.KIND not in run.data.tags}

    def _has_spec(self, parent: Run) -> bool:
        """Whether the reported results, which are not in the signature, are the same too."""
        mine, (theirs, _) = layout.settings(self.spec), layout.unpack(parent.data)
        return all(mine.get(key, "").startswith(value) for key, value in theirs.items())  # may be cut short

    def _create(self) -> Run:
        """Start a parent with the tags that tell it from a trained run."""
        tags = comparability(self.reasons) | {
            names.KIND: names.KIND_SEEDS,
            names.SIGNATURE: self.spec.signature,
            names.DATA_FINGERPRINT: self.data_fingerprint,
            names.DATA_STATUS: self.data_status,
        }
        return self._client.create_run(experiment_id(self._client, self.experiment), tags=tags)

    def _update(self, parent: Run, covered: dict[int, Run], status: Status | str) -> None:
        """Set the settings, name, tags and status that it does not have yet."""
        settings, (before, _) = layout.settings(self.spec), layout.unpack(parent.data)
        if settings.keys() - before.keys():  # it is new, or the process that made it was killed
            log_settings(self._client, parent.info.run_id, settings | before, {})
        seeds = seed_list(self.seeds | covered.keys())
        unfinished = [] if status == "FINISHED" else ["not all of its seeds have finished"]
        tags = {names.SEEDS: seeds} | comparability([*self.reasons, *unfinished])
        name = run_name(f"seeds {seeds}", self.changes)
        if parent.info.run_name != name:
            self._client.update_run(parent.info.run_id, name=name)
        _update_parent(self._client, parent, status, tags)


def _update_parent(
    client: MlflowClient,
    parent: Run,
    status: Status | str,
    tags: dict[str, str],
    metrics: Sequence[Metric] = (),
) -> None:
    """Log these metrics, and set the tags and the status that differ."""
    run_id, changed = parent.info.run_id, changed_tags(parent, tags)
    if changed or metrics:
        client.log_batch(run_id, tags=changed, metrics=metrics)
    if status == "RUNNING" != parent.info.status:
        client.update_run(run_id, status)
    elif status != parent.info.status:
        client.set_terminated(run_id, status)


def _covered(parents: list[Run], runs: dict[str, Run], finished: Collection[str]) -> dict[int, Run]:
    """Return the finished runs that the parent covers, by seed: children of `parents`, and runs with these ids."""
    ids = {parent.info.run_id for parent in parents}
    children = [run for run in runs.values() if run.data.tags.get(names.PARENT) in ids]
    asked = [runs[run_id] for run_id in finished if run_id in runs]
    done = [run for run in [*reversed(children), *asked] if run.info.status == "FINISHED"]
    by_seed = {int(run.data.params[names.SEED]): run for run in done}  # the last counts: what was asked for, the newest
    return dict(sorted(by_seed.items()))


def _curves(client: MlflowClient, covered: dict[int, Run]) -> dict[str, Curve]:
    """Return mean, lowest and highest over the seeds at each step that all of them have, by metric."""
    curves: dict[str, Curve] = {}
    for name in names.OVER_SEEDS if covered else ():
        each = [_history(client, run.info.run_id, name) for run in covered.values()]
        steps = sorted(set(each[0]).intersection(*each[1:]))
        for key in names.SUMMARIES:
            curves[f"{name}_{key}"] = {step: _REDUCE[key]([history[step] for history in each]) for step in steps}
    if curves:
        last = max(step for curve in curves.values() for step in curve)
        curves[names.SEEDS_FINISHED] = {last: float(len(covered))}
    return curves


def _history(client: MlflowClient, run_id: str, metric: str) -> Curve:
    return {point.step: point.value for point in layout.points(client, run_id, metric)}


def mlflow_experiment(name: str) -> str:
    """Return the MLflow experiment that holds the trials of an experiment, apart from its other runs."""
    return f"{name} sweeps"


def start_sweep(experiment: str, study: str, params: dict[str, str], begun: str) -> str:
    """Start the parent run of a study, or take the one that a process which died has started; return its id.

    `begun` is an id that the study has kept since before. Raises StoreError.
    """
    tags = {names.RUN_NAME: f"study {study}", names.KIND: names.KIND_SWEEP, names.SWEEP: study}
    found = find_begun(mlflow_experiment(experiment), begun) or [start_run(mlflow_experiment(experiment), tags, begun)]
    with Client(f"the parent of study {study!r} cannot be made") as client:
        client.log_batch(found[0], params=[Param(key, value) for key, value in params.items()])
    return found[0]


def abandon(experiment: str, study: str, trials: Collection[int], seed: int) -> None:
    """End the runs of a seed that belong to these trials, which another run is begun in place of. Raises StoreError."""
    for run in reader.runs(mlflow_experiment(experiment)):
        mine = run.tags.get(names.SWEEP) == study and int(run.tags.get(names.TRIAL, -1)) in trials
        of_seed = run.params.get(names.SEED, str(seed)) == str(seed)
        if mine and of_seed and run.tags.get(names.TRIAL_STATE) != "abandoned":
            end(run.run_id, "abandoned", "another worker began anew, since it could not get at the checkpoints")


def end(run_id: str, state: str, reason: str) -> None:
    """End a run that no worker goes on with. Raises StoreError."""
    with Client(f"run {run_id} cannot be ended") as client:
        mlflow_id = reader.store_id(run_id)
        client.log_batch(mlflow_id, tags=[RunTag(names.TRIAL_STATE, state), RunTag(names.ERROR, reason)])
        client.set_terminated(mlflow_id, "KILLED")


def show_best(parent: str, status: Status | str, best: dict[str, str], value: float | None, complete: int) -> None:
    """Update the status of a study's parent, and its tags and metric of the best trial so far. Raises StoreError.

    `value` is the held-out cost of the best of `complete` trials, nats per image.
    """
    with Client("the study's parent cannot be written") as client:
        metrics = []
        if value is not None and complete not in _history(client, parent, names.BEST_HELDOUT):
            metrics.append(layout.metric(names.BEST_HELDOUT, value, int(time.time() * 1000), complete))
        _update_parent(client, client.get_run(parent), status, best, metrics=metrics)


def add_child(parent: str, run_id: str, study: str) -> None:
    """Make a run a child of a study's parent. Raises StoreError."""
    with Client(f"run {run_id} cannot be put under the study's parent") as client:
        tags = [RunTag(names.PARENT, parent), RunTag(names.SWEEP, study)]
        client.log_batch(reader.store_id(run_id), tags=tags)
