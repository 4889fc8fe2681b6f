"""The cost of each variant, which changes one setting or the precision, and that of the experiment that it varies."""

import pandas as pd
from repro.analysis.claims.evidence import Evidence, MissingError, run_command
from repro.analysis.curves import by_seed
from repro.analysis.paired import paired
from repro.analysis.tables import DIVERGED, Row, all_entries

from repro import registry
from repro.registry import Entry
from repro.text import seed_list

COLUMNS = [
    "variant", "of", "change", "seeds", "pairs", "epoch", "cost", "baseline", "difference", "low", "high", "interval",
    "test_neg_elbo", "baseline_test", "data", "note",
]  # fmt: skip
OTHER_SCALE = {"model.likelihood": "its cost is a density of another scale, not compared"}
OTHER_OBJECTIVE = {"training.kl": "its cost is another objective; the test negative ELBO is the true one"}
NOT_A_CHANGE = ("reported", "variant_of", "training.epochs")
"""Settings that change neither the model nor the objective of a variant."""
MIXED = {"mnist_fc": range(100, 105), "mnist_conv": range(100, 103), "cifar_conv": range(100, 103)}
"""The seeds that are trained to full length in mixed precision too. They were fixed before these runs."""
MIXED_SHARE = 0.1
"""Share of the margin of the reported cost that the interval of their difference must not leave, fixed likewise."""
DIVERGED_THEN = "its cost was not finite in the next epoch"


def table(evidence: Evidence) -> pd.DataFrame:
    """Return one row for each variant. Costs are nats per image, means over seeds at the variant's last epoch.

    `difference` is the mean of cost - baseline over the seeds that both have, `low` to `high` its 95% confidence
    interval, and `interval` shows it, with `~` if it holds 0. For a variant without a run, `note` is the command that
    makes it. The last rows are the experiments of MIXED in mixed precision.
    """
    rows = [_row(entry, evidence) for entry in all_entries() if entry.spec.variant_of]
    rows += [_mixed_row(registry.get(name), evidence) for name in MIXED]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"epoch": "Int64", "pairs": "Int64"})  # some are missing


def changed(entry: Entry) -> dict[str, tuple[str, str]]:
    """Return the settings in which a variant differs from its experiment, each with both values."""
    found = registry.get(str(entry.spec.variant_of)).spec.differences(entry.spec)
    return {key: values for key, values in found.items() if key not in NOT_A_CHANGE}


def changes_of(experiment: str) -> dict[str, str]:
    """Return by variant of an experiment what it changes: `optim.lr: 0.001 -> 0.0001`."""
    entries = [entry for entry in all_entries() if entry.spec.variant_of == experiment]
    return {entry.name: _words(changed(entry)) for entry in entries}


def _words(changes: dict[str, tuple[str, str]]) -> str:
    return "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in changes.items())


def _row(entry: Entry, evidence: Evidence) -> Row:
    of, change = str(entry.spec.variant_of), changed(entry)
    row: Row = {"variant": entry.name, "of": of, "change": _words(change), "seeds": 0}
    try:
        runs = evidence.trained(entry.name)
    except MissingError as missing:
        return row | {"note": f"not run yet: {missing}"}
    caveats = [text for key, text in (OTHER_SCALE | OTHER_OBJECTIVE).items() if key in change]
    caveats += [DIVERGED_THEN] * bool((runs["status"] == DIVERGED).any())
    return _compared(
        row, runs, evidence, caveats, run_command(entry.name), comparable=not change.keys() & OTHER_SCALE.keys()
    )


def _mixed_row(entry: Entry, evidence: Evidence) -> Row:
    seeds, runs = MIXED[entry.name], evidence.mixed(entry.name)
    command = f"{run_command(entry.name)} --precision mixed"
    row: Row = {
        "variant": f"{entry.name}, mixed",
        "of": entry.name,
        "change": "precision: float32 -> mixed",
        "seeds": 0,
    }
    runs = runs[runs["seed"].isin(seeds) & (runs["epochs"] == entry.spec.training.epochs)]
    if runs.empty:
        return row | {"note": f"not run yet: {command} --seeds {seed_list(seeds)}"}
    row = _compared(row, runs, evidence, [], command)
    margin = entry.spec.reported[-1].margin
    if margin and row.get("low") is not None and row["pairs"] == len(seeds):
        limit = MIXED_SHARE * margin
        within = -limit <= row["low"] and row["high"] <= limit
        row["note"] = f"the interval is {'within' if within else 'not within'} {limit:.2f} nats, a tenth of the margin"
    return row


def _compared(
    row: Row, runs: pd.DataFrame, evidence: Evidence, caveats: list[str], command: str, comparable: bool = True
) -> Row:
    """Return a row with the cost of these runs and, if it is comparable, its difference from that of the experiment.

    `command` trains such runs.
    """
    of = str(row["of"])
    mine = by_seed(evidence.tables.curves_of(runs))
    epoch = int(mine.dropna().index.max())
    costs = mine.loc[epoch]
    row |= {
        "seeds": len(runs),
        "epoch": epoch,
        "cost": float(costs.mean()),
        "test_neg_elbo": float(runs["test_neg_elbo"].mean()),
        "data": runs["data"].iloc[0],
        "note": "; ".join(caveats),
    }
    if not comparable:
        return row
    try:
        base_runs = evidence.runs(of, epoch)
    except MissingError as missing:
        return row | {"note": f"missing: {missing}"}
    base = by_seed(evidence.tables.curves_of(base_runs)).reindex([epoch]).loc[epoch].dropna()
    pairs = paired(costs, base)
    if pairs is None:
        note = f"it shares no seed with {of}; {command} --seeds {seed_list(sorted(base.index[:3]))}"
        return row | {"baseline": float(base.mean()), "note": "; ".join([*caveats, note])}
    return row | {
        "pairs": pairs.n,
        "baseline": float(base.mean()),
        "difference": pairs.difference,
        "low": pairs.low,
        "high": pairs.high,
        "interval": pairs.interval,
        "baseline_test": float(base_runs.loc[base_runs["epochs"] == epoch, "test_neg_elbo"].mean()),
    }
