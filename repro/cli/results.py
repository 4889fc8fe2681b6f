"""Commands that evaluate runs, compare them with the reported results, write the report, and open the UI."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from repro.cli.options import AsJson, DataDir, RunId, Threads, app, number, value
from repro.errors import ReproError, UsageError
from repro.spec import registry
from repro.terminal import table, wrapped

if TYPE_CHECKING:
    from repro.analysis.tables import Tables
    from repro.measurement import Measurement, Row
    from repro.runs.load import FinishedRun

EXIT_DIFFERENT, EXIT_OPEN = 4, 5
SPARE_PLAN = ("t", "half_95%_of_excess", "data")
SPARE_RANK = ("nats_there", "farthest_at_epoch")
SPARE_RUN = ("status", "data", "test_neg_elbo")
"""Columns that a narrow terminal leaves out, the first one first."""
MOST_POINTS = 50  # of a series that `evaluate` prints
Results = Annotated[Path | None, value("DIR", "Read the tables in DIR, not the tracking store.")]


@app.command()
def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Experiments, also with changed settings: NAME,KEY=VALUE; all if not given."
        ),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    results: Results = None,
    figures: Annotated[Path | None, value("DIR", "Also draw cost curves and samples into DIR.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 4 if a result is different, 5 if one is interim or not comparable.")
    ] = False,
) -> int:
    """Decide which reported costs are reproduced.

    Prints a verdict on each, a comparison of the cost curves, and the runs. Of several experiments that are named, it
    also compares each two over the seeds that they share.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv: should be one of the two")
    from repro.analysis import curves, machines, paired, verdicts
    from repro.analysis.report.sections import run_rows
    from repro.analysis.report.write import draw

    settings = [paired.Setting.read(name) for name in names or registry.names()]
    entries = list({setting.entry.name: setting.entry for setting in settings}.values())
    tables = _tables(entries, results)
    found = verdicts.verdicts(entries, tables)
    if as_json:
        print(json.dumps(verdicts.records(found), indent=2))
    elif as_csv:
        print(verdicts.as_csv(found), end="")
    else:
        for title, rows, spare in (
            ("Verdicts; costs in nats per image", verdicts.rows(found), ()),
            ("Plans: seeds, commit and outcome", verdicts.plan_rows(found), SPARE_PLAN),
            ("Rank of each published curve among ours", curves.rows(entries, tables), SPARE_RANK),
            ("Machines that trained the seeds", machines.rows(found, tables), ()),
            ("Paired differences, first - second, nats per image", paired.rows(settings, tables) if names else [], ()),
            ("Runs", run_rows(entries, tables), SPARE_RUN),
        ):
            if rows:
                print(f"\n{title}")
                table(rows, spare=spare)
        for word, meaning in verdicts.MEANINGS.items() if found else ():
            print(wrapped(f"{word}: {meaning}.", indent=2))
    for entry in entries if figures else []:
        _note(*(f"wrote {path}" for path in draw(entry, Path(str(figures)))))
    if not check:
        return 0
    if any(each.verdict.startswith("different") for each in found):
        return EXIT_DIFFERENT
    return 0 if all(each.decided for each in found) else EXIT_OPEN


@app.command()
def check(
    curve: Annotated[Path, typer.Argument(metavar="CURVE.csv", help="Training costs, in the columns epoch and cost.")],
    against: Annotated[str, value("NAME", "The experiment to compare with.")],
    per: Annotated[
        Literal["image", "batch", "pixel", "bits"],
        typer.Option(
            help="The unit of a cost: nats per image, summed over the batch, or as a mean per pixel and channel; "
            "or bits per pixel and channel."
        ),
    ] = "image",
    results: Results = None,
    as_json: AsJson = False,
) -> int:
    """Compare a training curve of any program with the seeds of an experiment.

    It is inside their band, or leaves it at an epoch; then the variant or the unit that it looks like is named. Exit
    codes: 0 inside, 4 outside.
    """
    from repro.analysis import check as checking
    from repro.analysis.claims import Evidence
    from repro.analysis.tables import all_entries

    entry = registry.get(against)
    costs = checking.read_curve(curve)
    found = checking.check(costs, entry, Evidence(_tables(all_entries(), results)), per)
    if as_json:
        print(json.dumps(dataclasses.asdict(found) | {"inside": found.inside}, indent=2))
    else:
        print(*found.sentences(), sep="\n")
    return 0 if found.inside else EXIT_DIFFERENT


@app.command()
def claims(as_json: AsJson = False, results: Results = None) -> None:
    """Check the notebook's claims against the runs.

    Prints each claim with its criterion, its evidence and its verdict.
    """
    from repro.analysis.claims import Evidence, judge
    from repro.analysis.tables import all_entries

    found = judge(Evidence(_tables(all_entries(), results)))
    if as_json:
        rows = [vars(claim) | vars(finding) for claim, finding in found]
        print(json.dumps([{key: row[key] for key in row if key != "decide"} for row in rows], indent=2))
        return
    for claim, finding in found:
        print(f"{claim.name}: {finding.verdict.upper()}")
        for label, line in (
            ("notebook", f'"{claim.sentence}"'),
            ("measured", claim.measurement),
            ("decides", claim.criterion),
            ("evidence", finding.evidence),
        ):
            print(wrapped(f"{label:>9}: {line}", indent=11))
        print()


@app.command()
def evaluate(
    run_id: RunId,
    samples: Annotated[int, typer.Option(min=2, metavar="K", help="Draws of z for each image of log p(x).")] = 5000,
    draws: Annotated[int, typer.Option(min=2, metavar="L", help="Draws of z for each test image of the ELBO.")] = 100,
    images: Annotated[int, number("Number of test images for log p(x).", 2)] = 500,
    only: Annotated[str, value("RANGES", "Training images, 0-1016,5000, to compare with the others.")] = "",
    measure: Annotated[
        list[str] | None, value("NAME", "A measurement; may be repeated. `evaluation` if not given.")
    ] = None,
    study: Annotated[list[str] | None, typer.Option(hidden=True, help="The former name of --measure.")] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure the model of a finished run.

    `evaluation` measures log p(x), the test ELBO and the active units. The results are logged to the run.

    On one core it takes about 2 minutes for mnist_fc, 4 for mnist_conv and 9 for cifar_conv. The time is proportional
    to K * N + 10,000 * L. An interrupted command exits with 130 and logs nothing.
    """
    from repro import provenance
    from repro.evaluation import measurements
    from repro.evaluation.likelihood import Options, caveats, parse_ranges
    from repro.runs import load

    wanted = measurements.check_names([*(measure or []), *(study or [])] or ["evaluation"])
    options = Options(samples, draws, images, parse_ranges(only))
    run = load.load(run_id, data_dir, threads or provenance.cores())
    found: dict[str, Any] = {}
    for name in wanted:
        measured = measurements.MEASUREMENTS[name](run, options, _note)
        found[name] = [vars(row) for row in measured.rows]
        if not as_json:
            _print_measurement(run, name, measured.rows)
            if name == "evaluation":
                print(f"\n{caveats(run.spec, measured)}")
        _log_whole(run, name, measured)
    if as_json:
        about = {"run_id": run.record.run_id, "experiment": run.record.experiment, "seed": run.seed}
        print(json.dumps(about | {"data": run.dataset.origin, "measurements": found}, indent=2))


@app.command()
def report(
    results: Annotated[Path, value("DIR", "Directory of the tables; the report is written there.")] = Path("results"),
    update: Annotated[
        bool, typer.Option("--update", help="First copy the runs of the tracking store into the tables.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if the report does not match the tables.")
    ] = False,
) -> int:
    """Write the report: DIR/report.html, and RESULTS.md beside DIR."""
    from repro.analysis import sweeps
    from repro.analysis.claims import Evidence
    from repro.analysis.report import write
    from repro.analysis.report.sections import build
    from repro.analysis.tables import Tables, all_entries

    if update and check:
        raise UsageError("--update and --check: should be one of the two")
    files = write.Files(results)
    found = _tables(all_entries(), None) if update else None
    if found:
        _note(*write.update(found, files))
        searched, faults = sweeps.from_store(all_entries())
        _note(*(f"note: {fault}" for fault in faults), *write.update_sweeps(searched, files))
    page = build(Evidence(Tables.from_files(results)), sweeps.Sweeps.from_files(results), files.figures)
    if found:
        _note(*write.log_plots(page, found))
    if check:
        faults = write.differences(page, files)
        _note(*(f"{fault}; update it with: python -m repro report --results {results}" for fault in faults))
        return int(bool(faults))
    for path in write.write(page, files):
        print(f"wrote {path}")
    return 0


@app.command("ui")
def ui_(
    port: Annotated[int, number("Port on 127.0.0.1.", most=65535)] = 5000,
    results: Annotated[Path, value("DIR", "Directory of the report, to which the start page links.")] = Path("results"),
    open_: Annotated[bool, typer.Option("--open", help="Open the start page in your browser.")] = False,
) -> int:
    """Serve the MLflow UI on the tracked runs, for this machine only.

    It prints the address of a start page, with links to the runs, the seeds compared, the studies and the report.
    """
    from repro.tracking import ui

    return ui.serve(port, results / "report.html", open_)


def _note(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _log_whole(run: "FinishedRun", name: str, measured: "Measurement") -> None:
    """Log a measurement. An interrupt takes effect after all of it is logged."""
    from repro import provenance
    from repro.signals import Interrupted, interruptible
    from repro.tracking import artifacts

    try:
        with interruptible() as check_interrupt:
            artifacts.log_measurement(run.record, name, measured, provenance.command())
            check_interrupt()
    except Interrupted as stop:
        raise typer.Exit(stop.exit_code) from None


def _print_measurement(run: "FinishedRun", name: str, rows: list["Row"]) -> None:
    """Print the single numbers in one table, and each series over `x` in a table of its own."""
    record, dataset = run.record, run.dataset
    print(f"\n{name} of run {record.run_id}: {record.experiment}, seed {run.seed}")
    print(f"data: {dataset.name}, {dataset.status}, {dataset.origin}")
    single = [row for row in rows if row.x is None]
    if single:
        table(
            [
                {
                    "quantity": row.quantity,
                    "of": row.group,
                    "value": row.value,
                    "+-": row.standard_error,
                    "unit": row.unit,
                }
                for row in single
            ],
            decimals=4,
        )
        print("+- is the Monte Carlo standard error of the draws, not of images or seeds.")
    series: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        if row.x is not None:
            series.setdefault(row.quantity, {}).setdefault(row.x, {})[row.group or "value"] = row.value
    for quantity, by_x in series.items():
        if len(by_x) > MOST_POINTS:
            print(f"\n{quantity}: {len(by_x)} points, see --json")
            continue
        print(f"\n{quantity}")
        groups = dict.fromkeys(group for point in by_x.values() for group in point)
        table([{"x": f"{x:g}"} | {group: by_x[x].get(group) for group in groups} for x in sorted(by_x)])


def _tables(entries: list[registry.Entry], results: Path | None) -> "Tables":
    """Read the runs of these experiments from the store or from committed tables. Prints a note for a damaged run."""
    from repro.analysis import tables
    from repro.tracking import store

    if results is not None:
        return tables.Tables.from_files(results)
    if not store.exists():
        remedy = "start with: python -m repro run mnist_fc; or read committed results with --results DIR"
        raise ReproError(f"no runs yet in {store.folder()}; {remedy}")
    found, faults = tables.from_store(entries)
    _note(*(f"note: {fault}" for fault in faults))
    return found
