"""Commands on the runs that are kept: runs, rm, prune, sync, export, import."""

import json
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
from repro.terminal import duration, phase, say, table
from repro.text import plural

if TYPE_CHECKING:
    from repro.runs.kept import KeptRun

LOADING = "loading PyTorch and MLflow"
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

    with phase(LOADING):
        from repro.runs import kept, recover

    with phase("reading the runs"):
        recover.settle()
        found = kept.runs(entries, state or "", trials)
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=2))
    elif found:
        table([_row(run) for run in found], spare=("size", "name"))
    else:
        say("no such run; start one with: python -m repro run mnist_fc")


@app.command(epilog=examples("rm 1a2b3c", "rm 1a2b3c 4d5e6f --yes"))
def rm(
    run_ids: Annotated[list[str], options.run_id("The ids of runs, or their first characters.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> int:
    """Delete runs: in the tracking store, and their folders on this disk.

    A run that is trained at the moment is refused.
    """
    with phase(LOADING):
        from repro.runs import kept

    with phase("looking for the runs"):
        sizes = {each: kept.size(each) for each in kept.find(run_ids)}
    deleted = []
    with options.output(as_json):
        for each, size in sizes.items():
            say(f"run {each}, {decimal(size)}")
        if not _confirmed(f"delete {plural(len(sizes), 'run')}, {decimal(sum(sizes.values()))}?", yes):
            return 1
        with phase("deleting") as show:
            for each, size in sizes.items():
                show(f"deleting run {each[:8]}")
                kept.remove(each)
                deleted.append({"run_id": each, "bytes": size})
        say(f"deleted {plural(len(deleted), 'run')}")
    if as_json:
        print(json.dumps(deleted, indent=2))
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
    with phase(LOADING):
        from repro.runs import kept, recover
        from repro.runs.run_dir import BusyError

    with phase("looking for what no command needs"):
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
            with phase("deleting"):
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

    with phase(LOADING):
        from repro.runs import bundle
        from repro.tracking import reader, store

    store.require()
    wanted = ("FINISHED", "FAILED", *(("RUNNING", "KILLED") if unfinished else ()))
    with phase("looking for the runs"):
        run_ids = [run.run_id for entry in entries for run in reader.runs(entry.name) if run.status in wanted]
    if not run_ids:
        raise ReproError(f"no such run of {', '.join(entry.name for entry in entries)} in the tracking store")
    with phase(f"writing {plural(len(run_ids), 'run')}") as show:
        bundle.write(out, run_ids, partial(say, error=True), show)
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
    with phase(LOADING):
        from repro.runs import bundle

    said = {}
    with phase("checking the files") as show:
        bundles = [bundle.Bundle(file) for file in files]
        for each in bundles:
            bundle.compare(each)
        for each in bundles:
            said[str(each.file)] = found = bundle.compare(each)  # again: two bundles may have the same run
            for number, run_id in enumerate(found["new"], start=1):
                show(f"{each.file.name}: run {number} of {len(found['new'])}")
                bundle.take_in(each, run_id)
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
    chosen = [ids.find(run_id)] if run_id else []

    found: dict[str, list[str]] = {"delivered": [], "failed": [], "busy": []}
    with options.output(as_json, quiet):
        with phase(LOADING):
            from repro.runs import recover, run_dir, runner
            from repro.tracking import store

            recover.settle()
        chosen = chosen or ids.here()
        say(f"sync: {plural(len(chosen), 'run')} of this directory, with {store.shown_uri()}")
        with phase("delivering") as show:
            for number, each in enumerate(chosen, start=1):
                show(f"delivering run {number} of {len(chosen)}")
                try:
                    found["delivered" if runner.deliver(each, say) else "failed"].append(each)
                except run_dir.BusyError as busy:
                    say(str(busy))
                    found["busy"].append(each)
        failed, busy_runs = len(found["failed"]), len(found["busy"])
        say(
            f"{plural(len(found['delivered']), 'run')} with nothing left to deliver"
            + (f"; {failed} not delivered" if failed else "")
            + (f"; {busy_runs} trained at the moment" if busy_runs else "")
        )
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
