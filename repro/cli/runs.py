"""Commands that train: run, resume and verify; and sync, which delivers measurements to the tracking store."""

import json
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repro.cli import options
from repro.cli.options import (
    AsJson,
    DataChoice,
    DataDir,
    Device,
    Name,
    Names,
    RunId,
    SummaryFile,
    Threads,
    app,
    number,
    value,
)
from repro.errors import ReproError, UsageError
from repro.spec import overrides, registry

if TYPE_CHECKING:
    from repro.data import Dataset
    from repro.runs.config import RunConfig
    from repro.runs.result import RunResult
    from repro.runs.seeds import SeedsResult


@app.command()
def run(
    name: Name,
    seed: Annotated[int | None, number("Random seed; 0 if not given.", 0, options.LARGEST_SEED)] = None,
    seeds: Annotated[str | None, value("LIST", "Several seeds, such as 0-4 or 0,2,7-9; skips finished runs.")] = None,
    jobs: Annotated[int | None, number("Runs at a time, sharing the threads; 1 if not given.", most=64)] = None,
    epochs: Annotated[int | None, number("Same as --set training.epochs=N.", most=options.MOST_EPOCHS)] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as optim.lr=3e-4; may be repeated."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    data: DataChoice = "auto",
    data_dir: DataDir = None,
    summary: SummaryFile = None,
    resume: Annotated[
        bool, typer.Option(help="Resume the newest run of this experiment and seed, if there is one.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Train an experiment and track the run.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted.
    """
    spec, asked, faults = registry.get(name).spec, assignments or [], []
    if epochs is not None:
        asked = [*asked, f"training.epochs={epochs}"]
    if seed is not None and seeds is not None:
        faults.append(f"--seed {seed} and --seeds {seeds}: should be one of the two")
    if jobs is not None and seeds is None:
        faults.append(f"--jobs {jobs}: is for --seeds, such as --seeds 0-4; one seed is one job")
    if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
        faults.append(f"--summary {summary}: should be a file in a directory that exists")
    with options.collected(faults):
        chosen = (seed or 0,) if seeds is None else options.seeds(seeds)
    with options.collected(faults):
        spec = overrides.apply(spec, asked)
    if faults:
        raise UsageError(*faults)

    from repro.runs import run_dir

    config = options.config(name, device, threads, jobs or 1, data, data_dir)
    config = replace(config, spec=spec, seed=chosen[0], assignments=tuple(asked))
    if resume and seeds is None:
        run_id = run_dir.newest(config.experiment, spec, config.seed)
        if run_id:
            return _resume(run_id, data_dir, summary, as_json)
    with options.json_alone(as_json):
        dataset = config.load_data()  # before the slow imports, so that a fault of the data is reported at once

        from repro.runs import runner
        from repro.runs import seeds as several

        if seeds is None:
            result: RunResult | SeedsResult = _train(runner.begin(config, dataset), config, dataset)
        else:
            result = several.run(config, dataset, chosen, jobs or 1)
    return _give(result, summary, as_json)


@app.command("resume")
def resume_(run_id: RunId, data_dir: DataDir = None, summary: SummaryFile = None, as_json: AsJson = False) -> int:
    """Continue an interrupted run from its last checkpoint."""
    from repro.runs import run_dir

    return _resume(run_dir.find(run_id), data_dir, summary, as_json)


@app.command()
def export(
    out: Annotated[Path, value("FILE", "The bundle to write.")],
    names: Names = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also runs that have not finished, with their newest checkpoint.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Write runs to a bundle: one file with everything that a verdict needs.

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


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Bundles that `export` has written.")],
    as_json: AsJson = False,
) -> int:
    """Take the runs of bundles into this tracking store, under their own ids.

    A run that is here already must be the same. All files are checked before a run is written.
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


@app.command("verify")
def verify_(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run, by its first characters, or a bundle.")],
    run: Annotated[str, value("RUN_ID", "The run of a bundle.")] = "",
    epochs: Annotated[int | None, number("Only the first N epochs.")] = None,
    threads: Annotated[int | None, number("CPU threads; those of the run if not given.", most=1024)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Train a run again and compare it with its record.

    The verdict is bit-identical, equal within float tolerance, or different (exit 1). With another number of threads
    the bits may differ.
    """
    from repro.runs import bundle, load, run_dir

    tell = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    if Path(run_id).is_file():
        record, before = bundle.Bundle(Path(run_id)).record(run)
    else:
        found = run_dir.find(run_id)
        record, before = load.record(found), run_dir.load_config(found)
    before, dataset = run_dir.with_data(record.run_id, before, data_dir)
    verdict = load.verify(record, before, dataset, epochs, threads or before.threads, tell)
    if as_json:
        print(json.dumps(asdict(verdict), indent=2))
    return int(verdict.agreement == "different")


@app.command()
def sync(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run; all runs if not given.")] = "",
    as_json: AsJson = False,
) -> int:
    """Deliver to the tracking store what it has not received yet."""
    from repro.runs import run_dir, runner

    found: dict[str, list[str]] = {"delivered": [], "failed": [], "busy": []}
    with options.json_alone(as_json):
        for each in [run_dir.find(run_id)] if run_id else run_dir.run_ids():
            try:
                found["delivered" if runner.deliver(each, print) else "failed"].append(each)
            except run_dir.BusyError as busy:
                print(busy)
                found["busy"].append(each)
    if as_json:
        print(json.dumps(found, indent=2))
    return int(bool(found["failed"]))


def _resume(run_id: str, data_dir: Path | None, summary: Path | None, as_json: bool) -> int:
    from repro.runs import run_dir, runner

    with options.json_alone(as_json):
        result = run_dir.load_result(run_id)
        if result is not None:
            print(f"run {run_id} is finished already: training cost {result.cost:.4f} nats per image")
            result = replace(result, exit_code=int(not runner.deliver(run_id, print)))
        else:
            result = _train(run_id, *run_dir.recorded(run_id, data_dir))
    return _give(result, summary, as_json)


def _train(run_id: str, config: "RunConfig", dataset: "Dataset") -> "RunResult":
    from repro.runs import progress, runner

    progress.announce(config, dataset)
    with progress.bars() as bars:
        result = runner.run(run_id, config, dataset, progress.RunDisplay(config.spec, bars))
    progress.conclude(result)
    return result


def _give(result: "RunResult | SeedsResult", file: Path | None, as_json: bool) -> int:
    """Write the result to the file and to stdout, where they are asked for; return the exit code."""
    text = json.dumps(result.to_json(), indent=2)
    if as_json:
        print(text)
    try:
        if file is not None:
            file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ReproError(f"--summary {file} cannot be written: {error}") from None
    return result.exit_code
