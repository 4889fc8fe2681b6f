"""Commands that train: run, resume and verify; and sync, which delivers measurements to the tracking store."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repro.cli import options
from repro.cli.options import DataChoice, DataDir, Device, Name, RunId, SummaryFile, Threads, app, number, value
from repro.errors import ReproError, UsageError
from repro.spec import overrides, registry

if TYPE_CHECKING:
    from repro.data import Dataset
    from repro.runs.config import RunConfig


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
            return _resume(run_id, data_dir, summary)
    dataset = config.load_data()  # before the slow imports, so that a fault of the data is reported at once

    from repro.runs import runner
    from repro.runs import seeds as several

    if seeds is None:
        return _train(runner.begin(config, dataset), config, dataset, summary)
    result = several.run(config, dataset, chosen, jobs or 1)
    _write_summary(summary, result.to_json())
    return result.exit_code


@app.command("resume")
def resume_(run_id: RunId, data_dir: DataDir = None, summary: SummaryFile = None) -> int:
    """Continue an interrupted run from its last checkpoint."""
    from repro.runs import run_dir

    return _resume(run_dir.find(run_id), data_dir, summary)


@app.command("verify")
def verify_(
    run_id: RunId,
    epochs: Annotated[int | None, number("Only the first N epochs.")] = None,
    threads: Annotated[int | None, number("CPU threads; those of the run if not given.", most=1024)] = None,
    data_dir: DataDir = None,
) -> int:
    """Train a run again and compare it with its record.

    The verdict is bit-identical, equal within float tolerance, or different (exit 1). With another number of threads
    the bits may differ.
    """
    from repro.runs import load, run_dir

    found = run_dir.find(run_id)
    before, dataset = run_dir.recorded(found, data_dir)
    same = load.verify(found, before, dataset, epochs, threads or before.threads, partial(print, flush=True))
    return int(not same)


@app.command()
def sync(run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="A run; all runs if not given.")] = "") -> int:
    """Deliver to the tracking store what it has not received yet."""
    from repro.runs import run_dir, runner

    failed = 0
    for each in [run_dir.find(run_id)] if run_id else run_dir.run_ids():
        try:
            failed += not runner.deliver(each, print)
        except run_dir.BusyError as busy:
            print(busy)
    return int(failed > 0)


def _resume(run_id: str, data_dir: Path | None, summary: Path | None) -> int:
    from repro.runs import run_dir

    finished = run_dir.load_result(run_id)
    if finished is not None:
        print(f"run {run_id} is finished already: training cost {finished.cost:.4f} nats per image")
        _write_summary(summary, finished.to_json())
        return sync(run_id)
    return _train(run_id, *run_dir.recorded(run_id, data_dir), summary)


def _train(run_id: str, config: "RunConfig", dataset: "Dataset", summary: Path | None) -> int:
    from repro.runs import progress, runner

    progress.announce(config, dataset)
    with progress.bars() as bars:
        result = runner.run(run_id, config, dataset, progress.RunDisplay(config.spec, bars))
    progress.conclude(result)
    _write_summary(summary, result.to_json())
    return result.exit_code


def _write_summary(file: Path | None, summary: dict[str, Any]) -> None:
    try:
        if file is not None:
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReproError(f"--summary {file} cannot be written: {error}") from None
