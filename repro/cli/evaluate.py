"""The command that measures the model of a finished run: evaluate."""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repro import evaluation
from repro.cli import options
from repro.cli.options import AsJson, DataDir, RunId, Threads, app, examples, number, value
from repro.errors import UsageError
from repro.runs import ids
from repro.terminal import phase, say, table

if TYPE_CHECKING:
    from repro.measurement import Measurement, Row
    from repro.runs.load import FinishedRun

MOST_POINTS = 50  # of a series that is printed
MEASUREMENTS = "\n".join(f"  {name:<12}{text}" for name, text in evaluation.MEASUREMENTS.items())


@app.command(
    epilog=f"\b\nMeasurements:\n{MEASUREMENTS}\n\n" + examples("evaluate 1a2b3c", "evaluate 1a2b3c --measure kl")
)
def evaluate(
    run_id: RunId,
    samples: Annotated[int, number("Draws of z for each image of log p(x).", 2, 10**9, "K")] = 5000,
    draws: Annotated[int, number("Draws of z for each test image of the ELBO.", 2, 10**9, "L")] = 100,
    images: Annotated[int, number("Number of test images for log p(x).", 2)] = 1000,
    only: Annotated[str, value("RANGES", "Training images, 0-1016,5000, to compare with the others.")] = "",
    measure: Annotated[
        list[str] | None, value("NAME", "A measurement, see below; may be repeated. `evaluation` if not given.")
    ] = None,
    study: Annotated[list[str] | None, typer.Option(hidden=True, help="The former name of --measure.")] = None,
    data_dir: DataDir = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure the model of a finished run.

    `evaluation` measures log p(x), the test ELBO and the active units. The results are logged to the run.

    On one core it takes about 2 minutes for mnist_fc and mnist_conv and 4 for cifar_conv; all 10,000 test images of
    mnist_fc (`--images 10000`) take about 16. The time is proportional to K * N + 10,000 * L. An interrupted command
    exits with 130 and logs nothing.
    """
    faults: list[str] = []
    with options.collected(faults):
        wanted = evaluation.check_names([*(measure or []), *(study or [])] or ["evaluation"])
    with options.collected(faults):
        ranges = evaluation.parse_ranges(only)
    with options.collected(faults):
        run_id = ids.find_tracked(run_id)
    if faults:
        raise UsageError(*faults)

    with phase("loading PyTorch and MLflow"):
        from repro import provenance
        from repro.evaluation import measurements
        from repro.evaluation.likelihood import Options, caveats
        from repro.runs import load

    how_much = Options(samples, draws, images, ranges)
    with phase("reading the model and the data"):
        run = load.load(run_id, data_dir, threads or provenance.cores())
    found: dict[str, Any] = {}
    for name in wanted:
        with phase(f"measuring: {name}"):
            measured = measurements.FUNCTIONS[name](run, how_much, partial(say, error=True))
        found[name] = [vars(row) for row in measured.rows]
        if not as_json:
            _print_measurement(run, name, measured.rows)
            if name == "evaluation":
                print(f"\n{caveats(run.spec, measured)}")
        with phase("logging the measurement to the run"):
            _log_whole(run, name, measured)
    if as_json:
        about = {"run_id": run.record.run_id, "experiment": run.record.experiment, "seed": run.seed}
        print(json.dumps(about | {"data": run.dataset.origin, "measurements": found}, indent=2))


def _log_whole(run: "FinishedRun", name: str, measured: "Measurement") -> None:
    """Log a measurement. An interrupt takes effect after all of it is logged."""
    from repro import provenance
    from repro.signals import Interrupted, interruptible
    from repro.tracking import artifacts

    try:
        with interruptible() as check_interrupt:
            artifacts.log_measurement(run.record, name, measured, provenance.command())
            check_interrupt()
    except Interrupted as stop:
        raise typer.Exit(stop.exit_code) from None


def _print_measurement(run: "FinishedRun", name: str, rows: list["Row"]) -> None:
    """Print the single numbers in one table, and each series over `x` in a table of its own."""
    record, dataset = run.record, run.dataset
    print(f"\n{name} of run {record.run_id}: {record.experiment}, seed {run.seed}")
    print(f"data: {dataset.name}, {dataset.status}, {dataset.origin}")
    single = [row for row in rows if row.x is None]
    if single:
        table(
            [
                {
                    "quantity": row.quantity,
                    "of": row.group,
                    "value": row.value,
                    "+-": row.standard_error,
                    "unit": row.unit,
                }
                for row in single
            ],
            decimals=4,
        )
        print("+- is the Monte Carlo standard error of the draws, not of images or seeds.")
    series: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:
        if row.x is not None:
            series.setdefault(row.quantity, {}).setdefault(row.x, {})[row.group or "value"] = row.value
    for quantity, by_x in series.items():
        if len(by_x) > MOST_POINTS:
            print(f"\n{quantity}: {len(by_x)} points, see --json")
            continue
        print(f"\n{quantity}")
        groups = dict.fromkeys(group for point in by_x.values() for group in point)
        table([{"x": f"{x:g}"} | {group: by_x[x].get(group) for group in groups} for x in sorted(by_x)])
