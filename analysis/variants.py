"""The cost of each variant, which changes one setting, and that of the experiment that it varies."""

import pandas as pd
from repro.analysis.claims.evidence import Evidence, MissingError
from repro.analysis.curves import by_seed
from repro.analysis.tables import DIVERGED, Row, all_entries

from repro import registry
from repro.registry import Entry

COLUMNS = [
    "variant", "of", "change", "seeds", "epoch", "cost", "baseline", "difference", "low", "high", "test_neg_elbo",
    "baseline_test", "data", "note",
]  # fmt: skip
OTHER_SCALE = {"model.likelihood": "its cost is a density of another scale, not compared"}
OTHER_OBJECTIVE = {"training.kl": "its cost is another objective; the test negative ELBO is the true one"}
NOT_A_CHANGE = ("reported", "variant_of", "training.epochs")
"""Settings that change neither the model nor the objective of a variant."""
DIVERGED_THEN = "its cost was not finite in the next epoch"


def table(evidence: Evidence) -> pd.DataFrame:
    """Return one row for each variant. Costs are nats per image, means over seeds at the variant's last epoch.

    `difference` is cost - baseline at that epoch; `low` to `high` is its range over the seeds of both. For a variant
    without a run, `note` is the command that makes it.
    """
    rows = [_row(entry, evidence) for entry in all_entries() if entry.spec.variant_of]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"epoch": "Int64"})  # integers, some of them missing


def changed(entry: Entry) -> dict[str, tuple[str, str]]:
    """Return the settings in which a variant differs from its experiment, each with both values."""
    found = registry.get(str(entry.spec.variant_of)).spec.differences(entry.spec)
    return {key: values for key, values in found.items() if key not in NOT_A_CHANGE}


def _row(entry: Entry, evidence: Evidence) -> Row:
    of, change = str(entry.spec.variant_of), changed(entry)
    words = "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in change.items())
    row: Row = {"variant": entry.name, "of": of, "change": words, "seeds": 0}
    try:
        runs = evidence.trained(entry.name)
    except MissingError as missing:
        return row | {"note": f"not run yet: {missing}"}
    mine = by_seed(evidence.tables.curves_of(runs))
    epoch = int(mine.dropna().index.max())
    costs = mine.loc[epoch]
    caveats = [text for key, text in (OTHER_SCALE | OTHER_OBJECTIVE).items() if key in change]
    caveats += [DIVERGED_THEN] * bool((runs["status"] == DIVERGED).any())
    row |= {
        "seeds": len(runs),
        "epoch": epoch,
        "cost": float(costs.mean()),
        "test_neg_elbo": float(runs["test_neg_elbo"].mean()),
        "data": runs["data"].iloc[0],
        "note": "; ".join(caveats),
    }
    if change.keys() & OTHER_SCALE.keys():
        return row
    try:
        base_runs = evidence.runs(of, epoch)
    except MissingError as missing:
        return row | {"note": f"missing: {missing}"}
    base = by_seed(evidence.tables.curves_of(base_runs)).reindex([epoch]).loc[epoch].dropna()
    return row | {
        "baseline": float(base.mean()),
        "difference": float(costs.mean() - base.mean()),
        "low": float(costs.min() - base.max()),
        "high": float(costs.max() - base.min()),
        "baseline_test": float(base_runs.loc[base_runs["epochs"] == epoch, "test_neg_elbo"].mean()),
    }
