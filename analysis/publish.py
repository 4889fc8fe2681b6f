"""Writing the report: its tables, its pictures, the page and its Markdown, and noticing when they drift apart."""

import os
from pathlib import Path

from repro.analysis import notes, sweeps
from repro.analysis.claims import Evidence
from repro.analysis.claims.claim import MissingError
from repro.analysis.figures import PICTURES, STUDY_OF, Files
from repro.analysis.frames import Frames, diverged, from_files
from repro.analysis.page import Figure, Page, html, markdown
from repro.analysis.sweeps import Sweeps

from repro.errors import ReproError
from repro.tracking import measurements
from repro.tracking.notes import annotate

MAPPED = 800  # points of a latent map that the tables keep: enough to see it by


def update(found: Frames, files: Files) -> list[str]:
    """Take runs of the tracking store into the tables, beside those of other machines that are there already.

    Only runs that count, or have diverged, are taken. The pictures of their studies are copied, and each run in the
    store is given its note. Returns what to tell. Raises ReproError if the tables that are there are damaged.
    """
    usable = found.runs["comparable"].astype(bool) & ~found.runs["data"].str.endswith("(stand-in)")
    usable |= diverged(found.runs)
    kept = found.only(found.runs.loc[usable, "run_id"])
    points = kept.measurements["quantity"].str.startswith("latent_") & (kept.measurements["x"] >= MAPPED)
    kept.measurements = kept.measurements[~points]
    before = from_files(files.folder) if (files.folder / "runs.csv").exists() else None
    both = kept.joined(before) if before else kept
    told = [f"wrote {path}" for path in both.save(files.folder)]
    evidence = Evidence(both)
    for kind in PICTURES:
        for name in sorted(set(kept.runs["experiment"])):
            told += _copy_picture(evidence, kept, name, kind, files)
    elsewhere = set(both.runs["run_id"]) - set(kept.runs["run_id"])
    given = annotate({run_id: note for run_id, note in notes.annotated(evidence).items() if run_id not in elsewhere})
    return [*told, f"{given} runs were given their notes"]


def update_sweeps(found: Sweeps, files: Files) -> list[str]:
    """Take studies on real data into the tables, beside those of other machines. Returns what to tell."""
    real = ~found.trials["data"].str.endswith("(stand-in)")
    kept = Sweeps(found.trials[real], found.retrained[found.retrained["study"].isin(found.trials[real]["study"])])
    both = kept.joined(sweeps.from_files(files.folder))
    return [f"wrote {path}" for path in both.save(files.folder)] if both.names() else []


def write(page: Page, files: Files) -> list[Path]:
    """Write the report; return its files."""
    written = {files.page: html(page), files.markdown: _markdown(page, files)}
    files.figures.mkdir(parents=True, exist_ok=True)
    wanted = {f"{figure.name}.png": figure.png for figure in figures_of(page)}
    for left in {path.name for path in files.figures.glob("*.png")} - wanted.keys():
        (files.figures / left).unlink()
    for name, png in wanted.items():
        (files.figures / name).write_bytes(png)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    return [*written, files.figures]


def log_plots(page: Page, found: Frames) -> list[str]:
    """Log each plot to the runs that it shows, as far as they are in the store. Returns what to tell."""
    here = set(found.runs["run_id"])
    by_run: dict[str, dict[str, bytes]] = {}
    for figure in figures_of(page):
        for run_id in here & set(figure.runs):
            by_run.setdefault(run_id, {})[figure.name] = figure.png
    for run_id, plots in by_run.items():
        measurements.log_plots(run_id, plots)
    return [f"{len(by_run)} runs were given plots"]


def drifted(page: Page, files: Files) -> list[str]:
    """What of RESULTS.md and its pictures is not what the tables say; of pictures only the names are compared."""
    there = files.markdown.read_text(encoding="utf-8") if files.markdown.exists() else ""
    faults = [f"{files.markdown} is not what {files.folder} says now"] * (there != _markdown(page, files))
    faults += [
        f"{files.figures / figure.name}.png is missing"
        for figure in figures_of(page)
        if not (files.figures / f"{figure.name}.png").exists()
    ]
    return faults


def _markdown(page: Page, files: Files) -> str:
    return markdown(page, os.path.relpath(files.figures, files.markdown.parent))


def figures_of(page: Page) -> list[Figure]:
    """Every picture of the page."""
    parts = [part for section in page.sections for part in (*section.parts, *section.folded)]
    return [part for part in parts if isinstance(part, Figure)]


def _copy_picture(evidence: Evidence, kept: Frames, name: str, kind: str, files: Files) -> list[str]:
    """Copy a sheet of images of the run that the report shows, if this store has that run."""
    study = STUDY_OF.get(kind, "latents")
    try:
        run_id = evidence.measured(name, study).run_id
    except MissingError:
        return []
    if run_id not in set(kept.runs["run_id"]):
        return []
    try:
        content = measurements.artifact(run_id, f"{measurements.FOLDER}/{kind}.png")
    except ReproError as error:
        return [f"note: {error}"]
    files.figures.mkdir(parents=True, exist_ok=True)
    (files.figures / f"{name}_{kind}.png").write_bytes(content)
    return []
