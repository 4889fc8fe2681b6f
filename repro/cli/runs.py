"""Commands that train: run, resume, verify; and sync, which delivers what they measured."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from repro import folder, prepare, registry
from repro.cli.app import DataDir, Name, RunId, SummaryFile, app
from repro.errors import ReproError


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
    from repro import provenance

    entry = registry.get(name)
    if epochs is not None:
        assignments = [*(assignments or []), f"training.epochs={epochs}"]
    with prepare.all_faults() as faults:
        chosen, at_once = _seeds(faults, seed, seeds, jobs)
        cores = prepare.whole(faults, "--threads", threads, 1, 1024) if threads is not None else provenance.cores()
        if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
            faults.append(f"--summary {summary}: should be a file in a directory that exists")
        spec = prepare.overridden(faults, entry.spec, assignments or [])
    place = prepare.pick_device(device)
    run_id = prepare.to_resume(name, spec, chosen[0]) if resume and seeds is None else None
    if run_id is not None:
        return _resume(run_id, data_dir, summary)
    dataset = prepare.load_data(spec, data, data_dir)

    from repro.request import Request  # MLflow takes seconds to import; faults above do not wait for it

    source = str(Path(data_dir).resolve()) if data_dir else None
    reference = prepare.reference(name)
    asked = {"experiment": reference, "assignments": tuple(assignments or ()), "data": data, "data_dir": source}
    request = Request(entry, spec, dataset, chosen[0], place, max(1, cores // at_once))
    return (
        _train_new(request, asked, summary) if seeds is None else _train_seeds(request, chosen, at_once, asked, summary)
    )


@app.command("resume")
def resume_(run_id: RunId, data_dir: DataDir = None, summary: SummaryFile = None) -> int:
    """Go on with a run that was cut off, as if nothing had happened; its id may be shortened."""
    return _resume(folder.find(run_id).run_id, data_dir, summary)


@app.command("verify")
def verify_(
    run_id: RunId,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Only the first N epochs.")] = 1_000_000,
    threads: Annotated[int | None, typer.Option(min=1, help="Other than the run had: then bits may differ.")] = None,
    data_dir: DataDir = None,
) -> int:
    """Train a run again from what it recorded: bit-identical, equal within tolerance, or different (exit 1)."""
    plan = folder.find(run_id)
    request = prepare.recorded(plan, data_dir)

    from repro import verify
    from repro.tracking import names, read

    done = len(read.history(plan.run_id, names.COST))
    if not done:
        raise ReproError(f"run {plan.run_id} has no epoch to verify")
    if threads:
        request = dataclasses.replace(request, threads=threads)
    count = min(epochs, done)

    def tell(epoch: int, difference: float) -> None:
        print(f"epoch {epoch:4d}/{count}  cost differs by {difference:+.3g} nats", flush=True)

    verdict = verify.verify(read.run(plan.run_id), request.trainer(), count, tell)
    print(f"run {plan.run_id}, {verdict.epochs} of {done} epochs: {verdict.agreement}")
    if verdict.epoch is not None:
        print(f"first epoch that differs: {verdict.epoch}; largest relative difference of a cost {verdict.largest:.2g}")
        threads_changed = [f"threads: was {plan.threads}, is {threads}"] if threads not in (None, plan.threads) else []
        print("what is not as it was:", *threads_changed, *verdict.reasons, sep="\n  ")
    return int(verdict.agreement == "different")


@app.command()
def sync(run_id: Annotated[str, typer.Argument(metavar="[RUN_ID]", help="One run; all if none.")] = "") -> int:
    """Deliver to the tracking store what runs measured while it did not answer."""
    from repro.tracking import write

    failed = 0
    for each in [folder.find(run_id).run_id] if run_id else folder.every():
        try:
            with folder.locked(each):
                failed += not write.sync(each, folder.of(each), print)
        except folder.BusyError as busy:
            print(busy)  # that process delivers for itself
    return int(failed > 0)


def _seeds(faults: list[str], seed: str | None, seeds: str | None, jobs: str | None) -> tuple[tuple[int, ...], int]:
    """The seeds that are asked for, and how many at a time."""
    if seed is not None and seeds is not None:
        faults.append(f"--seed {seed} and --seeds {seeds}: should be one of the two")
    if jobs is not None and seeds is None:
        faults.append(f"--jobs {jobs}: is for --seeds, such as --seeds 0-4; one seed is one job")
    at_once = prepare.whole(faults, "--jobs", jobs, 1, 64) if jobs is not None else 1
    if seeds is not None:
        return prepare.seeds(faults, seeds), at_once
    return (prepare.whole(faults, "--seed", seed, 0, 2**63 - 1) if seed is not None else 0,), at_once


def _resume(run_id: str, data_dir: Path | None, summary: Path | None) -> int:
    finished = folder.outcome(run_id)
    if finished is not None:
        print(f"run {run_id} is finished already: training cost {finished['cost']:.4f} nats per image")
        _write_summary(summary, finished)
        return sync(run_id)
    plan = folder.load(run_id)
    return _train(run_id, prepare.recorded(plan, data_dir), summary)


def _train_new(request: Any, asked: dict[str, Any], summary: Path | None) -> int:
    from repro import runner

    return _train(runner.begin(request, **asked), request, summary)


def _train_seeds(
    request: Any, chosen: tuple[int, ...], at_once: int, asked: dict[str, Any], summary: Path | None
) -> int:
    from repro import seeds

    outcome = seeds.run(request, chosen, at_once, asked)
    _write_summary(summary, outcome.to_json())
    return outcome.exit_code


def _train(run_id: str, request: Any, summary: Path | None) -> int:
    from repro import progress, runner

    progress.announce(request)
    with progress.reporter(request.spec) as reporter:
        outcome = runner.run(run_id, request, reporter)
    progress.conclude(outcome)
    _write_summary(summary, outcome.to_json())
    return outcome.exit_code


def _write_summary(file: Path | None, summary: dict[str, Any]) -> None:
    try:
        if file is not None:
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReproError(f"--summary {file} cannot be written: {error}") from None
