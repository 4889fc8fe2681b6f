"""Which run of a seed counts. The tracking store says so: several machines can share the seeds of one command."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from repro import names
from repro.errors import UsageError
from repro.runs import run_dir
from repro.runs.config import RunConfig
from repro.runs.result import DataSource, RunResult, beside_reported
from repro.tracking import reader
from repro.tracking.outbox import Outbox
from repro.tracking.reader import RunRecord
from repro.tracking.store import StoreError

LEASE = 900.0
"""Seconds without a sign of life after which a run of another directory, cut off or killed, is given up."""
State = Literal["finished", "here", "elsewhere"]
_ORDER: tuple[State, ...] = ("finished", "elsewhere", "here")


@dataclass(frozen=True)
class Claim:
    """The run of a seed: finished, with its result; trained or to be continued elsewhere; or to be continued here."""

    run_id: str
    state: State
    result: RunResult | None = None


def key(config: RunConfig) -> str:
    """Return what the runs of one seed have in common wherever they are trained: the value of a tag."""
    return f"{config.spec.signature} {config.fingerprint[:32]} {config.precision} {config.seed}"


def of_seeds(config: RunConfig) -> dict[int, Claim]:
    """Return by seed the run of this experiment, spec, data and precision that counts.

    Runs that were deleted in the store do not count. An unfinished run counts if it has a directory here, or if it gave
    a sign of life within LEASE. Of several runs a finished one counts first, then one that is trained elsewhere; the
    newest of these. If the store does not answer, the directories here decide.
    """
    try:
        records = list(_same(config))
    except StoreError:
        return {seed: _of_directory(run_id) for seed, run_id in run_dir.same_runs(config).items()}
    found: dict[int, Claim] = {}
    for record in records:
        seed, claim = _seed(record), _claim(record, config)
        if claim and (seed not in found or _ORDER.index(claim.state) < _ORDER.index(found[seed].state)):
            found[seed] = claim
    return found


def result_of(run_id: str) -> RunResult | None:
    """Return the result of the run with this directory, or None if it is to go on.

    The directory of an imported run that had ended has no result and no records; its result is that of the tracking
    store. Raises UsageError for such a run that did not finish, and StoreError.
    """
    result = run_dir.load_result(run_id)
    if result is not None or Outbox(run_dir.path(run_id)).records:
        return result
    record, config = reader.run(run_id), run_dir.load_config(run_id)
    if record.status == "FINISHED":
        return _result(record, config)
    if reader.history(run_id, names.COST):
        again = f"python -m repro run {shlex.quote(config.experiment)} --seed {config.seed}"
        raise UsageError(f"run {run_id} was imported without a checkpoint, and cannot go on; train another: {again}")
    return None


def others(config: RunConfig, run_id: str) -> bool:
    """Whether an older run of the same seed counts, which has begun at about the same time. Raises StoreError.

    The clocks of the machines should agree to about a second.
    """
    mine = reader.run(run_id)
    same = [record for record in _same(config) if _seed(record) == config.seed]
    older = [record for record in same if (record.started_ms, record.run_id) < (mine.started_ms, run_id)]
    return any(_claim(record, config) for record in older)


def _same(config: RunConfig) -> Iterator[RunRecord]:
    """Yield the trained runs with this spec, data set and precision, newest first."""
    for record in reader.runs(config.entry.name):
        said = record.tags.get(names.CLAIM, "").rpartition(" ")[0]
        logged = record.tags.get(names.SIGNATURE), record.tags.get(names.DATA_FINGERPRINT)
        described = logged == (config.spec.signature, config.fingerprint)
        if said == key(config).rpartition(" ")[0] or (described and record.params.get("precision") == config.precision):
            yield record


def _seed(record: RunRecord) -> int:
    return int(record.params.get(names.SEED) or record.tags[names.CLAIM].rpartition(" ")[2])


def _claim(record: RunRecord, config: RunConfig) -> Claim | None:
    here = run_dir.exists(record.run_id)
    result = run_dir.load_result(record.run_id) if here else None
    if result is not None:
        return Claim(record.run_id, "finished", result)
    if record.status == "FINISHED":
        return Claim(record.run_id, "finished", _result(record, config))
    if here:
        return Claim(record.run_id, "here")
    alive = record.status != "FAILED" and time.time() - reader.last_sign(record.run_id) < LEASE
    return Claim(record.run_id, "elsewhere") if alive else None


def _of_directory(run_id: str) -> Claim:
    result = run_dir.load_result(run_id)
    return Claim(run_id, "finished" if result else "here", result)


def _result(record: RunRecord, config: RunConfig) -> RunResult:
    """Return the result of a finished run that has no directory here."""
    costs = reader.history(record.run_id, names.COST)
    said, tags = record.tags.get(names.NOT_COMPARABLE_BECAUSE, "-"), record.tags
    return RunResult(
        run_id=record.run_id,
        status="FINISHED",
        experiment=record.experiment,
        seed=_seed(record),
        epochs=len(costs),
        cost=record.metrics.get(names.COST),
        heldout_neg_elbo=record.metrics.get(names.HELDOUT_NEG_ELBO),
        test_neg_elbo=record.metrics.get(names.TEST_NEG_ELBO),
        seconds=sum(reader.history(record.run_id, names.EPOCH_SECONDS).values()),
        data=DataSource(
            tags.get(names.DATA_ORIGIN, ""), tags.get(names.DATA_STATUS) == "canonical", config.fingerprint
        ),
        reasons=() if said == "-" else tuple(said.split("; ")),
        reported=beside_reported(config.spec, [costs[epoch] for epoch in sorted(costs)]),
    )
