"""The cost of each one-factor variant beside that of the experiment that it varies."""

from collections.abc import Iterable

import pandas as pd
from repro.analysis.claims.evidence import Evidence, MissingError
from repro.analysis.curves import table_of
from repro.analysis.tables import DIVERGED

from repro import registry
from repro.registry import Entry

COLUMNS = [
    "variant", "of", "change", "seeds", "epoch", "cost", "baseline", "difference", "low", "high", "test_neg_elbo",
    "baseline_test", "data", "note",
]  # fmt: skip
OTHER_SCALE = {"model.likelihood": "its cost is a density of another scale, not compared"}
NOT_A_CHANGE = ("reported", "variant_of", "training.epochs")
"""Settings that change neither the model nor the objective of a variant."""
DIVERGED_THEN = "its cost was no longer a number in the next epoch"
OTHER_OBJECTIVE = {"training.kl": "its cost is another objective; the test negative ELBO is the true one"}


def table(evidence: Evidence) -> pd.DataFrame:
    """Return one row a variant. Costs are nats per image, means over seeds at the variant's last epoch.

    `difference` is cost - baseline at that same epoch; `low` to `high` is its range over the baseline's and the
    variant's seeds. A variant without a run has the command that makes it in `note`.
    """
    entries = [registry.get(name) for name in registry.names()]
    rows = [_row(entry, evidence) for entry in entries if entry.spec.variant_of]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"epoch": "Int64"})  # whole, also where there is none


def changed(entry: Entry) -> dict[str, tuple[str, str]]:
    """Return the settings in which a variant differs from its experiment, each with both values."""
    base, mine = registry.get(str(entry.spec.variant_of)).spec.flat(), entry.spec.flat()
    keys = [key for key in sorted(base | mine) if key not in NOT_A_CHANGE]
    return {key: (base.get(key, "-"), mine.get(key, "-")) for key in keys if base.get(key) != mine.get(key)}


def _row(entry: Entry, evidence: Evidence) -> dict[str, object]:
    of, change = str(entry.spec.variant_of), changed(entry)
    words = "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in change.items())
    row: dict[str, object] = {"variant": entry.name, "of": of, "change": words}
    try:
        runs = evidence.trained(entry.name)
        mine = table_of(evidence.curves_of(runs))
        epoch = int(mine.dropna().index.max())
        costs = mine.loc[epoch]
        row |= {
            "seeds": len(runs),
            "epoch": epoch,
            "cost": float(costs.mean()),
            "test_neg_elbo": float(runs["test_neg_elbo"].mean()),
            "data": runs["data"].iloc[0],
            "note": "; ".join(_caveats(change, runs)),
        }
        if change.keys() & OTHER_SCALE.keys():
            return row
        base_runs = evidence.runs(of, epoch)
        base = table_of(evidence.curves_of(base_runs)).reindex([epoch]).loc[epoch].dropna()
        return row | {
            "baseline": float(base.mean()),
            "difference": float(costs.mean() - base.mean()),
            "low": float(costs.min() - base.max()),
            "high": float(costs.max() - base.min()),
            "baseline_test": float(base_runs.loc[base_runs["epochs"] == epoch, "test_neg_elbo"].mean()),
        }
    except MissingError as missing:
        return {"seeds": 0} | row | {"note": f"not run yet: {missing}" if "seeds" not in row else f"missing: {missing}"}


def _caveats(change: Iterable[str], runs: pd.DataFrame) -> list[str]:
    """Return what a reader must know of a variant's cost."""
    said = [(OTHER_SCALE | OTHER_OBJECTIVE)[key] for key in change if key in OTHER_SCALE | OTHER_OBJECTIVE]
    return said + [DIVERGED_THEN] * bool((runs["status"] == DIVERGED).any())
