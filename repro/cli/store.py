"""Commands on the runs that are kept: runs, rm, prune, sync, export, import."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.filesize import decimal

from repro.cli import options
from repro.cli.options import AsJson, Names, Quiet, app, examples, value
from repro.errors import ReproError
from repro.runs import ids
from repro.spec import registry
from repro.terminal import duration, say, table
from repro.text import plural

if TYPE_CHECKING:
    from repro.runs.kept import KeptRun

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command(epilog=examples("runs mnist_fc", "runs --state killed --json"))
def runs(
    names: Names = None,
    state: Annotated[
        Literal["finished", "failed", "killed", "running", "cut off"] | None,
        typer.Option(help="Only runs in this state; `cut off` ended without a word and can be resumed."),
    ] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Also the trials of sweeps.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs, the newest first: state, epoch, cost, age and size."""
    entries = {registry.get(name).name for name in names or []}

    from repro.runs import kept, recover

    recover.settle()
    found = kept.runs(entries, state or "", trials)
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=2))
    elif found:
        table([_row(run) for run in found])
    else:
        say("no such runs; start one with: python -m repro run mnist_fc")


@app.command(epilog=examples("rm 1a2b3c", "rm 1a2b3c 4d5e6f --yes"))
def rm(
    run_ids: Annotated[list[str], options.run_id("The ids of runs, or their first characters.")],
    yes: Yes = False,
) -> int:
    """Delete runs: in the tracking store, and their folders on this disk.

    A run that is trained at the moment is refused.
    """
    from repro.runs import kept

    found = kept.find(run_ids)
    sizes = [kept.size(each) for each in found]
    for each, size in zip(found, sizes, strict=True):
        say(f"run {each}, {decimal(size)}")
    if not _confirmed(f"delete {plural(len(found), 'run')}, {decimal(sum(sizes))}?", yes):
        return 1
    for each in found:
        kept.remove(each)
    say(f"deleted {plural(len(found), 'run')}")
    return 0


@app.command(epilog=examples("prune --dry-run", "prune --yes"))
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would free; delete nothing.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Free disk space: delete what no command needs.

    That is checkpoints of finished runs, folders of runs that were deleted in MLflow, and abandoned trials. Runs that
    have lost their process and their folder are marked as killed.
    """
    from repro.runs import kept, recover
    from repro.runs.run_dir import BusyError

    recover.settle()
    found = kept.waste()
    total = decimal(sum(each.bytes for each in found))
    with options.output(as_json):
        if found:
            table([{"run": each.run_id[:8], "what": each.reason, "size": decimal(each.bytes)} for each in found])
        say(f"{total} can be freed" if found else "nothing to free")
        if found and not dry_run:
            if not _confirmed(f"free {total}?", yes):
                return 1
            for each in found:
                try:
                    kept.clean(each)
                except BusyError as busy:
                    say(f"note: {busy}; it is left", error=True)
            say("done")
    if as_json:
        rows = [{"run_id": each.run_id, "what": each.reason, "bytes": each.bytes} for each in found]
        print(json.dumps(rows, indent=2))
    return 0


@app.command(epilog=examples("export mnist_fc --out mnist_fc.zip", "export --out all.zip --unfinished"))
def export(
    out: Annotated[Path, value("FILE", "The bundle to write.")],
    names: Names = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also runs that have not finished, with their newest checkpoint.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Write runs to a bundle, one file for another machine.

    It has specs, plans, costs of every epoch, final weights, data fingerprints, machines and the source code.
    """
    entries = [registry.get(name) for name in names or registry.names()]

    from repro.runs import bundle
    from repro.tracking import reader

    wanted = ("FINISHED", "FAILED", *(("RUNNING", "KILLED") if unfinished else ()))
    run_ids = [run.run_id for entry in entries for run in reader.runs(entry.name) if run.status in wanted]
    if not run_ids:
        raise ReproError(f"no such run of {', '.join(entry.name for entry in entries)} in the tracking store")
    bundle.write(out, run_ids, partial(print, file=sys.stderr))
    said = {"file": str(out), "bytes": out.stat().st_size, "runs": run_ids}
    print(json.dumps(said, indent=2) if as_json else f"wrote {len(run_ids)} runs to {out} ({said['bytes']:,} bytes)")
    return 0


@app.command("import", epilog=examples("import mnist_fc.zip", "import first.zip second.zip --json"))
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Bundles that `export` has written.")],
    as_json: AsJson = False,
) -> int:
    """Take the runs of bundles into this tracking store.

    They keep their ids. A run that is here already must be the same. All files are checked before a run is written.
    """
    from repro.runs import bundle

    bundles = [bundle.Bundle(file) for file in files]
    for each in bundles:
        bundle.compare(each)
    said = {}
    for each in bundles:
        said[str(each.file)] = found = bundle.compare(each)  # again: two bundles may have the same run
        bundle.take_in(each, found["new"])
    if as_json:
        print(json.dumps(said, indent=2))
    for file, found in said.items() if not as_json else ():
        print(f"{file}: {len(found['new'])} runs taken in, {len(found['here'])} were here already")
    return 0


@app.command(epilog=examples("sync", "sync 1a2b3c"))
def sync(
    run_id: Annotated[str, options.run_id("A run; all runs if not given.")] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Deliver to the tracking store what it has not received yet."""
    named = [ids.find(run_id)] if run_id else []

    from repro.runs import recover, run_dir, runner

    recover.settle()
    chosen = named or ids.here()

    found: dict[str, list[str]] = {"delivered": [], "failed": [], "busy": []}
    with options.output(as_json, quiet):
        for each in chosen:
            try:
                found["delivered" if runner.deliver(each, say) else "failed"].append(each)
            except run_dir.BusyError as busy:
                say(str(busy))
                found["busy"].append(each)
    if as_json:
        print(json.dumps(found, indent=2))
    return int(bool(found["failed"]))


def _confirmed(question: str, yes: bool) -> bool:
    """Return the answer on the terminal; no answer is a no."""
    try:
        return yes or typer.confirm(question, err=True)
    except typer.Abort:
        say("", error=True)
        return False


def _row(run: "KeptRun") -> dict[str, Any]:
    days = int(run.age // 86_400)
    return {
        "run": run.run_id[:8],
        "experiment": run.experiment,
        "name": run.name,
        "state": run.state,
        "epoch": f"{run.epoch}/{run.epochs or '?'}",
        "cost": None if run.cost is None else f"{run.cost:.2f}",
        "age": plural(days, "day") if days else duration(run.age),
        "size": decimal(run.bytes),
    }
