"""Commands that compare runs with the reported results, write the report, and open the UI."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from repro.cli import options
from repro.cli.options import AsJson, app, examples, number, value
from repro.errors import UsageError
from repro.spec import registry
from repro.terminal import phase, table, wrapped

if TYPE_CHECKING:
    from repro.analysis.tables import Tables

LOADING = "loading pandas and MLflow"
EXIT_DIFFERENT, EXIT_OPEN = 4, 5
SPARE_PLAN = ("t", "half_95%_of_excess", "data")
SPARE_RANK = ("nats_there", "farthest_at_epoch")
SPARE_RUN = ("status", "data", "test_neg_elbo")
"""Columns that a narrow terminal leaves out, the first one first."""
FEW = 12
"""Runs that `compare` lists of all experiments together; it lists all runs of those that are named."""
Results = Annotated[Path | None, value("DIR", "Read the tables in DIR, not the tracking store.")]


@app.command(epilog=examples("compare mnist_fc", "compare mnist_fc mnist_fc,optim.lr=0.0003 --results results"))
def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Experiments, also with changed settings: NAME,KEY=VALUE; all if not given.",
            autocompletion=options.experiments,
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

    Prints a verdict on each, a comparison of the cost curves, and the runs: all runs of the experiments that are named,
    or a few of all. Of several experiments that are named, it also compares each two over the seeds that they share.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv: should be one of the two")
    for name in names or []:
        registry.get(name.partition(",")[0])

    with phase(LOADING):
        from repro.analysis import curves, machines, paired, verdicts
        from repro.analysis.report.sections import run_rows
        from repro.analysis.report.write import draw

    settings = [paired.Setting.read(name) for name in names or registry.names()]
    entries = list({setting.entry.name: setting.entry for setting in settings}.values())
    tables = _tables(entries, results)
    with phase("comparing the runs"):
        found = verdicts.verdicts(entries, tables)
    if as_json:
        print(json.dumps(verdicts.records(found), indent=2))
    elif as_csv:
        print(verdicts.as_csv(found), end="")
    else:
        runs = run_rows(entries, tables)
        shown = len(runs) if names else FEW
        for title, rows, spare in (
            ("Verdicts; costs in nats per image", verdicts.rows(found), ()),
            ("Plans: seeds, commit and outcome", verdicts.plan_rows(found), SPARE_PLAN),
            ("Rank of each published curve among ours", curves.rows(entries, tables), SPARE_RANK),
            ("Machines that trained the seeds", machines.rows(found, tables), ()),
            ("Paired differences, first - second, nats per image", paired.rows(settings, tables) if names else [], ()),
            ("Runs", runs[:shown], SPARE_RUN),
        ):
            if rows:
                print(f"\n{title}")
                table(rows, spare=spare)
        if runs[shown:]:
            print(f"and {len(runs) - shown} more: `compare NAME` lists all of an experiment")
        print()
        for word, meaning in verdicts.MEANINGS.items() if found else ():
            print(wrapped(f"{word}: {meaning}.", indent=2))
    for entry in entries if figures else []:
        with phase(f"drawing {entry.name}"):
            drawn = draw(entry, Path(str(figures)))
        _note(*(f"wrote {path}" for path in drawn))
    if not check:
        return 0
    if any(each.verdict.startswith("different") for each in found):
        return EXIT_DIFFERENT
    return 0 if all(each.decided for each in found) else EXIT_OPEN


@app.command(
    epilog=examples("check my_curve.csv --against mnist_fc", "check my_curve.csv --against mnist_fc --results results")
)
def check(
    curve: Annotated[Path, typer.Argument(metavar="CURVE.csv", help="Training costs, in the columns epoch and cost.")],
    against: Annotated[
        str,
        typer.Option(metavar="NAME", help="The experiment to compare with.", autocompletion=options.experiments),
    ],
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
    """Compare a training curve of any program with our seeds.

    It is inside their band, or leaves it at an epoch; then the variant or the unit that it looks like is named. Exit
    codes: 0 inside, 4 outside.
    """
    entry = registry.get(against)

    with phase(LOADING):
        from repro.analysis import check as checking
        from repro.analysis.claims import Evidence
        from repro.analysis.tables import all_entries

    costs = checking.read_curve(curve)
    tables = _tables(all_entries(), results)
    with phase("comparing the curve with our seeds"):
        found = checking.check(costs, entry, Evidence(tables), per)
    if as_json:
        print(json.dumps(dataclasses.asdict(found) | {"inside": found.inside}, indent=2))
    else:
        print(*found.sentences(), sep="\n")
    return 0 if found.inside else EXIT_DIFFERENT


@app.command(epilog=examples("claims", "claims --results results"))
def claims(as_json: AsJson = False, results: Results = None) -> None:
    """Check the notebook's claims against the runs.

    Prints each claim with its criterion, its evidence and its verdict.
    """
    with phase(LOADING):
        from repro.analysis.claims import Evidence, judge
        from repro.analysis.tables import all_entries

    tables = _tables(all_entries(), results)
    with phase("judging the claims"):
        found = judge(Evidence(tables))
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


@app.command(epilog=examples("report", "report --update"))
def report(
    results: Annotated[Path, value("DIR", "Directory of the tables; the report is written there.")] = Path("results"),
    update: Annotated[
        bool, typer.Option("--update", help="First copy the runs of the tracking store into the tables.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if the report does not match the tables.")
    ] = False,
) -> int:
    """Write the report: DIR/report.html, and RESULTS.md beside DIR.

    The verdicts are also written into a README.md beside DIR that marks a place for them.
    """
    if update and check:
        raise UsageError("--update and --check: should be one of the two")

    with phase(LOADING):
        from repro.analysis import sweeps
        from repro.analysis.claims import Evidence
        from repro.analysis.report import write
        from repro.analysis.report.sections import build
        from repro.analysis.tables import Tables, all_entries

    files = write.Files(results)
    found = _tables(all_entries(), None) if update else None
    if found:
        with phase("updating the tables and drawing the samples"):
            _note(*write.update(found, files))
            searched, faults = sweeps.from_store(all_entries())
            _note(*(f"note: {fault}" for fault in faults), *write.update_sweeps(searched, files))
    with phase("judging the runs and drawing the figures"):
        page = build(Evidence(Tables.from_files(results)), sweeps.Sweeps.from_files(results), files.figures)
    if found:
        with phase("logging the figures to the tracking store"):
            _note(*write.log_plots(page, found))
    if check:
        with phase("comparing the report with the tables"):
            faults = write.differences(page, files)
        _note(*(f"{fault}; update it with: python -m repro report --results {results}" for fault in faults))
        return int(bool(faults))
    with phase("writing the report"):
        written = write.write(page, files)
    for path in written:
        print(f"wrote {path}")
    return 0


@app.command("ui", epilog=examples("ui --open", "ui --port 5001"))
def ui_(
    port: Annotated[int, number("Port on 127.0.0.1.", most=65535)] = 5000,
    results: Annotated[Path, value("DIR", "Directory of the report, to which the start page links.")] = Path("results"),
    open_: Annotated[bool, typer.Option("--open", help="Open the start page in your browser.")] = False,
) -> int:
    """Serve the MLflow UI on the tracked runs, for this machine only.

    It prints the address of a start page, with links to the runs, the seeds compared, the studies and the report.
    """
    from repro.runs import recover
    from repro.tracking import ui

    recover.settle()
    return ui.serve(port, results / "report.html", open_)


def _note(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def _tables(entries: list[registry.Entry], results: Path | None) -> "Tables":
    """Read the runs of these experiments from the store or from committed tables. Prints a note for a damaged run."""
    with phase(LOADING):
        from repro.analysis import tables
        from repro.runs import recover
        from repro.tracking import store

    if results is not None:
        return tables.Tables.from_files(results)
    store.require()
    with phase("reading the runs of the tracking store"):
        recover.settle()
        found, faults = tables.from_store(entries)
    _note(*(f"note: {fault}" for fault in faults))
    return found
