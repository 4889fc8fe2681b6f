"""Commands that train: run, resume, verify; and sync, which delivers what they measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from repro import provenance, registry
from repro.cli import options
from repro.cli.app import app
from repro.cli.options import DataDir, Name, RunId, SummaryFile
from repro.errors import ReproError

if TYPE_CHECKING:
    from repro.data import Dataset
    from repro.runs.config import RunConfig


@app.command()
def run(
    name: Name,
    seed: Annotated[
        str | None, typer.Option(help="Decides initial weights, order and noise; 0 if not given.", metavar="N")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Several, such as 0-4 or 0,2,7-9; finished ones are skipped, others go on.", metavar="LIST"),
    ] = None,
    jobs: Annotated[
        str | None,
        typer.Option(help="How many of --seeds at a time, sharing the threads; 1 if not given.", metavar="N"),
    ] = None,
    epochs: Annotated[str | None, typer.Option(help="Same as --set training.epochs=N.", metavar="N")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting, such as optim.lr=3e-4; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    threads: Annotated[str | None, typer.Option(help="CPU threads; all cores if not given.", metavar="N")] = None,
    data: Annotated[
        Literal["auto", "real", "stand-in"], typer.Option(help="`real` refuses the stand-in; `stand-in` takes only it.")
    ] = "auto",
    data_dir: DataDir = None,
    summary: SummaryFile = None,
    resume: Annotated[
        bool, typer.Option(help="Go on with the newest run of this spec and seed, if there is one.")
    ] = False,
) -> int:
    """Train an experiment and track it; exit 0 done, 1 failed, 2 wrong use, 3 no data, 130/143 interrupted."""
    entry = registry.get(name)
    if epochs is not None:
        assignments = [*(assignments or []), f"training.epochs={epochs}"]
    with options.all_faults() as faults:
        chosen, at_once = _seeds(faults, seed, seeds, jobs)
        cores = options.whole(faults, "--threads", threads, 1, 1024) if threads is not None else provenance.cores()
        if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
            faults.append(f"--summary {summary}: should be a file in a directory that exists")
        spec = options.overridden(faults, entry.spec, assignments or [])

    from repro.runs import resume as resuming
    from repro.runs.config import RunConfig, pick_device, reference

    config = RunConfig(
        experiment=reference(name),
        spec=spec,
        seed=chosen[0],
        assignments=tuple(assignments or ()),
        data=data,
        data_dir=data_dir.resolve() if data_dir else None,
        device=pick_device(device),
        threads=max(1, cores // at_once),
    )
    if seeds is None:
        run_id = resuming.newest(config.experiment, spec, config.seed) if resume else None
        return _resume(run_id, data_dir, summary) if run_id else _begin(config, summary)
    dataset = config.load_data()

    from repro.runs import seeds as several

    result = several.run(config, dataset, chosen, at_once)
    _write_summary(summary, result.to_json())
    return result.exit_code


@app.command("resume")
def resume_(run_id: RunId, data_dir: DataDir = None, summary: SummaryFile = None) -> int:
    """Go on with a run that was cut off, as if nothing had happened; its id may be shortened."""
    from repro.runs import run_dir

    return _resume(run_dir.find(run_id), data_dir, summary)


@app.command("verify")
def verify_(
    run_id: RunId,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Only the first N epochs.")] = 1_000_000,
    threads: Annotated[int | None, typer.Option(min=1, help="Other than the run had: then bits may differ.")] = None,
    data_dir: DataDir = None,
) -> int:
    """Train a run again from what it recorded: bit-identical, equal within tolerance, or different (exit 1)."""
    from repro import names
    from repro.runs import resume, run_dir, verify
    from repro.tracking import reader
    from repro.training.trainer import Trainer

    found = run_dir.find(run_id)
    config, dataset = resume.recorded(found, data_dir)
    done = len(reader.history(found, names.COST))
    if not done:
        raise ReproError(f"run {found} has no epoch to verify")
    settings = replace(config.settings, threads=threads or config.threads)
    count = min(epochs, done)

    def tell(epoch: int, difference: float) -> None:
        print(f"epoch {epoch:4d}/{count}  cost differs by {difference:+.3g} nats", flush=True)

    verdict = verify.verify(reader.run(found), Trainer(config.spec, config.seed, dataset, settings), count, tell)
    print(f"run {found}, {verdict.epochs} of {done} epochs: {verdict.agreement}")
    if verdict.epoch is not None:
        print(f"first epoch that differs: {verdict.epoch}; largest relative difference of a cost {verdict.largest:.2g}")
        same = settings.threads == config.threads
        changed = [] if same else [f"threads: was {config.threads}, is {settings.threads}"]
        print("what is not as it was:", *changed, *verdict.reasons, sep="\n  ")
    return int(verdict.agreement == "different")


@app.command()
def sync(run_id: Annotated[str, typer.Argument(metavar="[RUN_ID]", help="One run; all if none.")] = "") -> int:
    """Deliver to the tracking store what runs measured while it did not answer."""
    from repro.runs import run_dir, runner

    failed = 0
    for each in [run_dir.find(run_id)] if run_id else run_dir.run_ids():
        try:
            failed += not runner.deliver(each, print)
        except run_dir.BusyError as busy:
            print(busy)
    return int(failed > 0)


def _seeds(faults: list[str], seed: str | None, seeds: str | None, jobs: str | None) -> tuple[tuple[int, ...], int]:
    """The seeds that are asked for, and how many at a time."""
    if seed is not None and seeds is not None:
        faults.append(f"--seed {seed} and --seeds {seeds}: should be one of the two")
    if jobs is not None and seeds is None:
        faults.append(f"--jobs {jobs}: is for --seeds, such as --seeds 0-4; one seed is one job")
    at_once = options.whole(faults, "--jobs", jobs, 1, 64) if jobs is not None else 1
    if seeds is not None:
        return options.seeds(faults, seeds), at_once
    return (options.whole(faults, "--seed", seed, 0, 2**63 - 1) if seed is not None else 0,), at_once


def _begin(config: "RunConfig", summary: Path | None) -> int:
    dataset = config.load_data()

    from repro.runs import runner

    return _train(runner.begin(config, dataset), config, dataset, summary)


def _resume(run_id: str, data_dir: Path | None, summary: Path | None) -> int:
    from repro.runs import resume, run_dir

    finished = run_dir.load_result(run_id)
    if finished is not None:
        print(f"run {run_id} is finished already: training cost {finished.cost:.4f} nats per image")
        _write_summary(summary, finished.to_json())
        return sync(run_id)
    return _train(run_id, *resume.recorded(run_id, data_dir), summary)


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
