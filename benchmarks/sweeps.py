"""Trials an hour with one job and with several, and the share of a trial that is not training.

    python -m repro.benchmarks.sweeps mnist_fc --data-dir DIR

The ways to run a sweep take turns. Each turn is the real command in a directory of its own, with the same trials. Run
it on an idle machine.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import optuna
import pandas as pd
import typer
from mlflow import MlflowClient

from repro import names, provenance, registry
from repro.engine import Settings
from repro.rng import stream
from repro.runs.config import load_data
from repro.sweep.study import runs_of
from repro.terminal import table
from repro.training.loop import evaluate
from repro.training.trainer import Trainer

Source = Literal["auto", "real", "stand-in"]
ONE_THREAD, ALL_CORES = "one job, one thread", "one job, all cores"


@dataclass(frozen=True)
class Turn:
    """Speed of one run of the command, from the first trial's start to the last one's end."""

    trials_an_hour: float
    seconds_a_trial: float  # the mean over its trials
    not_training: float  # share of the trials' time that is not spent in training steps


def take(command: list[str]) -> Turn:
    """Run a whole sweep in a directory of its own."""
    with TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "repro", "sweep", "run", *command], cwd=folder, check=True, stdout=sys.stderr
        )
        study = optuna.load_study(study_name="turn", storage=f"sqlite:///{folder}/mlruns/optuna.db")
        tracked = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
        runs = [run for trial in study.trials for run in runs_of(trial)]
        metric = names.SHOWN_METRICS[names.EPOCH_SECONDS]
        epochs = [point.value for run in runs for point in tracked.get_metric_history(run, metric)]
        trials = study.trials_dataframe()
        span = (trials["datetime_complete"].max() - trials["datetime_start"].min()).total_seconds()
        seconds = trials["duration"].dt.total_seconds()
        return Turn(3600 * len(trials) / span, seconds.mean(), 1 - sum(epochs) / seconds.sum())


def heldout_seconds(name: str, data: Source, data_dir: Path | None) -> float:
    """Return the seconds that the held-out cost after an epoch takes on one thread, the median of seven."""
    spec = registry.get(name).spec
    trainer = Trainer(spec, 0, load_data(spec, data, data_dir), Settings(threads=1))
    times = []
    for _ in range(8):
        began = time.perf_counter()
        evaluate(trainer.step, trainer.heldout_images, stream("heldout", 0, 1))
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main(
    name: Annotated[str, typer.Argument(help="An experiment that holds out images.")] = "mnist_fc",
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of a trial.")] = 10,
    data: Annotated[Source, typer.Option(help="As with `sweep`.")] = "auto",
    data_dir: Annotated[Path | None, typer.Option(help="As with `sweep`.")] = None,
) -> None:
    """Measure, and print medians over the rounds; ratios are taken round by round."""
    cores = provenance.cores()
    where = ["--data", data, *(["--data-dir", str(data_dir.resolve())] if data_dir else [])]
    alike = [name, "--study", "turn", "--trials", str(cores), "--epochs", str(epochs), "--pruner", "none", *where]
    ways = {ONE_THREAD: (1, 1), ALL_CORES: (1, cores), "a job for each core": (cores, cores)}
    turns: dict[str, list[Turn]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (jobs, threads) in ways.items():
            turns[way].append(take([*alike, "--jobs", str(jobs), "--threads", str(threads)]))
    print(f"{name}, {cores} trials of {epochs} epochs a turn, {rounds} rounds, {provenance.cpu()}")
    table(rows(turns, epochs * heldout_seconds(name, data, data_dir)))


def rows(turns: dict[str, list[Turn]], heldout: float) -> list[dict[str, Any]]:
    """Return a row for each way. `heldout` is the seconds that a trial's held-out costs take on one thread."""
    figures = {way: pd.DataFrame(taken) for way, taken in turns.items()}
    by_hour = {way: each["trials_an_hour"] for way, each in figures.items()}
    return [
        {
            "way": way,
            "trials an hour": by_hour[way].median(),
            **{f"over {other}": (by_hour[way] / by_hour[other]).median() for other in (ONE_THREAD, ALL_CORES)},
            "seconds a trial": each["seconds_a_trial"].median(),
            "not training, %": 100 * each["not_training"].median(),
            "of it held-out cost, %": 100 * (heldout / each["seconds_a_trial"]).median() if way != ALL_CORES else None,
        }
        for way, each in figures.items()
    ]


if __name__ == "__main__":
    typer.run(main)
