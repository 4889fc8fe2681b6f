"""Tracked runs that nobody trained, whose right verdict is known."""

import json
from dataclasses import replace
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag

from analysis import curves
from repro import registry
from repro.spec import Experiment
from repro.tracking import names
from repro.tracking.store import experiment_id, open_client

CANONICAL, OTHER = "1b86e1fc1d0b" + 52 * "0", "0123456789ab" + 52 * "0"


def run(
    experiment: str,
    seed: int,
    cost: float | None = None,
    *,
    status: str = "FINISHED",
    data: str = "canonical",
    fingerprint: str = CANONICAL,
    spec: Experiment | None = None,
    reason: str = "",
    shift: float = 0.0,
    diverged_after: int = 0,
) -> str:
    """Track a run in the present directory's store whose curve is the reported one, ending at `cost`; return its id.

    `shift` is added to the curve, and `diverged_after` so many epochs it ends.
    """
    entry = registry.get(experiment)
    spec = spec or entry.spec
    client = open_client()
    run_id = str(client.create_run(experiment_id(client, experiment), run_name=f"{experiment} seed {seed}").info.run_id)
    tags = {
        names.SIGNATURE: spec.signature,
        names.DATA_STATUS: data,
        names.DATA_FINGERPRINT: fingerprint,
        names.COMPARABLE: str(not reason).lower(),
        names.NOT_COMPARABLE_BECAUSE: reason or "-",
    }
    if diverged_after:
        status = "FAILED"
        tags |= {names.CAUSE: names.NOT_FINITE, names.ERROR: "the cost is not finite"}
    params = spec.flat() | {names.SEED: str(seed)}
    reported = curves.reported_curve(registry.get(entry.spec.variant_of or experiment))
    assert reported is not None
    costs = dict(zip(reported.epoch.astype(int).tolist(), (reported.cost + shift).tolist(), strict=True))
    if cost is not None:
        costs[int(reported.epoch[-1])] = cost
    if diverged_after:
        costs = {epoch: value for epoch, value in costs.items() if epoch <= diverged_after}
    metrics = [Metric(names.COST, value, 0, epoch) for epoch, value in costs.items()]
    last = int(reported.epoch[-1])
    if not diverged_after:
        metrics += [Metric(names.ENTROPY_FLOOR, 45.75, 0, last), Metric(names.TEST_NEG_ELBO, 100.0, 0, last)]
    client.log_batch(
        run_id,
        metrics=metrics,
        params=[Param(key, value) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
    client.set_terminated(run_id, status)
    return run_id


def with_margin(spec: Experiment, margin: float | None) -> Experiment:
    """The same with another margin."""
    assert spec.reported is not None
    return replace(spec, reported=replace(spec.reported, margin=margin))


def loaded(text: str) -> dict[str, dict[str, object]]:
    """What `compare --json` printed, by experiment."""
    return {row["experiment"]: row for row in json.loads(text)}


def saved(folder: Path, name: str, text: str) -> Path:
    """A file with that text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
