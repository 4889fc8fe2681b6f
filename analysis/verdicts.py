"""Verdicts on reported costs. Each is given once, by the seeds and the margin that were planned before the runs.

A verdict answers two questions. *Is the number reached?* is answered by an equivalence test of the mean over seeds with
the reported cost. *Could the published run be one of ours?* is answered by its place in the prediction distribution for
one more run. Neither is answered while planned seeds are missing: a test that is repeated after every seed does not
keep its error rate.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from repro.analysis.tables import FAILED, Tables, unchanged
from scipy import stats

from repro import names
from repro.registry import Entry
from repro.spec import Reported
from repro.text import seed_list

LEVEL = 0.05  # of each of the two one-sided tests, and of the prediction interval

Word = Literal["interim", "reproduced", "consistent", "different (better)", "different (worse)", "not comparable"]
MEANINGS: dict[str, str] = {
    "reproduced": "the mean over the planned seeds is within the margin of the reported cost (two one-sided t tests at "
    "5%)",
    "consistent": "equivalence is not shown, and the published run lies inside the 95% prediction interval for one "
    "more run of ours",
    "different": "equivalence is not shown, and the published run lies outside this interval; better means that our "
    "costs are lower",
    "interim": "not all planned seeds have finished, so nothing is decided",
    "not comparable": "there are no runs that may be compared by this plan; the reason is given",
}


@dataclass(frozen=True)
class Judgement:
    """Statistics of costs beside a reported one, nats per image. None where there are too few costs.

    `difference` is mean - reported; `ci_low` to `ci_high` is its 90% interval, which two one-sided tests at 5%
    give. `pi_low` to `pi_high` is the 95% prediction interval for the cost of one more run. `t` is the reported cost's
    place in that prediction distribution, (reported - mean) / (std * sqrt(1 + 1/n)), and `p` its two-sided p value.
    """

    mean: float | None = None
    std: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    pi_low: float | None = None
    pi_high: float | None = None
    t: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The verdict of the planned seeds on one reported cost. Costs are in nats per image, and None where not known.

    `n` of `planned` seeds have an outcome: `seeds` have a cost, and `failures` has a reason for each of the others.
    `outside` lists seeds outside the plan, which enter no number. `excess_share` and `pi_half_share` are the difference
    and half the width of the prediction interval as shares of the reported cost's excess over the entropy floor.
    """

    experiment: str
    epoch: int
    reported: float
    verdict: Word
    reason: str
    n: int
    planned: int
    margin: float | None
    mean: float | None = None
    std: float | None = None
    difference: float | None = None
    excess_share: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    pi_low: float | None = None
    pi_high: float | None = None
    pi_half_share: float | None = None
    t: float | None = None
    p: float | None = None
    data: str = ""
    plan_commit: str = ""
    plan_date: str = ""
    seeds: tuple[int, ...] = ()
    failures: tuple[str, ...] = ()
    outside: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """Return the verdict, with the count of seeds where it is interim."""
        return f"interim ({self.n} of {self.planned})" if self.verdict == "interim" else self.verdict

    @property
    def number_reached(self) -> str:
        """Return the answer to the first question: `yes`, `not shown`, or `-` while it is open."""
        return self._answer("yes" if self.verdict == "reproduced" else "not shown")

    @property
    def one_of_ours(self) -> str:
        """Return the answer to the second question: `yes`, `no`, or `-` while it is open."""
        return self._answer("yes" if self.p is not None and self.p >= LEVEL else "no")

    def _answer(self, text: str) -> str:
        return "-" if self.verdict in ("interim", "not comparable") else text


def judge(costs: Sequence[float], reported: float) -> Judgement:
    """Return the equivalence and prediction intervals of costs, nats per image (Schuirmann 1987; Student's t)."""
    n = len(costs)
    if not n:
        return Judgement()
    mean = float(np.mean(costs))
    if n == 1:
        return Judgement(mean=mean, difference=mean - reported)
    std, difference = float(np.std(costs, ddof=1)), mean - reported
    half = float(stats.t.ppf(1 - LEVEL, n - 1)) * std / math.sqrt(n)
    scale = std * math.sqrt(1 + 1 / n)
    beyond = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * scale
    t = -difference / scale if scale else math.copysign(math.inf, -difference) if difference else 0.0
    return Judgement(
        mean=mean,
        std=std,
        difference=difference,
        ci_low=difference - half,
        ci_high=difference + half,
        pi_low=mean - beyond,
        pi_high=mean + beyond,
        t=t,
        p=float(2 * stats.t.sf(abs(t), n - 1)),
    )


def word(found: Judgement, margin: float, failures: int = 0) -> Word:
    """Return the verdict of a complete plan. A planned seed that failed or diverged rules out equivalence."""
    if found.ci_low is None or found.ci_high is None or found.p is None or found.difference is None:
        return "not comparable"
    if not failures and -margin < found.ci_low and found.ci_high < margin:
        return "reproduced"
    if found.p >= LEVEL:
        return "consistent"
    return "different (worse)" if found.difference > 0 else "different (better)"


def verdicts(entry: Entry, tables: Tables) -> list[Verdict]:
    """Return one verdict for each reported result of an experiment."""
    return [verdict(entry, reported, tables) for reported in entry.spec.reported]


def verdict(entry: Entry, reported: Reported, tables: Tables) -> Verdict:
    """Return the verdict of the runs in `tables` on one reported result."""
    runs = tables.runs[tables.runs["experiment"] == entry.name]
    used, reason = outcomes(runs, reported.epoch)
    planned = set(reported.seeds)
    chosen = used[used["seed"].isin(planned)] if planned else used
    blank = Verdict(
        entry.name, reported.epoch, reported.cost, "not comparable", reason, len(chosen), len(planned), reported.margin,
        outside=tuple(sorted(set(used["seed"]) - set(chosen["seed"]))),
    )  # fmt: skip
    if chosen.empty:
        undecided = runs["seed"].isin(planned) & runs["comparable"].astype(bool) & (runs["epochs"] >= reported.epoch)
        waiting = planned and reported.margin and not undecided.any()  # else they are of data that cannot be pooled
        return replace(blank, verdict="interim", reason="") if waiting else blank
    costs = costs_at(chosen, reported.epoch, tables.curves)
    failed = chosen[~chosen["run_id"].isin(costs.index)]
    found = judge(costs.tolist(), reported.cost)
    floors = chosen["entropy_floor"].dropna()
    excess = reported.cost - float(floors.iloc[0]) if len(floors) else None
    first = chosen.sort_values("plan_date").iloc[0]
    result = replace(
        blank,
        **asdict(found),
        excess_share=found.difference / excess if excess and found.difference is not None else None,
        pi_half_share=(found.pi_high - found.pi_low) / 2 / excess
        if excess and found.pi_high is not None and found.pi_low is not None
        else None,
        data=first["data"],
        plan_commit=first["plan_commit"],
        plan_date=first["plan_date"],
        seeds=tuple(sorted(chosen.loc[chosen["run_id"].isin(costs.index), "seed"])),
        failures=tuple(f"seed {run.seed}: {run.reason}" for run in failed.sort_values("seed").itertuples()),
    )
    fault = _plan_fault(reported, chosen)
    if fault:
        return replace(result, reason=fault)
    if len(chosen) < len(planned):
        return replace(result, verdict="interim")
    assert reported.margin is not None  # or it would be a fault of the plan
    if len(costs) < 2:
        return replace(result, reason=f"{len(failed)} of {len(planned)} planned seeds failed or diverged")
    return replace(result, verdict=word(found, reported.margin, len(failed)))


def outcomes(runs: pd.DataFrame, epoch: int) -> tuple[pd.DataFrame, str]:
    """Return the runs that are outcomes for a result at `epoch`, one a seed, and why others were left out.

    A run is an outcome if it is unchanged, on real data, and has finished with `epoch` epochs or more, or has failed or
    diverged. Runs on other data are left out if there are runs on the canonical data. A seed that was run several
    times counts once, with its first finished run or else its first failed one.
    """
    finished = runs["comparable"].astype(bool) & (runs["epochs"] >= epoch)
    usable = runs[finished | unchanged(runs) & runs["status"].isin(FAILED)]
    if usable.empty:
        short = runs[runs["comparable"].astype(bool)]
        if len(short):
            return usable, f"its runs end before epoch {epoch}"
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
    order = usable.assign(failed=~usable["comparable"].astype(bool)).sort_values(["failed", "started"])
    return order.drop_duplicates("seed").drop(columns="failed"), left_out


def costs_at(runs: pd.DataFrame, epoch: int, curves: pd.DataFrame) -> pd.Series:
    """Return the training cost of `epoch` by run id, for the runs that have reached it."""
    rows = curves[(curves["epoch"] == epoch) & curves["run_id"].isin(runs["run_id"])]
    return rows.set_index("run_id")[names.COST].dropna()


def _plan_fault(reported: Reported, runs: pd.DataFrame) -> str:
    """Return why these runs cannot be judged by the plan as it stands; "" if they can."""
    if reported.margin is None:
        return "the experiment's file gives no margin for this result: add margin=..."
    if not reported.seeds:
        return "the experiment's file plans no seeds for this result: add seeds=(...)"
    for run in runs.sort_values("seed").itertuples():
        then = [each for each in json.loads(run.plan or "[]") if each["epoch"] == reported.epoch]
        now = _terms(asdict(reported))
        if not any(_terms(each) == now for each in then):
            was = " and ".join(map(_terms, then)) or "none"
            return f"the plan has changed: it is {now}, and when seed {run.seed} was run it was {was}"
    return ""


def _terms(reported: dict[str, Any]) -> str:
    seeds = seed_list(reported.get("seeds", ())) or "none"
    return f"cost {reported['cost']}, margin {reported.get('margin')}, seeds {seeds}"
