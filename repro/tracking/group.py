"""The parent of one setup's seeds in the tracking store: curves over the finished ones, and the seeds as its children.

All of it is derived from the children, so that it can be made again at any time. A step of a metric that is logged
twice cannot be taken back: where the curves are to change, a new parent takes the place of the old one.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from repro import names
from repro.names import Status
from repro.spec import Experiment
from repro.text import first_line, seed_list
from repro.tracking import read
from repro.tracking.store import StoreError, experiment_id, open_client

BATCH = 1000  # metrics that the store takes in one call
LONGEST_NAME = 250  # of a run, in the store's column

Curve = dict[int, float]  # by step
_REDUCE: dict[str, Callable[[Collection[float]], float]] = {"mean": fmean, "low": min, "high": max}


@dataclass(frozen=True)
class Setup:
    """What the seeds share: the MLflow experiment, the spec, the data, and why their cost may not be compared."""

    experiment: str
    spec: Experiment
    data_fingerprint: str
    data_status: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """What the store has of a setup: its parents, newest first, usually one, and its trained runs by id."""

    parents: list[Run]
    runs: dict[str, Run]


class Group:
    """The parent of a setup's seeds. A store that fails is told of once, and stops nothing."""

    def __init__(self, setup: Setup, seeds: Iterable[int], tell: Callable[[str], None]) -> None:
        """The parent of these seeds, and of those that an earlier command has finished for the same setup."""
        self.setup, self.seeds, self._tell = setup, frozenset(seeds), tell
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._refused = False

    def open(self, finished: Collection[str]) -> None:
        """Make the parent, or take up the one that is there, as RUNNING. `finished` are ids of runs that it is over."""
        with self._told():
            client = self._open_client()
            found = self._find(client)
            covered = _covered(found, finished)
            parent = found.parents[0] if found.parents else None
            self.run_id = parent.info.run_id if parent else self._create(client, covered)
            if parent:
                self._settle(client, parent, covered, "RUNNING")

    def add(self, run_id: str) -> None:
        """Make a run a child of the parent."""
        if self.run_id is not None and not self._refused:
            with self._told():
                self._open_client().set_tag(run_id, names.PARENT, self.run_id)

    def close(self, status: Status, finished: Collection[str]) -> None:
        """Bring the parent to what its finished children say, and end it. Where it is so already, nothing is written.

        `finished` are ids of runs; those that the store has not got as finished yet are left to a later command.
        """
        with self._told():
            client = self._open_client()
            found = self._find(client)
            covered = _covered(found, finished)
            curves = _curves(client, covered)
            parent = found.parents[0] if found.parents else None
            logged = _logged(client, parent) if parent else {}
            if parent is None or (logged and logged != curves):
                parent, logged = client.get_run(self._create(client, covered)), {}
            self.run_id = str(parent.info.run_id)
            if logged != curves:
                _log(client, self.run_id, curves)
            old = {each.info.run_id for each in found.parents} - {self.run_id}
            for run in found.runs.values():
                before = run.data.tags.get(names.PARENT)
                if before in old or (before != self.run_id and run in covered.values()):
                    client.set_tag(run.info.run_id, names.PARENT, self.run_id)
            self._settle(client, parent, covered, status)
            for each in old:
                client.set_terminated(each, status)  # a deleted run would be RUNNING for ever
                client.delete_run(each)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The block ends early where the store fails; that is told once."""
        try:
            yield
        except (MlflowException, SQLAlchemyError, StoreError, OSError) as error:
            if not self._refused:
                later = "training goes on; the parent is made when the command is given again"
                self._tell(f"the tracking store does not take the parent of these seeds, {later}: {first_line(error)}")
            self._refused = True

    def _open_client(self) -> MlflowClient:
        self._client = self._client or open_client()
        return self._client

    def _find(self, client: MlflowClient) -> _Found:
        signature, fingerprint = self.setup.spec.signature, self.setup.data_fingerprint
        where = f"tags.`{names.SIGNATURE}` = '{signature}' and tags.`{names.DATA_FINGERPRINT}` = '{fingerprint}'"
        every = read.search(client, experiment_id(client, self.setup.experiment), where)
        parents = [run for run in every if run.data.tags.get(names.KIND) == names.KIND_SEEDS and self._is_of(run)]
        return _Found(parents, {run.info.run_id: run for run in every if names.KIND not in run.data.tags})

    def _is_of(self, parent: Run) -> bool:
        """Whether what was reported, which is not in the signature, is the same. The store may have cut long values."""
        flat = self.setup.spec.flat()
        return all(flat.get(key, "").startswith(value) for key, value in parent.data.params.items())

    def _create(self, client: MlflowClient, covered: dict[int, Run]) -> str:
        """Start a parent, with all tags from its first moment on, so that it is never taken for a trained run."""
        tags = self._tags(covered, "RUNNING") | {
            names.KIND: names.KIND_SEEDS,
            names.SIGNATURE: self.setup.spec.signature,
            names.DATA_FINGERPRINT: self.setup.data_fingerprint,
            names.DATA_STATUS: self.setup.data_status,
        }
        identity = experiment_id(client, self.setup.experiment)
        run = client.create_run(identity, run_name=self._name(covered), tags=tags)
        self._log_params(client, run)
        return str(run.info.run_id)

    def _log_params(self, client: MlflowClient, parent: Run) -> None:
        left = self.setup.spec.flat().keys() - parent.data.params.keys()
        params = [Param(key, value) for key, value in self.setup.spec.flat().items() if key in left]
        if params:
            client.log_batch(parent.info.run_id, params=params)

    def _settle(self, client: MlflowClient, parent: Run, covered: dict[int, Run], status: Status | str) -> None:
        """Set what differs of name, params, tags and status."""
        run_id, name = parent.info.run_id, self._name(covered)
        self._log_params(client, parent)
        if parent.info.run_name != name:
            client.update_run(run_id, name=name)
        tags = self._tags(covered, status).items()
        changed = [RunTag(key, value) for key, value in tags if parent.data.tags.get(key) != value]
        if changed:
            client.log_batch(run_id, tags=changed)
        if parent.info.status == status:
            return
        if status == "RUNNING":
            client.update_run(run_id, status)
        else:
            client.set_terminated(run_id, status)

    def _tags(self, covered: dict[int, Run], status: Status | str) -> dict[str, str]:
        unfinished = [] if status == "FINISHED" else ["not all of its seeds have finished"]
        reasons = "; ".join([*self.setup.reasons, *unfinished])
        return {
            names.SEEDS: seed_list(self.seeds | covered.keys()),
            names.COMPARABLE: str(not reasons).lower(),
            names.NOT_COMPARABLE_BECAUSE: reasons or "-",
        }

    def _name(self, covered: dict[int, Run]) -> str:
        return f"{self.setup.experiment} seeds {seed_list(self.seeds | covered.keys())}"[:LONGEST_NAME]


def _covered(found: _Found, finished: Collection[str]) -> dict[int, Run]:
    """The finished runs that a parent is over, by seed: children of the one that is there, and those of these ids."""
    parents = {parent.info.run_id for parent in found.parents}
    children = [run for run in found.runs.values() if run.data.tags.get(names.PARENT) in parents]
    asked = [found.runs[run_id] for run_id in finished if run_id in found.runs]
    runs = [run for run in [*reversed(children), *asked] if run.info.status == "FINISHED"]
    by_seed = {int(run.data.params[names.SEED]): run for run in runs}  # what was asked for comes before other children
    return dict(sorted(by_seed.items()))


def _curves(client: MlflowClient, covered: dict[int, Run]) -> dict[str, Curve]:
    """Mean, lowest and highest over the seeds at each step that all of them have, by metric."""
    curves: dict[str, Curve] = {}
    for name in names.OVER_SEEDS if covered else ():
        each = [_history(client, run.info.run_id, name) for run in covered.values()]
        steps = sorted(set(each[0]).intersection(*each[1:]))
        for key in names.SPREAD:
            curves[f"{name}_{key}"] = {step: _REDUCE[key]([history[step] for history in each]) for step in steps}
    if curves:
        last = max(step for curve in curves.values() for step in curve)
        curves[names.SEEDS_FINISHED] = {last: float(len(covered))}
    return curves


def _logged(client: MlflowClient, parent: Run) -> dict[str, Curve]:
    """What a parent has of the curves."""
    return {name: _history(client, parent.info.run_id, name) for name in parent.data.metrics}


def _history(client: MlflowClient, run_id: str, metric: str) -> Curve:
    return {point.step: point.value for point in client.get_metric_history(run_id, metric)}


def _log(client: MlflowClient, run_id: str, curves: dict[str, Curve]) -> None:
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, step) for name, curve in curves.items() for step, value in curve.items()]
    for start in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[start : start + BATCH])
