"""Which machines trained the seeds of a verdict, and whether their costs differ."""

from collections.abc import Iterable

import pandas as pd
from repro.analysis.tables import Row, Tables
from repro.analysis.verdicts import Verdict, outcomes
from scipy import stats

from repro import names

FEWEST = 2
"""Seeds of a machine from which on it enters the test of a difference."""


def rows(found: Iterable[Verdict], tables: Tables) -> list[Row]:
    """Return a row for each processor that trained seeds of a result, where there were several.

    `p` is that of Alexander and Govern's test (1974) of equal mean costs, whose variances may differ.
    """
    made: list[Row] = []
    for verdict in found:
        runs, _ = outcomes(tables.runs_of(verdict.experiment), verdict.epoch)
        runs = runs[runs["seed"].isin(verdict.seeds)]
        ends = tables.curves_of(runs)
        costs = ends[ends["epoch"] == verdict.epoch].set_index("run_id")[names.COST]
        runs = runs.assign(end=runs["run_id"].map(costs))
        if runs["cpu"].nunique() > 1:
            p = machine_effect(runs)
            made += [
                {
                    "experiment": verdict.experiment,
                    "epoch": verdict.epoch,
                    "processor": cpu,
                    "seeds": len(of_machine),
                    "mean": of_machine["end"].mean(),
                    "standard_deviation": of_machine["end"].std() if len(of_machine) > 1 else None,
                    "p": p,
                }
                for cpu, of_machine in runs.groupby("cpu")
            ]
    return made


def machine_effect(runs: pd.DataFrame) -> float | None:
    """Return the p value for equal means of `end` by `cpu`; None without two processors with several seeds each."""
    groups = [group["end"].to_numpy() for _, group in runs.groupby("cpu") if len(group) >= FEWEST]
    return float(stats.alexandergovern(*groups).pvalue) if len(groups) > 1 else None
