"""The command that searches: sweep."""

import json
import re
from typing import Annotated, Literal

import typer

from repro import registry
from repro.cli import options
from repro.cli.app import app
from repro.cli.options import AsJson, DataDir
from repro.errors import UsageError
from repro.spec import Experiment, Space
from repro.terminal import table

STUDY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # it becomes part of the names of files
STORAGE = "Where studies are kept: sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE for many machines."


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="An experiment; may be left out with --status.")] = "",
    trials: Annotated[str, typer.Option(help="How many there are to be in all.", metavar="N")] = "20",
    study: Annotated[str | None, typer.Option(help="The study's name; the experiment's if not given.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=RANGE",
            help="What to search beside or in place of the experiment's own: log:LOW:HIGH, uniform:LOW:HIGH, "
            "int:LOW:HIGH, or VALUE,VALUE,...; one value fixes the key; may be repeated.",
        ),
    ] = None,
    jobs: Annotated[str, typer.Option(help="Trials side by side, sharing the threads.", metavar="N")] = "1",
    epochs: Annotated[
        str | None, typer.Option(help="Of a trial; a fifth of the experiment's if not given.", metavar="N")
    ] = None,
    seeds_per_trial: Annotated[str, typer.Option(help="A trial's value is the mean over them.", metavar="N")] = "1",
    seed: Annotated[str, typer.Option(help="The first of a trial's seeds; the sampler's too.", metavar="N")] = "0",
    sampler: Annotated[
        Literal["tpe", "random", "grid", "gp", "cmaes", "qmc"], typer.Option(help="How values are chosen.")
    ] = "tpe",
    pruner: Annotated[
        Literal["median", "hyperband", "none"], typer.Option(help="What ends poor trials early.")
    ] = "median",
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no trial is begun.", min=0)] = None,
    storage: Annotated[str, typer.Option(help=STORAGE, envvar="REPRO_STORAGE", metavar="URL")] = "",
    heartbeat: Annotated[
        int,
        typer.Option(help="Seconds between a worker's signs of life; after four without, another takes over.", min=1),
    ] = 15,
    finish: Annotated[
        bool, typer.Option("--finish", help="Retrain the best settings, and the experiment's own, on fresh seeds.")
    ] = False,
    best: Annotated[str, typer.Option(help="How many settings --finish retrains.", metavar="K")] = "3",
    seeds: Annotated[str, typer.Option(help="How many seeds --finish takes for each.", metavar="N")] = "3",
    status: Annotated[bool, typer.Option("--status", help="List the studies; with --study, its trials.")] = False,
    as_json: AsJson = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = "auto",
    threads: Annotated[str | None, typer.Option(help="CPU threads; all cores if not given.", metavar="N")] = None,
    data: Annotated[Literal["auto", "real", "stand-in"], typer.Option(help="As with `run`.")] = "auto",
    data_dir: DataDir = None,
) -> int:
    """Search settings by the held-out cost; given again, the same command goes on. Test images: only --finish."""
    if status:
        return _status(name, study, storage, heartbeat, as_json)
    if not name:
        raise UsageError("sweep needs the NAME of an experiment, such as mnist_fc; --status lists studies without one")
    if as_json and not finish:
        raise UsageError("--json: is for --status and --finish")
    entry = registry.get(name)
    from repro import provenance

    with options.all_faults() as faults:
        cores = options.whole(faults, "--threads", threads, 1, 1024) if threads is not None else provenance.cores()
        count = options.whole(faults, "--trials", trials, 1, 100_000)
        at_once = options.whole(faults, "--jobs", jobs, 1, 64)
        of_trial = options.whole(faults, "--seeds-per-trial", seeds_per_trial, 1, 100)
        first = options.whole(faults, "--seed", seed, 0, 2**31)
        longest = max(1, entry.spec.training.epochs // 5)
        length = options.whole(faults, "--epochs", epochs, 1, 1_000_000) if epochs is not None else longest
        kept = options.whole(faults, "--best", best, 1, 100)
        fresh = options.whole(faults, "--seeds", seeds, 1, 100)
        called = study or entry.name
        if not STUDY_NAME.fullmatch(called):
            faults.append(
                f"--study {called!r}: should be of letters, digits, '_', '-' and '.', at most 100, no sign first"
            )
        searched = {} if finish else _space(faults, entry.spec, space or [])
        _address(faults, storage)

    from repro.runs.config import RunConfig, pick_device, reference
    from repro.sweep.worker import How

    config = RunConfig(
        experiment=reference(name),
        spec=entry.spec,
        data=data,
        data_dir=data_dir.resolve() if data_dir else None,
        device=pick_device(device),
        threads=max(1, cores // at_once),
    )
    how = How(called, storage, heartbeat, at_once, config)
    if finish:
        from repro.sweep.finish import finish as finished

        return finished(entry, how, kept, fresh, as_json)
    from repro.sweep.sweep import Options
    from repro.sweep.sweep import sweep as searching

    terms = Options(count, length, of_trial, first, sampler, pruner, timeout)
    return searching(entry, searched, terms, how)


def _space(faults: list[str], spec: Experiment, texts: list[str]) -> Space:
    """What is to be searched; every fault in it is added."""
    from repro.sweep import space as spaces

    searched = spaces.changed(spec.sweep or {}, texts, faults)
    try:
        if searched or not texts:
            spaces.check(searched, spec)
    except UsageError as error:
        faults += error.faults
    return searched


def _address(faults: list[str], url: str) -> None:
    """Add what is wrong with the address of the studies."""
    from repro.sweep.storage import address

    try:
        address(url)
    except UsageError as error:
        faults += error.faults


def _status(name: str, study: str | None, storage: str, heartbeat: int, as_json: bool) -> int:
    from repro.sweep import status

    rows = status.trials(storage, heartbeat, study) if study else status.studies(storage, heartbeat, name)
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        from repro.sweep.storage import address

        print(f"no studies in {address(storage).render_as_string()} yet; start with: python -m repro sweep mnist_fc")
    else:
        begun = [row for row in rows if not study or row["runs"]]
        if begun:
            table(begun)
        if len(begun) < len(rows):
            print(f"not begun: {len(rows) - len(begun)}")
    return 0
