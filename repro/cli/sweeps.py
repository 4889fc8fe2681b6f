"""Commands that search settings: sweep run, sweep retrain, sweep status."""

import json
import re
import time
from typing import Annotated, Any, Literal

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
    Threads,
    app,
    examples,
    number,
    value,
)  # fmt: skip
from repro.errors import UsageError
from repro.spec import registry
from repro.terminal import phase, table

LOADING = "loading PyTorch, MLflow and Optuna"
STUDY_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # it becomes part of the names of files
RENAMED = {"--finish": "sweep retrain NAME", "--status": "sweep status [STUDY]"}


class ShortForm(options.Group):
    """`sweep NAME` is short for `sweep run NAME`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` before arguments that name no command. Raises UsageError for an option of an earlier version."""
        for old in RENAMED.keys() & set(args):
            raise UsageError(f"sweep {old}: is a command of its own now: python -m repro {RENAMED[old]}")
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweeps = typer.Typer(cls=ShortForm, no_args_is_help=True)
app.add_typer(
    sweeps,
    name="sweep",
    help="Search settings with Optuna: run, retrain, status.\n\n`sweep NAME` is short for `sweep run NAME`.",
)


def _study_name(name: str) -> str:
    if name and not STUDY_NAME.fullmatch(name):
        rule = "should be of letters, digits, '_', '-' and '.', at most 100, no sign first"
        raise UsageError(f"--study {name!r}: {rule}")
    return name


def _storage(url: str) -> str:
    if url:
        from repro.sweep.address import address

        address(url)
    return url


StudyName = Annotated[
    str, typer.Option("--study", help="The study's name; the experiment's if not given.", callback=_study_name)
]
Storage = Annotated[
    str,
    typer.Option(
        help="Where studies are kept: sqlite:///FILE, or postgresql+psycopg://USER@HOST/DATABASE for many machines.",
        callback=_storage,
        envvar="REPRO_STORAGE",
        metavar="URL",
    ),
]


@sweeps.command(
    epilog=examples("sweep run mnist_fc --trials 40 --jobs 2", "sweep run mnist_fc --space optim.lr=log:1e-4:1e-2")
)
def run(
    name: Name,
    trials: Annotated[int, number("How many there are to be in all.", most=100_000)] = 20,
    study: StudyName = "",
    space: Annotated[
        list[str] | None,
        value(
            "KEY=RANGE",
            "What to search beside or in place of the experiment's own: log:LOW:HIGH, uniform:LOW:HIGH, "
            "int:LOW:HIGH, or VALUE,VALUE,...; one value fixes the key; may be repeated.",
        ),
    ] = None,
    jobs: Annotated[int, number("Trials side by side, sharing the threads.", most=64)] = 1,
    epochs: Annotated[
        int | None, number("Of a trial; a fifth of the experiment's if not given.", most=options.MOST_EPOCHS)
    ] = None,
    seeds_per_trial: Annotated[int, number("A trial's value is the mean over them.", most=100)] = 1,
    seed: Annotated[int, number("The first of a trial's seeds; the sampler's too.", 0, 2**31)] = 0,
    sampler: Annotated[
        Literal["tpe", "random", "grid", "gp", "cmaes", "qmc"], typer.Option(help="How values are chosen.")
    ] = "tpe",
    pruner: Annotated[
        Literal["median", "hyperband", "none"], typer.Option(help="What ends poor trials early.")
    ] = "median",
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Seconds after which no trial is begun.", min=0)
    ] = None,
    storage: Storage = "",
    heartbeat: Annotated[
        int, number("Seconds between a worker's signs of life; after four without, another takes over.")
    ] = 15,
    device: Device = "auto",
    precision: Precision = "float32",
    threads: Threads = None,
    data: DataChoice = "auto",
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> int:
    """Search settings by the held-out cost of short runs.

    The same command, given again, continues the study.
    """
    from repro.sweep import space as spaces

    entry = registry.get(name)
    searched = spaces.read(entry.spec, space or [])
    spaces.check_sampler(sampler, searched)

    with options.output(as_json=False, quiet=quiet), phase(LOADING):
        from repro.runs import recover
        from repro.sweep import run as running
        from repro.sweep.study import Sweep, Terms

    recover.settle()
    terms = Terms(
        experiment=entry.name,
        signature=entry.spec.signature,
        fingerprint="",
        space=spaces.dumped(searched),
        epochs=epochs or max(1, entry.spec.training.epochs // 5),
        seeds_per_trial=seeds_per_trial,
        seed=seed,
        sampler=sampler,
        pruner=pruner,
        heartbeat=heartbeat,
        precision=precision,
    )
    config = options.config(name, device, threads, jobs, data, data_dir, precision)
    until = time.time() + timeout if timeout is not None else None
    sweep = Sweep(study or entry.name, storage, terms, config, searched, trials, until)
    with options.output(as_json=False, quiet=quiet):
        return running.forecast(sweep, jobs) if dry_run else running.run(sweep, jobs)


@sweeps.command(epilog=examples("sweep retrain mnist_fc", "sweep retrain mnist_fc --best 1 --seeds 5 --jobs 2"))
def retrain(
    name: Name,
    study: StudyName = "",
    best: Annotated[int, number("How many of the best settings to retrain.", most=100)] = 3,
    seeds: Annotated[int, number("How many seeds each of them gets.", most=100)] = 3,
    jobs: Annotated[int, number("Seeds side by side, sharing the threads.", most=64)] = 1,
    storage: Storage = "",
    as_json: AsJson = False,
    device: Device = "auto",
    threads: Threads = None,
    data: DataChoice = "auto",
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> int:
    """Retrain the best settings at full length on fresh seeds.

    The experiment's own setting is trained on the same seeds. Only this command looks at the test images.
    """
    registry.get(name)

    with options.output(as_json, quiet), phase(LOADING):
        from repro.sweep import retrain as retraining

    config = options.config(name, device, threads, jobs, data, data_dir)
    with options.output(as_json, quiet):
        found, code = retraining.retrain(study or config.entry.name, storage, config, best, seeds, jobs)
    if as_json:
        print(json.dumps(found, indent=2))
    return code


@sweeps.command(epilog=examples("sweep status", "sweep status mnist_fc --json"))
def status(
    study: Annotated[str, typer.Argument(metavar="[STUDY]", help="List its trials; without it, the studies.")] = "",
    experiment: Annotated[str, value("NAME", "Only the studies of an experiment.")] = "",
    storage: Storage = "",
    as_json: AsJson = False,
) -> None:
    """List the studies, or the trials of one."""
    with phase(LOADING):
        from repro.sweep.address import address, shown
        from repro.sweep.study import all_studies, find

    with phase("reading the studies"):
        if study:
            rows = find(storage, study).trial_rows()
        else:
            rows = [each.row() for each in all_studies(storage).values() if experiment in ("", each.terms.experiment)]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        table(rows, spare=("runs", "worker", "seconds", "mlflow_run"))
    elif study:
        print(f"study {study} has no trials yet")
    else:
        print(f"no studies in {shown(address(storage))} yet; start with: python -m repro sweep run mnist_fc")
