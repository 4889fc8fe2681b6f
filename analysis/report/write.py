"""Add runs to the committed tables, write the page with its pictures, and compare what is written with the tables.

Runs in the tracking store are given plots, notes with their result and the verdict on their experiment, and tags to
filter by, which the MLflow UI shows.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from repro.analysis import variants
from repro.analysis.claims import Evidence
from repro.analysis.claims.evidence import MissingError
from repro.analysis.report import readme
from repro.analysis.report.document import Page, html, markdown
from repro.analysis.report.sections import MEASUREMENT_OF, PICTURES
from repro.analysis.report.summary import meaning
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import Tables, all_entries, diverged, mixed

from repro import images, names
from repro.errors import ReproError
from repro.registry import Entry
from repro.tracking import artifacts, reader
from repro.tracking.notes import Note, annotate

MAPPED = 800
"""Points of a latent map that the tables keep."""


class Files:
    """The files of a report: tables, HTML page and pictures in `folder`, and RESULTS.md and README.md beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page = folder / "report.html"
        self.figures = folder / "figures"
        self.markdown = folder.parent / "RESULTS.md"
        self.readme = folder.parent / "README.md"
        self.code = folder.parent / "experiments"

    def to_code(self, file: Path) -> str:
        """Return the way from the folder of a file to the experiments; "" if they are not beside the results."""
        return Path(os.path.relpath(self.code, file.parent)).as_posix() if self.code.is_dir() else ""


def update(found: Tables, files: Files) -> list[str]:
    """Add runs of the tracking store to the committed tables, which keep the runs of other machines.

    Only comparable and diverged runs on real data are added, and those in mixed precision. Sheets of images are copied,
    and each run in the store is given its note.

    Returns messages for the user. Raises ReproError if the committed tables are damaged.
    """
    usable = found.runs["comparable"] & ~found.runs["data"].str.endswith("(stand-in)")
    usable |= diverged(found.runs) | mixed(found.runs)
    kept = found.only(found.runs.loc[usable, "run_id"])
    points = kept.measurements["quantity"].str.startswith("latent_") & (kept.measurements["x"] >= MAPPED)
    kept.measurements = kept.measurements[~points]
    both = kept.joined(Tables.from_files(files.folder)) if (files.folder / "runs.csv").exists() else kept
    told = [f"wrote {path}" for path in both.save(files.folder)]
    evidence, here = Evidence(both), set(kept.runs["run_id"])
    for kind in PICTURES:
        for name in sorted(set(kept.runs["experiment"])):
            try:
                _copy_picture(evidence, here, name, kind, files)
            except ReproError as error:
                told.append(f"note: {error}")
    elsewhere = set(both.runs["run_id"]) - here
    given = annotate({run_id: note for run_id, note in notes(evidence).items() if run_id not in elsewhere})
    return [*told, f"{given} runs were given their notes"]


def update_sweeps(found: Sweeps, files: Files) -> list[str]:
    """Add studies on real data to the committed tables, which keep those of other machines. Returns as `update`.

    A study of another machine that has the same name keeps it, and the one of this store is added under a new name.
    """
    real, there = ~found.trials["data"].str.endswith("(stand-in)"), Sweeps.from_files(files.folder)
    mine = found.only(found.trials.loc[real, "study"])
    named = mine.beside(there)
    told = [
        f"note: {files.folder} has another study {old}; this store's is added as {new}"
        for old, new in zip(mine.names(), named.names(), strict=True)
        if old != new
    ]
    both = named.joined(there)
    return [*told, *(f"wrote {path}" for path in both.save(files.folder))] if both.names() else []


def write(page: Page, files: Files) -> list[Path]:
    """Write the report, remove pictures that it no longer has, and return its files.

    A README beside it that marks a place for the verdicts is given them.
    """
    files.figures.mkdir(parents=True, exist_ok=True)
    wanted = {files.figures / f"{figure.name}.png": figure.png for figure in page.committed}
    for path in set(files.figures.glob("*.png")) - wanted.keys():
        path.unlink()
    for path, png in wanted.items():
        path.write_bytes(png)
    files.page.write_text(html(page, files.to_code(files.page)), encoding="utf-8")
    files.markdown.write_text(_markdown(page, files), encoding="utf-8")
    readme.write(files.readme, page.summary)
    return [files.page, files.markdown, files.figures]


def differences(page: Page, files: Files) -> list[str]:
    """Return how RESULTS.md and README.md differ from the page, and which pictures are missing.

    RESULTS.md ends with checksums of what only the page shows. The bits of plots are not compared.
    """
    there = files.markdown.read_bytes() if files.markdown.exists() else b""
    faults = [f"{files.markdown} is not what {files.folder} says now"] * (there != _markdown(page, files).encode())
    if readme.differs(files.readme, page.summary):
        faults.append(f"the verdicts in {files.readme} are not what {files.folder} says now")
    pictures = [files.figures / f"{figure.name}.png" for figure in page.committed]
    return faults + [f"{path} is missing" for path in pictures if not path.exists()]


def log_plots(page: Page, found: Tables) -> list[str]:
    """Log each plot to the runs that it shows, if they are in the store. Returns messages for the user."""
    by_run: dict[str, dict[str, bytes]] = {}
    for figure in page.figures:
        for run_id in set(found.runs["run_id"]) & set(figure.runs):
            by_run.setdefault(run_id, {})[figure.name] = figure.png
    for run_id, plots in by_run.items():
        artifacts.log_files(run_id, {f"{name}.png": png for name, png in plots.items()}, "plots")
    return [f"{len(by_run)} runs were given plots"]


def draw(entry: Entry, directory: Path) -> list[Path]:
    """Write the cost curves of an experiment's runs on real data, and its newest samples; return the files.

    Raises StoreError if the store cannot be read and ReproError if the reported curve cannot.
    """
    directory.mkdir(parents=True, exist_ok=True)
    runs = [run for run in reader.runs(entry.name) if run.tags.get(names.DATA_STATUS) != "stand-in" and run.metrics]
    if not runs:
        return []
    costs = {_label(run): reader.history(run.run_id, names.COST) for run in reversed(runs)}
    written = [directory / f"{entry.name}_cost.png"]
    title = f"{entry.name}: training cost against the reported curve"
    curve = images.reported_curve(entry.file, entry.spec.reported[-1]) if entry.spec.reported else None
    images.cost_curve(title, costs, curve).savefig(written[0])
    samples = reader.last_image(runs[0].run_id, "samples")
    if samples is not None:
        written.append(directory / f"{entry.name}_samples.png")
        samples.save(written[1])
    return written


def notes(evidence: Evidence) -> dict[str, Note]:
    """Return notes by run id, for all runs and for the parents of their seeds. Raises StoreError."""
    found: dict[str, Note] = {}
    for entry in all_entries():
        runs = evidence.tables.runs_of(entry.name)
        judged = [each for each in evidence.verdicts if each.experiment == entry.name]
        tags = {names.VERDICT: judged[-1].label} if judged else {}
        for run in runs[runs["status"] == "FINISHED"].to_dict("records"):
            found[run["run_id"]] = Note(_of_run(entry, run, evidence), tags if run["comparable"] else {})
        for parent in reader.parents(entry.name):
            if parent.tags.get(names.SIGNATURE) == entry.spec.signature and tags:
                found[parent.run_id] = Note(_of_experiment(entry, evidence), tags)
    return found


def _of_run(entry: Entry, run: dict[str, Any], evidence: Evidence) -> str:
    lines = [
        f"**{entry.name}, seed {run['seed']}**: training cost {run['cost']:.4f} nats per image after epoch "
        f"{run['epochs']}, test negative ELBO {run['test_neg_elbo']:.4f}, on {run['data']}."
    ]
    if not run["comparable"]:
        return "\n\n".join([*lines, f"Not comparable with the reported cost: {run['reason']}."])
    if entry.spec.variant_of:
        change = "; ".join(f"{key}: {old} → {new}" for key, (old, new) in variants.changed(entry).items())
        lines.append(f"A variant of {entry.spec.variant_of}: {change}.")
    elif entry.spec.reported:
        lines.append(_of_experiment(entry, evidence))
    return "\n\n".join(lines)


def _of_experiment(entry: Entry, evidence: Evidence) -> str:
    judged = [each for each in evidence.verdicts if each.experiment == entry.name]
    return "\n\n".join(f"**{entry.name}, epoch {each.epoch}: {each.label}.** {meaning(each)}" for each in judged)


def _label(run: reader.RunRecord) -> str:
    return f"seed {run.params.get(names.SEED, '?')}" + ("" if run.comparable else " (not comparable)")


def _markdown(page: Page, files: Files) -> str:
    """Return the page as Markdown, with a checksum of the tables, from which the page's plots are drawn."""
    pictures, code = os.path.relpath(files.figures, files.markdown.parent), files.to_code(files.markdown)
    text = markdown(page, pictures, code, also=("verdicts", "variants"))
    tables = b"".join(path.read_bytes() for path in sorted(files.folder.glob("*.csv")))
    return f"{text}<!-- checksum of the tables: {hashlib.sha256(tables).hexdigest()} -->\n"


def _copy_picture(evidence: Evidence, here: set[str], name: str, kind: str, files: Files) -> None:
    """Copy a sheet of images of the run that the report shows, if that run is in `here`. Raises StoreError."""
    with suppress(MissingError):
        run_id = evidence.measurement(name, MEASUREMENT_OF.get(kind, "latents")).run_id
        if run_id in here:
            content = artifacts.read_file(run_id, f"{artifacts.FOLDER}/{kind}.png")
            files.figures.mkdir(parents=True, exist_ok=True)
            (files.figures / f"{name}_{kind}.png").write_bytes(content)
