"""The report in ten seconds: a card for each result of the notebook, and its claims by verdict, in plain words."""

from textwrap import shorten

import pandas as pd
from repro.analysis.claims import Claim, Evidence, Finding
from repro.analysis.report.document import Card, Part, Table
from repro.analysis.verdicts import Verdict

from repro.text import plural

NOTEBOOK = ("mnist_fc", "mnist_conv", "cifar_conv")
"""The experiments of the notebook, in its order."""
GROUPS = {"holds": ["holds"], "does not hold": ["does not hold"], "open": ["undecided", "not measured"]}
"""The verdicts on claims by the group that they are shown in."""
QUOTED = 76
"""Letters of a claim that the groups show."""


def in_order(evidence: Evidence) -> list[Verdict]:
    """Return the verdicts on the notebook's three results, then those on the results of its earlier version."""
    last = {verdict.experiment: verdict for verdict in evidence.verdicts}
    first = [last[name] for name in NOTEBOOK]
    return first + [verdict for verdict in evidence.verdicts if verdict not in first]


def cards(evidence: Evidence) -> list[Card]:
    """Return a card for each of the notebook's three results."""
    found = in_order(evidence)[: len(NOTEBOOK)]
    return [Card(each.experiment, each.label, meaning(each), made(each, evidence)) for each in found]


def meaning(verdict: Verdict) -> str:
    """Return what a verdict means, in plain words."""
    if verdict.verdict == "not comparable":
        return f"Nothing is decided: {verdict.reason}."
    if verdict.mean is None or verdict.difference is None:
        return f"None of the {verdict.planned} planned runs has finished. Nothing is known yet."
    side = "below" if verdict.difference < 0 else "above"
    where = f"{abs(verdict.difference):.2f} nats {side} the published {verdict.reported:,.2f}"
    within = f"within {verdict.margin} nats"
    if not verdict.decided:
        so_far = f"So far the mean of {verdict.n} of {verdict.planned} planned runs is {where}. "
        return so_far + f"All {verdict.planned} will decide whether it is {within}; nothing is decided yet."
    failed = f" {plural(len(verdict.failures), 'run')} failed." if verdict.failures else ""
    likely = "a typical one" if verdict.one_of_ours == "yes" else "unlike ours"
    rest = {
        "reproduced": f"{within} counts as reproduced; ",
        "consistent": f"it is not shown to be {within}; ",
    }.get(verdict.verdict, f"this is more than chance explains, and not {within}; ")
    rest += f"the published run is {likely} (p = {verdict.p:.2f})."
    return f"The mean of {plural(len(verdict.seeds), 'run')} is {where}; {rest}{failed}"


def made(verdict: Verdict, evidence: Evidence) -> str:
    """Return the days of the planned runs and the versions of the code that made them."""
    runs = evidence.planned(verdict.experiment, verdict.epoch)
    if runs.empty:
        return "no run yet"
    first, last = (str(day)[:10] for day in (runs["started"].min(), runs["started"].max()))
    days = first if first == last else f"{first} to {last}"
    versions = sorted(set(runs["commit"].str[:8]) - {""})
    return f"runs of {days}" + (f", code version {', '.join(versions)}" if versions else "")


def groups(judged: list[tuple[Claim, Finding]]) -> list[Part]:
    """Return the claims by verdict, each with the number that decided, or with what is missing."""
    parts: list[Part] = []
    for group, words in GROUPS.items():
        rows = [
            {
                f"{group} ({sum(finding.verdict in words for _, finding in judged)})": claim.name,
                "notebook": shorten(claim.sentence, QUOTED, placeholder=" …"),
                "number that decides": finding.number or f"not measured: {finding.evidence}",
            }
            for claim, finding in judged
            if finding.verdict in words
        ]
        parts += [Table(f"claims_{group.replace(' ', '_')}", pd.DataFrame(rows))] if rows else []
    return parts
