"""Is a reported cost reproduced? Equivalence of the mean over seeds with it, within a margin fixed beforehand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from repro.registry import Entry

LEVEL = 0.05  # of each of the two one-sided tests
MOST_SEEDS = 1000  # beyond which no number of further seeds is named

Word = Literal["reproduced", "different (better)", "different (worse)", "inconclusive", "not comparable"]


@dataclass(frozen=True)
class Verdict:
    """What the seeds of an experiment say of its reported cost. Costs in nats per image, None where not known.

    `difference` is mean - reported, `excess_share` that over the reported cost's excess over the entropy floor.
    `ci_low` to `ci_high` is the 90% interval of the difference, which the two tests at 5% amount to; `pi_low` to
    `pi_high` the 95% prediction interval for the cost of one more run.
    """

    experiment: str
    reported: float
    n: int
    mean: float | None
    std: float | None
    pi_low: float | None
    pi_high: float | None
    difference: float | None
    excess_share: float | None
    verdict: Word
    reason: str
    data: str
    margin: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    seeds: tuple[int, ...] = ()


def verdict(entry: Entry, runs: pd.DataFrame) -> Verdict:
    """The verdict on an experiment that has a reported cost, from the rows of `Frames.runs`."""
    reported = entry.spec.reported
    assert reported is not None
    used, reason = pooled(runs[runs["experiment"] == entry.name])
    blank = Verdict(
        entry.name, reported.cost, len(used), None, None, None, None, None, None, "not comparable", reason, "",
        reported.margin,
    )  # fmt: skip
    if used.empty:
        return blank
    margin_then = used["margin"].iloc[0]
    if reported.margin is None:
        return replace(blank, reason="the experiment's file declares no margin", data=used["data"].iloc[0])
    if not (used["margin"] == reported.margin).all():
        return replace(
            blank,
            reason=f"the margin is {reported.margin} nats now and was {margin_then} when its runs were made",
            data=used["data"].iloc[0],
        )
    found = judge(used["cost"].tolist(), reported.cost, reported.margin)
    floors = used["entropy_floor"].dropna()
    excess = reported.cost - floors.iloc[0] if len(floors) else None
    return replace(
        found,
        experiment=entry.name,
        excess_share=found.difference / excess if excess and found.difference is not None else None,
        reason="; ".join(filter(None, (found.reason, reason))),
        data=used["data"].iloc[0],
        seeds=tuple(sorted(used["seed"])),
    )


def pooled(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that may be taken together, one a seed and all on the same data; and why there are none, or fewer.

    Canonical data goes before any other. A seed that was run twice counts once, its newest run.
    """
    usable = runs[runs["comparable"].astype(bool)]
    if usable.empty:
        reasons = sorted(set(runs["reason"])) if len(runs) else ["it has no runs"]
        return usable, "; ".join(reasons)
    left_out = ""
    if usable["fingerprint"].nunique() > 1:
        canonical = usable[usable["data"].str.endswith("(canonical)")]
        if canonical.empty:
            counts = usable.groupby("data").size()
            listed = ", ".join(f"{count} on {data}" for data, count in counts.items())
            prints = ", ".join(sorted(usable["fingerprint"].unique()))
            return usable.head(0), f"its runs are of different data: {listed} (fingerprints {prints})"
        left_out = f"{len(usable) - len(canonical)} on other data left out"
        usable = canonical
    return usable.sort_values("started", ascending=False).drop_duplicates("seed"), left_out


def judge(costs: Sequence[float], reported: float, margin: float) -> Verdict:
    """Two one-sided t tests (TOST, Schuirmann 1987) of the mean cost against reported -+ margin, nats per image.

    Reproduced if the mean is above reported - margin and below reported + margin, each at 5%; different if it is
    beyond one of them at 5%; inconclusive otherwise, and always with fewer than two seeds.
    """
    n, mean = len(costs), float(np.mean(costs))
    difference = mean - reported
    if n < 2:
        return _verdict(reported, n, mean, difference, margin, "inconclusive", "needs at least 1 more seed")
    std = float(np.std(costs, ddof=1))
    half = float(stats.t.ppf(1 - LEVEL, n - 1)) * std / math.sqrt(n)
    word, reason = _word(difference, half, margin), ""
    if word == "inconclusive":
        more = more_seeds(difference, std, margin, n)
        reason = f"needs about {more} more seed{'s' * (more > 1)}" if more else f"needs over {MOST_SEEDS} more seeds"
    beyond = float(stats.t.ppf(0.975, n - 1)) * std * math.sqrt(1 + 1 / n)
    return replace(
        _verdict(reported, n, mean, difference, margin, word, reason),
        std=std,
        pi_low=mean - beyond,
        pi_high=mean + beyond,
        ci_low=difference - half,
        ci_high=difference + half,
    )


def more_seeds(difference: float, std: float, margin: float, n: int) -> int | None:
    """How many seeds beside n would decide, should mean and deviation stay what they are; None if too many to name."""
    for total in range(n + 1, n + MOST_SEEDS + 1):
        half = float(stats.t.ppf(1 - LEVEL, total - 1)) * std / math.sqrt(total)
        if _word(difference, half, margin) != "inconclusive":
            return total - n
    return None


def _word(difference: float, half: float, margin: float) -> Word:
    if abs(difference) + half < margin:
        return "reproduced"
    if difference - half > margin:
        return "different (worse)"
    if difference + half < -margin:
        return "different (better)"
    return "inconclusive"


def _verdict(
    reported: float, n: int, mean: float, difference: float, margin: float, word: Word, reason: str
) -> Verdict:
    return Verdict("", reported, n, mean, None, None, None, difference, None, word, reason, "", margin)
