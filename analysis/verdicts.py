"""Verdicts on reported costs. Each is given once, from the seeds and the margin that were planned before the runs.

A verdict answers two questions. *Is the number reached?* An equivalence test compares the mean over seeds with the
reported cost. *Could the published run be one of ours?* It could if the reported cost lies inside the prediction
interval for one more run. Both stay open while planned seeds are missing, because a test that is repeated after every
seed does not keep its error rate.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from repro.analysis.tables import FAILED, Row, Tables, unchanged
from scipy import stats

from repro import names
from repro.registry import Entry
from repro.spec import Reported
from repro.text import seed_list

LEVEL = 0.05
"""Level of each of the two one-sided tests, and of the prediction interval."""

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
class Verdict:
    """The verdict on one reported cost. Costs are in nats per image. A number is None where there are too few costs.

    `n` of `planned` seeds have an outcome: `seeds` have a cost, and `failures` has a reason for each of the others.
    `outside` lists seeds outside the plan, which enter no number.

    `difference` is mean - reported. `ci_low` to `ci_high` is its 90% confidence interval, which corresponds to two
    one-sided tests at 5%. `pi_low` to `pi_high` is the 95% prediction interval for the cost of one more run. `t` is
    (reported - mean) / (std * sqrt(1 + 1/n)), the quantile of the reported cost in the prediction distribution, and `p`
    is its two-sided p value. `excess_share` and `pi_half_share` are the difference and half the width of the prediction
    interval, as shares of the reported cost's excess over the entropy floor.
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
        """The verdict, with the count of seeds where it is interim."""
        return f"interim ({self.n} of {self.planned})" if self.verdict == "interim" else self.verdict

    @property
    def decided(self) -> bool:
        """Whether the two questions have an answer."""
        return self.verdict not in ("interim", "not comparable")

    @property
    def note(self) -> str:
        """Failures, the reason, and the seeds outside the plan."""
        outside = f"outside the plan: seeds {seed_list(self.outside)}" if self.outside and self.planned else ""
        return "; ".join(filter(None, [*self.failures, self.reason, outside]))

    @property
    def number_reached(self) -> str:
        """The answer to the first question: `yes`, `not shown`, or `-` while it is open."""
        return ("yes" if self.verdict == "reproduced" else "not shown") if self.decided else "-"

    @property
    def one_of_ours(self) -> str:
        """The answer to the second question: `yes`, `no`, or `-` while it is open."""
        return ("yes" if self.p is not None and self.p >= LEVEL else "no") if self.decided else "-"


def half_widths(std: Any, n: int) -> tuple[Any, Any]:
    """Return half the widths of two intervals: 90% confidence for the mean of n costs, 95% prediction for one more.

    `std` is the standard deviation of the n costs, a number or an array.
    """
    confidence = stats.t.ppf(1 - LEVEL, n - 1) * std / math.sqrt(n)
    return confidence, stats.t.ppf(1 - LEVEL / 2, n - 1) * (std * math.sqrt(1 + 1 / n))


def judge(verdict: Verdict, costs: Sequence[float]) -> Verdict:
    """Return the verdict with the equivalence and prediction intervals of costs (Schuirmann 1987; Student's t)."""
    n = len(costs)
    if not n:
        return verdict
    mean = float(np.mean(costs))
    difference = mean - verdict.reported
    if n == 1:
        return replace(verdict, mean=mean, difference=difference)
    std = float(np.std(costs, ddof=1))
    half, beyond = map(float, half_widths(std, n))
    scale = std * math.sqrt(1 + 1 / n)
    t = -difference / scale if scale else math.copysign(math.inf, -difference) if difference else 0.0
    return replace(
        verdict, mean=mean, std=std, difference=difference, ci_low=difference - half, ci_high=difference + half,
        pi_low=mean - beyond, pi_high=mean + beyond, t=t, p=float(2 * stats.t.sf(abs(t), n - 1)),
    )  # fmt: skip


def word(found: Verdict) -> Word:
    """Return the verdict once all planned seeds have an outcome. A seed that failed rules out equivalence."""
    if found.ci_low is None or found.ci_high is None or found.p is None or found.difference is None:
        return "not comparable"
    assert found.margin is not None  # or it would be a fault of the plan
    if not found.failures and -found.margin < found.ci_low and found.ci_high < found.margin:
        return "reproduced"
    if found.p >= LEVEL:
        return "consistent"
    return "different (worse)" if found.difference > 0 else "different (better)"


def verdicts(entries: Iterable[Entry], tables: Tables) -> list[Verdict]:
    return [verdict(entry, reported, tables) for entry in entries for reported in entry.spec.reported]


def verdict(entry: Entry, reported: Reported, tables: Tables) -> Verdict:
    """Return the verdict of the runs in `tables` on one reported result."""
    runs = tables.runs_of(entry.name)
    used, reason = outcomes(runs, reported.epoch)
    planned = set(reported.seeds)
    chosen = used[used["seed"].isin(planned)] if planned else used
    blank = Verdict(
        entry.name, reported.epoch, reported.cost, "not comparable", reason, len(chosen), len(planned), reported.margin,
        outside=tuple(sorted(set(used["seed"]) - set(chosen["seed"]))),
    )  # fmt: skip
    if chosen.empty:
        mixed = runs["seed"].isin(planned) & runs["comparable"] & (runs["epochs"] >= reported.epoch)
        waiting = planned and reported.margin and not mixed.any()  # `outcomes` leaves out runs on different data
        return replace(blank, verdict="interim", reason="") if waiting else blank
    ends = tables.curves_of(chosen)
    costs = ends[ends["epoch"] == reported.epoch].set_index("run_id")[names.COST].dropna()
    failed = chosen[~chosen["run_id"].isin(costs.index)]
    found = judge(blank, costs.tolist())
    floors = chosen["entropy_floor"].dropna()
    excess = reported.cost - float(floors.iloc[0]) if len(floors) else None
    first = chosen.sort_values("plan_date").iloc[0]
    result = replace(
        found,
        excess_share=found.difference / excess if excess and found.difference is not None else None,
        pi_half_share=(found.pi_high - found.pi_low) / 2 / excess
        if excess and found.pi_high and found.pi_low
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
    if len(costs) < 2:
        return replace(result, reason=f"{len(failed)} of {len(planned)} planned seeds failed or diverged")
    return replace(result, verdict=word(result))


def outcomes(runs: pd.DataFrame, epoch: int) -> tuple[pd.DataFrame, str]:
    """Return the runs that are outcomes for a result at `epoch`, one for each seed, and why others were left out.

    A run is an outcome if it is unchanged, on real data, and has finished with `epoch` epochs or more, or has failed or
    diverged. Runs on other data are left out if there are runs on the canonical data. A seed that was run several
    times counts once, with its first finished run or else its first failed one.
    """
    finished = runs["comparable"] & (runs["epochs"] >= epoch)
    usable = runs[finished | unchanged(runs) & runs["status"].isin(FAILED)]
    if usable.empty:
        if runs["comparable"].any():
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
    return usable.sort_values(["comparable", "started"], ascending=[False, True]).drop_duplicates("seed"), left_out


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


def records(found: Iterable[Verdict]) -> list[Row]:
    return [asdict(each) | {"number_reached": each.number_reached, "one_of_ours": each.one_of_ours} for each in found]


def as_csv(found: Iterable[Verdict]) -> str:
    """Return verdicts as CSV with a header. Spaces separate the parts of a list, semicolons those of `failures`."""
    table = pd.DataFrame(records(found))
    for column in ("seeds", "outside"):
        table[column] = [" ".join(map(str, each)) for each in table[column]]
    table["failures"] = table["failures"].str.join("; ")
    return str(table.to_csv(index=False, lineterminator="\n"))


def rows(found: Iterable[Verdict]) -> list[Row]:
    """Return verdicts as rows of a table. Costs are in nats per image."""
    return [
        {
            "experiment": each.experiment,
            "epoch": each.epoch,
            "verdict": each.label,
            "reported": each.reported,
            "mean": each.mean,
            "standard_deviation": each.std,
            "difference": each.difference,
            "margin": each.margin,
            "number_reached": each.number_reached,
            "95%_for_one_more": f"{each.pi_low:.2f} to {each.pi_high:.2f}" if each.pi_low is not None else None,
            "one_of_ours": each.one_of_ours + (f" (p = {each.p:.2f})" if each.decided else ""),
        }
        for each in found
    ]


def plan_rows(found: Iterable[Verdict]) -> list[Row]:
    """Return the plan of each verdict and its outcome, as rows of a table."""
    return [
        {
            "experiment": each.experiment,
            "epoch": each.epoch,
            "seeds": f"{each.n} of {each.planned}",
            "plan": f"{each.plan_commit[:8]}, {each.plan_date[:10]}" if each.plan_commit else None,
            "data": each.data or None,
            "of_excess": f"{each.excess_share:+.2%}" if each.excess_share is not None else None,
            "half_95%_of_excess": f"{each.pi_half_share:.2%}" if each.pi_half_share is not None else None,
            "t": each.t,
            "note": each.note or None,
        }
        for each in found
    ]
