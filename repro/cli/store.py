"""Commands on the runs that are kept: sync, export, import."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from repro.cli import options
from repro.cli.options import AsJson, Names, Quiet, app, examples, value
from repro.errors import ReproError
from repro.runs import ids
from repro.spec import registry
from repro.terminal import say


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
    chosen = [ids.find(run_id)] if run_id else ids.here()

    from repro.runs import run_dir, runner

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
