"""What the MLflow UI shows beside a run: a note with its result and its experiment's verdict, and tags to filter by."""

from typing import Any

from repro.analysis import ablations
from repro.analysis.claims.claim import Evidence
from repro.analysis.content import headline

from repro import registry
from repro.registry import Entry
from repro.tracking import names, read
from repro.tracking.notes import Note


def notes(entries: list[Entry], evidence: Evidence) -> dict[str, Note]:
    """Notes by run id, for the runs of these experiments and for the parents of their seeds. Raises StoreError."""
    found: dict[str, Note] = {}
    for entry in entries:
        runs = evidence.frames.runs[evidence.frames.runs["experiment"] == entry.name]
        judged = [each for each in evidence.verdicts if each.experiment == entry.name]
        tags = {names.VERDICT: judged[-1].label} if judged else {}
        for run in runs[runs["status"] == "FINISHED"].to_dict("records"):
            usable = bool(run["comparable"])
            found[run["run_id"]] = Note(_of_run(entry, run, evidence), tags if usable else {})
        for parent in read.parents(entry.name):
            if parent.tags.get(names.SIGNATURE) == entry.spec.signature and tags:
                found[parent.run_id] = Note(_of_setup(entry, evidence), tags)
    return found


def _of_run(entry: Entry, run: dict[str, Any], evidence: Evidence) -> str:
    lines = [f"**{entry.name}, seed {run['seed']}**: training cost {run['cost']:.4f} nats per image after epoch "]
    lines[0] += f"{run['epochs']}, test negative ELBO {run['test_neg_elbo']:.4f}, on {run['data']}."
    if not run["comparable"]:
        return "\n\n".join([*lines, f"Not comparable with the reported cost: {run['reason']}."])
    if entry.spec.variant_of:
        change = "; ".join(f"{key}: {old} → {new}" for key, (old, new) in ablations.changed(entry).items())
        lines.append(f"A variant of {entry.spec.variant_of}: {change}.")
    elif entry.spec.reported:
        lines.append(_of_setup(entry, evidence))
    return "\n\n".join(lines)


def _of_setup(entry: Entry, evidence: Evidence) -> str:
    judged = [each for each in evidence.verdicts if each.experiment == entry.name]
    return "\n\n".join(f"**{entry.name}, epoch {each.epoch}: {each.label}.** {headline(each)}" for each in judged)


def annotated(evidence: Evidence) -> dict[str, Note]:
    """Notes for everything that is registered."""
    return notes([registry.get(name) for name in registry.names()], evidence)
