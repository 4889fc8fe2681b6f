"""Runs that were not trained, whose right verdict is known: in a store, or only as tables."""

import json
from pathlib import Path

import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from repro.analysis.tables import CURVE_COLUMNS, RUN_COLUMNS, Tables

from repro import images, names, registry
from repro.registry import Entry
from repro.spec import Experiment
from repro.tracking.store import experiment_id, open_client

PLAN_COMMIT, PLAN_DATE = "c" * 40, "2026-01-01T00:00:00+00:00"
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
    precision: str = "float32",
) -> str:
    """Track a run in the store of the current directory and return its id.

    Its curve is the reported one plus `shift`, ends at `cost`, and stops after `diverged_after` epochs if not 0.
    """
    entry = registry.get(experiment)
    spec = spec or entry.spec
    client = open_client()
    run_id = str(client.create_run(experiment_id(client, experiment), run_name=f"seed {seed}").info.run_id)
    tags = {
        names.SIGNATURE: spec.signature,
        names.DATA_STATUS: data,
        names.DATA_FINGERPRINT: fingerprint,
        names.COMPARABLE: str(not reason).lower(),
        names.NOT_COMPARABLE_BECAUSE: reason or "-",
        names.PLAN_COMMIT: PLAN_COMMIT,
        names.PLAN_DATE: PLAN_DATE,
    }
    if diverged_after:
        status = "FAILED"
        tags |= {names.CAUSE: names.NOT_FINITE, names.ERROR: "the cost is not finite"}
    params = spec.flat() | {names.SEED: str(seed), "precision": precision}
    reported = curve_of(entry)
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


def curve_of(entry: Entry) -> images.Curve:
    """The longest published curve of an experiment, or of the one that it varies."""
    owner = entry if entry.spec.reported else registry.get(str(entry.spec.variant_of))
    curve = images.reported_curve(owner.file, owner.spec.reported[-1])
    assert curve is not None
    return curve


def tables(experiment: str, rows: list[dict[str, object]]) -> Tables:
    """Return the tables of runs of an experiment that follow its published curve and end at `cost`, without a store.

    A row has `seed` and `cost`, and those columns of `Tables.runs` that differ from a finished planned run on canonical
    data.
    """
    entry = registry.get(experiment)
    curve, found = curve_of(entry), Tables.from_rows()
    usual = {name: "" for name, column in RUN_COLUMNS.items() if column.dtype == "str"} | {
        "experiment": experiment, "status": "FINISHED", "epochs": len(curve.epoch), "comparable": True,
        "signature": entry.spec.signature, "plan": entry.spec.flat()["reported"], "plan_commit": PLAN_COMMIT,
        "plan_date": PLAN_DATE, "data": "MNIST (canonical)", "fingerprint": CANONICAL[:12], "entropy_floor": 45.75,
        "started": "2026-01-02", "precision": "float32",
    }  # fmt: skip
    runs = [usual | {"run_id": f"{number:032x}"} | row for number, row in enumerate(rows)]
    found.runs = Tables.from_rows(runs=runs).runs
    curves = []
    for run in runs:
        cost = curve.cost.copy()
        cost[-1] = run["cost"]
        columns = {"experiment": experiment, "seed": run["seed"], "run_id": run["run_id"]}
        curves.append(pd.DataFrame(columns | {"epoch": curve.epoch.astype(int), "cost": cost})[: run["epochs"]])
    found.curves = pd.concat(curves).reindex(columns=list(CURVE_COLUMNS)) if curves else found.curves
    return found


def loaded(text: str) -> dict[tuple[str, int], dict[str, object]]:
    """Return what `compare --json` printed, by experiment and epoch."""
    return {(row["experiment"], row["epoch"]): row for row in json.loads(text)}


def saved(folder: Path, name: str, text: str) -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path
