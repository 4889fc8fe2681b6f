"""Commands that train: run, resume and verify."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repro.cli import options
from repro.cli.options import (
    AsJson,
    DataChoice,
    DataDir,
    Device,
    DryRun,
    Name,
    Precision,
    Quiet,
    RunId,
    SummaryFile,
    Threads,
    app,
    examples,
    number,
    value,
)
from repro.errors import ReproError, UsageError
from repro.runs import ids
from repro.spec import overrides, registry
from repro.terminal import phase, say
from repro.text import seed_list

if TYPE_CHECKING:
    from repro.data import Dataset
    from repro.runs.config import RunConfig
    from repro.runs.result import RunResult
    from repro.runs.seeds import SeedsResult


@app.command(epilog=examples("run mnist_fc --epochs 5", "run mnist_fc --seeds 100-111 --jobs 2"))
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
    precision: Precision = "float32",
    threads: Threads = None,
    data: DataChoice = "auto",
    data_dir: DataDir = None,
    summary: SummaryFile = None,
    resume: Annotated[
        bool, typer.Option(help="Resume the newest run of this experiment and seed, if there is one.")
    ] = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Train an experiment and track the run.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted.
    """
    spec = registry.get(name).spec
    asked = [*(assignments or []), *([f"training.epochs={epochs}"] if epochs is not None else [])]
    rules = {
        f"--seed {seed} and --seeds {seeds}: should be one of the two": seed is not None and seeds is not None,
        "--dry-run and --resume: should be one of the two": dry_run and resume,
        f"--jobs {jobs}: is for --seeds, such as --seeds 0-4; one seed is one job": jobs is not None and seeds is None,
        f"--summary {summary}: should be a file in a directory that exists": summary is not None
        and (summary.is_dir() or not summary.absolute().parent.is_dir()),
    }
    faults = [fault for fault, broken in rules.items() if broken]
    with options.collected(faults):
        chosen = (seed or 0,) if seeds is None else options.seeds(seeds)
    with options.collected(faults):
        spec = overrides.apply(spec, asked)
    if faults:
        raise UsageError(*faults)

    with options.output(as_json, quiet), phase("loading PyTorch"):
        from repro.runs import recover, run_dir

        recover.settle()
        config = options.config(name, device, threads, jobs or 1, data, data_dir, precision)
    config = replace(config, spec=spec, seed=chosen[0], assignments=tuple(asked))
    if resume and seeds is None:
        run_id = run_dir.newest(config.experiment, spec, config.seed)
        if run_id:
            return _resume(run_id, data_dir, summary, as_json, quiet)
    with options.output(as_json, quiet):
        with phase("reading the data"):  # before MLflow, so that a fault of the data is reported at once
            dataset = config.load_data()
        with phase("loading MLflow"):
            from repro.runs import runner
            from repro.runs import seeds as many
        if dry_run:
            said = _dry_run(config, dataset, chosen, jobs or 1, several=seeds is not None)
        elif seeds is None:
            with phase("opening the tracking store"):
                run_id = runner.begin(config, dataset)
            result: RunResult | SeedsResult = _train(run_id, config, dataset)
        else:
            result = many.run(config, dataset, chosen, jobs or 1)
    if not dry_run:
        return _give(result, summary, as_json)
    if as_json:
        print(json.dumps(said, indent=2))
    return 0


@app.command("resume", epilog=examples("resume 1a2b3c", "resume 1a2b3c --summary out.json"))
def resume_(
    run_id: RunId,
    data_dir: DataDir = None,
    summary: SummaryFile = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Continue an interrupted run from its last checkpoint."""
    found = ids.find(run_id)

    from repro.runs import recover

    recover.settle()
    return _resume(found, data_dir, summary, as_json, quiet)


@app.command("verify", epilog=examples("verify 1a2b3c", "verify 1a2b3c --epochs 5"))
def verify_(
    run_id: Annotated[str, options.run_id("A run, by its first characters, or a bundle.")],
    run: Annotated[str, value("RUN_ID", "The run of a bundle.")] = "",
    epochs: Annotated[int | None, number("Only the first N epochs.")] = None,
    threads: Annotated[int | None, number("CPU threads; those of the run if not given.", most=1024)] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> int:
    """Train a run again and compare it with its record.

    The verdict is bit-identical, equal within float tolerance, or different (exit 1). With another number of threads
    the bits may differ.
    """
    found = None if Path(run_id).is_file() else ids.find(run_id)

    with options.output(as_json, quiet):
        with phase("loading PyTorch and MLflow"):
            from repro.runs import bundle, load, progress, run_dir
        with phase("reading the run's record and the data"):
            if found is None:
                record, before = bundle.Bundle(Path(run_id)).record(run)
            else:
                record, before = load.record(found), run_dir.load_config(found)
            before, dataset = run_dir.with_data(record.run_id, before, data_dir)
        with progress.bars() as bars:
            task = bars.add_task("training again", total=None, figures="")
            verdict = load.verify(
                record, before, dataset, epochs, threads or before.threads, say,
                lambda done, total: bars.update(task, completed=done, total=total),
            )  # fmt: skip
    if as_json:
        print(json.dumps(asdict(verdict), indent=2))
    return int(verdict.agreement == "different")


def _resume(run_id: str, data_dir: Path | None, summary: Path | None, as_json: bool, quiet: bool) -> int:
    with options.output(as_json, quiet):
        with phase("loading PyTorch and MLflow"):
            from repro.runs import claims, run_dir, runner
        result = claims.result_of(run_id)
        if result is not None:
            print(f"run {run_id} is finished already: training cost {result.cost:.4f} nats per image")
            result = replace(result, exit_code=int(not runner.deliver(run_id, print)))
        else:
            with phase("reading the data"):
                config, dataset = run_dir.recorded(run_id, data_dir)
            result = _train(run_id, config, dataset)
    return _give(result, summary, as_json)


def _dry_run(
    config: "RunConfig", dataset: "Dataset", seeds: tuple[int, ...], jobs: int, several: bool
) -> dict[str, Any]:
    """Print what would be trained and for how long; return it for JSON. Of several seeds, those that are left."""
    from repro.runs import progress
    from repro.runs.estimate import estimate
    from repro.runs.result import DataSource
    from repro.runs.seeds import finished
    from repro.tracking import store

    before = [each.seed for each in finished(config, dataset, seeds)] if several and store.exists() else []
    left = [seed for seed in seeds if seed not in before]
    progress.announce(config, dataset, f"seeds {seed_list(seeds)}, {jobs} at a time" if several else "")
    if before:
        say(f"finished before: seeds {seed_list(before)}")
    with phase("timing a few steps"):
        found, epochs = estimate(config, dataset), config.spec.training.epochs
    return {
        "experiment": config.entry.name,
        "seeds": left,
        "finished_before": before,
        "epochs": epochs,
        "data": asdict(DataSource.of(dataset)),
        **asdict(found),
        "seconds": progress.forecast(found, epochs, len(left), jobs),
    }


def _train(run_id: str, config: "RunConfig", dataset: "Dataset") -> "RunResult":
    from repro.runs import progress, runner

    progress.announce(config, dataset)

    def beside(cost: float | None, epoch: int = 1) -> str:
        return "" if cost is None else _beside(run_id, cost, epoch, config, dataset)

    with progress.bars() as bars:
        result = runner.run(run_id, config, dataset, progress.RunDisplay(config.spec, bars, beside=beside))
    with phase("comparing with the published run"):
        last = beside(result.cost, result.epochs)
    progress.conclude(result, config.experiment, last)
    return result


def _beside(run_id: str, cost: float, epoch: int, config: "RunConfig", dataset: "Dataset") -> str:
    """Return a sentence on an epoch beside the published run and our seeds; "" where the run is of another kind.

    Our seeds are those of the tracking store and, of an experiment of this project, those in `results` here.
    """
    changed = config.entry.spec.differences(config.spec).keys() - {"training.epochs"}
    if dataset.status == "stand-in" or config.precision != "float32" or changed:
        return ""
    from repro.analysis import check
    from repro.analysis.claims import Evidence
    from repro.analysis.tables import Tables, from_store

    committed, evidence = Path("results"), None
    try:
        if config.experiment in registry.names():
            tables, _ = from_store([config.entry])
            if (committed / "runs.csv").exists():
                tables = tables.joined(Tables.from_files(committed))
            evidence = Evidence(tables.only(set(tables.runs["run_id"]) - {run_id}))
        return check.sentence(cost, epoch, config.entry, evidence)
    except ReproError as error:
        say(f"note: {error}", error=True)
        return ""


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
