"""Paired comparison of two settings: the mean difference of their costs over the seeds that both were trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
from repro.analysis.curves import by_seed
from repro.analysis.tables import Row, Tables
from scipy import stats

from repro import names, registry
from repro.registry import Entry
from repro.spec import overrides

LEVEL = 0.95


@dataclass(frozen=True)
class Paired:
    """The mean of first minus second over n shared seeds, nats per image, with its 95% confidence interval.

    The interval is Student's t for paired differences; it is None for a single seed.
    """

    seeds: tuple[int, ...]
    difference: float
    low: float | None
    high: float | None

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def mark(self) -> str:
        """`~` where the interval holds 0: the two cannot be told apart."""
        return "~" if self.low is not None and self.high is not None and self.low <= 0 <= self.high else ""

    @property
    def interval(self) -> str | None:
        """The confidence interval with its mark; None for a single seed."""
        return f"{self.low:+.2f} to {self.high:+.2f} {self.mark}".rstrip() if self.low is not None else None


@dataclass(frozen=True)
class Setting:
    """An experiment as it is registered, or with some settings changed. `text` is what the user wrote."""

    text: str
    entry: Entry
    signature: str

    @classmethod
    def read(cls, text: str) -> "Setting":
        """Read `NAME` or `NAME,KEY=VALUE,...`. Raises UsageError with every fault."""
        name, *assignments = text.split(",")
        entry = registry.get(name)
        return cls(text, entry, overrides.apply(entry.spec, assignments).signature)

    def runs(self, tables: Tables) -> pd.DataFrame:
        """Return the finished runs on real data in float32, the first of each seed."""
        runs = tables.runs_of(self.entry.name)
        real = ~runs["data"].str.endswith("(stand-in)") & (runs["precision"] == "float32")
        chosen = runs[(runs["signature"] == self.signature) & (runs["status"] == "FINISHED") & real]
        return chosen.sort_values("started").drop_duplicates("seed")


def rows(settings: Sequence[Setting], tables: Tables) -> list[Row]:
    """Return the paired comparison of each two settings at the last epoch that both have, as rows of a table."""
    found = []
    for first, second in combinations(settings, 2):
        runs = first.runs(tables), second.runs(tables)
        costs = [by_seed(tables.curves_of(each)) for each in runs]
        shared = costs[0].columns.intersection(costs[1].columns)
        epochs = costs[0][shared].dropna().index.intersection(costs[1][shared].dropna().index)
        row: Row = dict.fromkeys(("first", "second", "epoch", "seeds", "difference", "95%_interval", "test_difference"))
        row |= {"first": first.text, "second": second.text, "seeds": len(shared)}
        if len(epochs):
            cost = paired(*(each.loc[epochs[-1]] for each in costs))
            tests = paired(*(each.set_index("seed")[names.TEST_NEG_ELBO] for each in runs))
            assert cost is not None
            row |= {"epoch": int(epochs[-1]), "difference": cost.difference, "95%_interval": cost.interval}
            row["test_difference"] = tests.difference if tests else None
        found.append(row)
    return found


def paired(first: pd.Series, second: pd.Series) -> Paired | None:
    """Return the paired comparison of two costs by seed; None without a shared seed."""
    both = pd.concat([first, second], axis=1, join="inner").dropna().sort_index()
    if both.empty:
        return None
    differences = both.iloc[:, 0] - both.iloc[:, 1]
    low = high = None
    if len(both) > 1:
        interval = stats.ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
        low, high = float(interval.low), float(interval.high)
    return Paired(tuple(map(int, both.index)), float(differences.mean()), low, high)
