"""The command line: parses, calls, prints. Heavy imports are inside the commands, so that `--help` answers at once."""

import dataclasses
import json
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from repro import folder, prepare, registry
from repro.errors import ReproError
from repro.tables import table

app = typer.Typer(
    name="python -m repro",
    help="Rerun published variational-autoencoder results, track every run, see whether the numbers are reproduced.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A registered experiment (see `list`), or the path of your own file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Where to look for the data first; also read from REPRO_DATA_DIR.", metavar="DIR")
]
SummaryFile = Annotated[Path | None, typer.Option(help="Write what came of it as JSON.", metavar="FILE")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="A run's id, or its beginning.")]


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 no data, 130 or 143 interrupted."""
    try:
        result = app(arguments, standalone_mode=False)  # an interrupt comes back as 130
        return result if isinstance(result, int) else 0
    except ReproError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # what the parser has to say
            error.show()
            return int(error.exit_code)
        return _unexpected(error)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The registered experiments and what was reported for them."""
    rows = [_overview(registry.get(name)) for name in registry.names()]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        table(rows)


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One experiment: what it is, what was reported, and every setting that --set can change."""
    entry = registry.get(name)
    overview = _overview(entry)
    if as_json:
        print(json.dumps(overview | {"spec": entry.spec.to_dict(), "signature": entry.spec.signature}, indent=2))
        return
    print(entry.about or entry.name, end="\n\n")
    table([overview])
    print(f"\nsettings, spec {entry.spec.signature}:")
    for key, value in entry.spec.flat().items():
        if not key.startswith("reported."):
            print(f"  {key} = {value}")


@app.command()
def run(
    name: Name,
    seed: Annotated[str, typer.Option(help="Decides the initial weights, the order and the noise.", metavar="N")] = "0",
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
        seed_number = prepare.whole(faults, "--seed", seed, 0, 2**63 - 1)
        cores = prepare.whole(faults, "--threads", threads, 1, 1024) if threads is not None else provenance.cores()
        if summary is not None and (summary.is_dir() or not summary.absolute().parent.is_dir()):
            faults.append(f"--summary {summary}: should be a file in a directory that exists")
        spec = prepare.overridden(faults, entry.spec, assignments or [])
    place = prepare.pick_device(device)
    run_id = prepare.to_resume(name, spec, seed_number) if resume else None
    if run_id is not None:
        return _resume(run_id, data_dir, summary)
    dataset = prepare.load_data(spec, data, data_dir)

    from repro import runner  # MLflow takes seconds to import; faults above do not wait for it
    from repro.request import Request

    request = Request(entry, spec, dataset, seed_number, place, cores)
    source = str(Path(data_dir).resolve()) if data_dir else None
    run_id = runner.begin(
        request, experiment=prepare.reference(name), assignments=tuple(assignments or ()), data=data, data_dir=source
    )
    return _train(run_id, request, summary)


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


@app.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Experiments; all if none.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also draw cost curves and samples into this directory.")
    ] = None,
) -> None:
    """The tracked runs against the reported costs."""
    entries = [registry.get(name) for name in names or registry.names()]

    from repro.tracking import store

    if not store.exists():
        raise ReproError(f"no runs yet in {store.folder()}; start with: python -m repro run mnist_fc")

    from analysis import compare as comparison

    found = comparison.table(entries)
    table(found.astype(object).where(found.notna(), None).to_dict("records"))
    for entry in entries if figures else []:
        for path in comparison.draw(entry, Path(str(figures))):
            print(f"wrote {path}")


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Setups; all if none.")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="CPU threads; may be repeated. 1 and 2 if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How often each takes its turn.")] = 7,
    precision: Annotated[Literal["float32", "mixed"], typer.Option(help="Of this project's step.")] = "float32",
    peer_python: Annotated[
        Path | None,
        typer.Option(metavar="PATH", envvar="REPRO_BENCH_PYTHON_TF", help="Python with TensorFlow and JAX."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A step or two each, to see that it works.")] = False,
    as_json: AsJson = False,
) -> None:
    """Training speed beside plain PyTorch, TensorFlow and JAX, which take turns on the same cores."""
    from benchmarks import driver, report

    chosen = driver.QUICK if quick else driver.Options(rounds=rounds)
    options = dataclasses.replace(chosen, precision=precision, peer_python=peer_python)
    found = report.bench(names or [], threads or [], options, lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(report.headline(found))
    for title, rows, remarks in report.tables(found):
        print(f"\n{title}")
        table(rows)
        print(remarks)


@app.command("ui")
def ui_(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000) -> int:
    """Open the MLflow UI on the tracked runs, on this machine only."""
    from repro.tracking import ui

    return ui.serve(port)


@app.command("data")
def data_(data_dir: DataDir = None) -> None:
    """What data was found where, and whether it is the canonical one. Downloads nothing."""
    from repro.data import survey

    table([vars(finding) for finding in survey(data_dir)])


def _resume(run_id: str, data_dir: Path | None, summary: Path | None) -> int:
    finished = folder.outcome(run_id)
    if finished is not None:
        print(f"run {run_id} is finished already: training cost {finished['cost']:.4f} nats per image")
        _write_summary(summary, finished)
        return sync(run_id)
    plan = folder.load(run_id)
    return _train(run_id, prepare.recorded(plan, data_dir), summary)


def _train(run_id: str, request: Any, summary: Path | None) -> int:
    from repro import progress, runner

    progress.announce(request)
    with progress.reporter(request.spec) as reporter:
        outcome = runner.run(run_id, request, reporter)
    progress.conclude(outcome, request.spec)
    _write_summary(summary, outcome.to_json())
    return outcome.exit_code


def _write_summary(file: Path | None, summary: dict[str, Any]) -> None:
    try:
        if file is not None:
            file.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReproError(f"--summary {file} cannot be written: {error}") from None


def _overview(entry: Any) -> dict[str, Any]:
    from repro.model import count_parameters

    spec = entry.spec
    return {
        "name": entry.name,
        "dataset": spec.data.name,
        "epochs": spec.training.epochs,
        "batch_size": spec.training.batch_size,
        "learning_rate": spec.optim.lr,
        "latent": spec.model.latent,
        "parameters": count_parameters(spec),
        "reported_cost": spec.reported.cost if spec.reported else None,
    }


def _unexpected(error: Exception) -> int:
    first = (str(error).strip() or "no message").splitlines()[0]
    print(f"error: unexpected {type(error).__name__}: {first}", file=sys.stderr)
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="repro-error-", suffix=".txt", delete=False) as file,
    ):
        traceback.print_exception(error, file=file)
        print(f"error: the details are in {file.name}", file=sys.stderr)
    return 1
