"""Many seeds side by side: the real command on small data, and the parent run that holds them together."""

import io
import json
import signal
import time
from pathlib import Path
from statistics import fmean

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console
from rich.progress import Progress, TextColumn
from support.finished_runs import only_run
from support.process import client, repro, started, wait_for
from support.run_here import run_all_here

from repro import cli, data, names, registry
from repro.cli import options
from repro.errors import UsageError
from repro.runs import run_dir, runner, seeds
from repro.runs.config import RunConfig
from repro.runs.progress import SeedsDisplay
from repro.runs.result import DataSource, RunResult
from repro.spec import Experiment
from repro.spec.overrides import apply
from repro.text import seed_list
from repro.tracking import layout, reader
from repro.tracking.store import open_client
from repro.training.trainer import Trainer

STAND_IN = ["--data", "stand-in", "--threads", "2"]  # with two jobs: one thread each
CURVES = (names.COST, names.RECONSTRUCTION, names.KL, names.HELDOUT_NEG_ELBO)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", (0, 1, 2, 3, 4)), ("5,0, 2", (0, 2, 5)), ("0-2,7", (0, 1, 2, 7)), (str(2**63 - 1), (2**63 - 1,))],
)
def test_seeds_are_read_and_written(text: str, seeds: tuple[int, ...]) -> None:
    assert options.seeds(text) == seeds
    assert options.seeds(seed_list(seeds)) == seeds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' should be a whole number, or a range"),
        ("0-", "'0-' should be a whole number"),
        ("-1", "'-1' should be a whole number"),
        ("1.5", "'1.5' should be"),
        ("4-1", "4-1 should ascend, as 1-4 does"),
        ("0-2,2,1", "more than once: 1, 2"),
        (str(2**63), f"{2**63} should be at most {2**63 - 1}"),
        ("0-1000", "at most 1000 seeds"),
        ("0-9000000000000000000", "at most 1000 seeds"),
    ],
)
def test_a_fault_in_seeds_is_named(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.seeds(text)
    (fault,) = caught.value.faults
    assert fault.startswith(f"--seeds {text}: ")
    assert said in fault


def test_faults_of_the_options_come_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--seed", "1", "--seeds", "3-1,x", "--summary", "no/where", "--set", "optim.lrr=1"]
    assert cli.main(["run", "mnist_fc", *options]) == 2
    said = capsys.readouterr().err
    for part in ("--seed 1 and --seeds 3-1,x", "3-1 should ascend", "'x' should", "--summary no/where", "optim.lrr"):
        assert part in said
    assert cli.main(["run", "mnist_fc", "--seeds", "0-1", "--jobs", "65"]) == 2
    assert "--jobs" in capsys.readouterr().err
    assert cli.main(["run", "mnist_fc", "--jobs", "2"]) == 2
    assert "--jobs 2: is for --seeds" in capsys.readouterr().err
    assert not (tmp_path / "mlruns").exists()


def runs(folder: Path) -> dict[int, Run]:
    """The trained runs of a directory, by seed; there must be one of each."""
    store = client(folder)
    found = [store.get_run(path.name) for path in (folder / "mlruns" / "runs").iterdir()]
    by_seed = {int(run.data.params[names.SEED]): run for run in found}
    assert len(by_seed) == len(found)
    return by_seed


def histories(store: MlflowClient, run: Run, metric: str) -> dict[int, float]:
    points = layout.points(store, run.info.run_id, metric)
    assert len({point.step for point in points}) == len(points), "no step is logged twice"
    return {point.step: point.value for point in points}


def check_curves(store: MlflowClient, parent: Run, children: list[Run], epochs: int) -> None:
    """Each epoch of the parent against the children's."""
    for metric in CURVES:
        each = [histories(store, child, metric) for child in children]
        expected = [[history[epoch] for history in each] for epoch in range(1, epochs + 1)]
        for key, reduced in {"mean": fmean, "low": min, "high": max}.items():
            found = histories(store, parent, f"{metric}_{key}")
            assert found == {epoch: pytest.approx(reduced(row)) for epoch, row in enumerate(expected, 1)}
    tests = fmean(layout.metrics(child.data)[names.TEST_NEG_ELBO] for child in children)
    assert parent.data.metrics["seeds/test_neg_elbo_mean"] == pytest.approx(tests)
    assert parent.data.metrics["seeds/finished"] == len(children)
    assert set(layout.metrics(parent.data)) == set(names.PARENT_METRICS)


def digests(folder: Path) -> dict[int, str]:
    """Of each seed's final weights."""
    return {seed: run.data.tags[names.WEIGHTS_SHA256] for seed, run in runs(folder).items()}


def weights(seeds: range, epochs: int) -> dict[int, str]:
    """The same of seeds that are trained without any of it: no command, no process, no store."""
    spec = registry.load(Path("small.py")).spec
    dataset, found = data.load(spec.data, "stand-in"), {}
    for seed in seeds:
        trainer = Trainer(spec, seed, dataset, RunConfig("small.py", spec, threads=1).resolved().settings)
        for _ in range(epochs):
            trainer.epoch(lambda: None)
        found[seed] = trainer.digest()
    return found


def test_the_messages_of_seeds_reach_display_parent_run_and_results(
    small_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds, "run_all", run_all_here)
    spec = apply(registry.load(small_file).spec, ["training.epochs=1"])
    config = RunConfig(str(small_file), spec, assignments=("training.epochs=1",), data="stand-in")
    dataset = config.load_data()
    found = seeds.run(config, dataset, (3, 5), 1)
    printed = capsys.readouterr().out
    assert (found.exit_code, [run.seed for run in found.runs]) == (0, [3, 5])
    for run in found.runs:
        assert (run.status, run.epochs) == ("FINISHED", 1)
        assert f"seed {run.seed}  run {run.run_id}: 14 steps" in printed
        assert f"seed {run.seed}  epoch    1/1  cost" in printed
        assert f"seed {run.seed}: FINISHED in" in printed
    store = open_client()
    parent = store.get_run(str(found.parent_run_id))
    children = [store.get_run(run.run_id) for run in found.runs]
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "seeds 3,5 · 1 epoch · stand-in")
    assert {child.data.tags[names.PARENT] for child in children} == {parent.info.run_id}
    check_curves(store, parent, children, 1)
    assert seeds.finished(config, dataset, (3, 4)) == [run_dir.load_result(found.runs[0].run_id)]
    again = seeds.run(config, dataset, (3, 5), 1)
    assert (again.exit_code, again.parent_run_id) == (0, found.parent_run_id)
    assert [run.cost for run in again.runs] == [run.cost for run in found.runs]
    assert "seed 3: finished before" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("small_file")
def test_seeds_are_trained_skipped_and_gathered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "small.py", *STAND_IN, "--jobs", "2", "--summary", "s.json", "--seeds"]
    two = repro(*command, "0-1", cwd=tmp_path)
    assert two.returncode == 0, two.stderr
    assert "seed 1  epoch    3/3  cost" in two.stdout
    assert "training cost, mean of    2" in two.stdout
    store, first = client(tmp_path), json.loads((tmp_path / "s.json").read_text())
    assert [(run["seed"], run["status"]) for run in first["runs"]] == [(0, "FINISHED"), (1, "FINISHED")]
    parent = store.get_run(first["parent_run_id"])
    assert (parent.info.run_name, parent.info.status) == ("seeds 0-1 · stand-in", "FINISHED")
    check_curves(store, parent, list(runs(tmp_path).values()), 3)

    assert cli.main(["run", "small.py", "--seed", "2", "--data", "stand-in", "--threads", "1"]) == 0
    capsys.readouterr()
    assert cli.main([*command, "0-2"]) == 0
    grown, printed = json.loads((tmp_path / "s.json").read_text()), capsys.readouterr().out
    for run in grown["runs"]:
        assert f"seed {run['seed']}: finished before, run {run['run_id'][:8]}, cost {run['cost']:.4f}" in printed
    assert store.get_run(first["parent_run_id"]).info.lifecycle_stage == "deleted"
    parent, children = store.get_run(grown["parent_run_id"]), list(runs(tmp_path).values())
    assert {child.data.tags[names.PARENT] for child in children} == {parent.info.run_id}
    assert parent.data.tags[names.SEEDS] == "0-2"
    assert parent.data.params["optim.lr"] == "0.001"
    check_curves(store, parent, children, 3)

    assert cli.main([*command, "0-2"]) == 0
    again = store.get_run(json.loads((tmp_path / "s.json").read_text())["parent_run_id"])
    assert again.to_dictionary() == parent.to_dictionary(), "where nothing has changed, nothing is written"
    assert {run.run_id for run in reader.runs("small")} == {child.info.run_id for child in children}, "no parent"
    assert digests(tmp_path) == weights(range(3), epochs=3)


@pytest.mark.slow
@pytest.mark.usefixtures("small_file")
def test_a_killed_and_an_interrupted_seed_come_out_as_if_left_alone(tmp_path: Path) -> None:
    command = ["run", "small.py", *STAND_IN, "--epochs", "100", "--summary", "s.json", "--seeds"]
    process = started(*command, "0", "--jobs", "2", cwd=tmp_path)
    wait_for("seed 0  epoch    3/100", tmp_path)
    process.kill()
    process.wait()
    end, store = time.monotonic() + 120, client(tmp_path)
    while runs(tmp_path)[0].info.status != "KILLED":
        assert time.monotonic() < end, "the seed goes on without the command"
        time.sleep(0.2)

    process = started(*command, "0-1", cwd=tmp_path)
    wait_for("of them done before", tmp_path)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143, (tmp_path / "output.txt").read_text()
    stopped = json.loads((tmp_path / "s.json").read_text())
    assert [run["status"] for run in stopped["runs"]] == ["KILLED", "KILLED"]
    assert 3 <= stopped["runs"][0]["epochs"] < 100
    assert (stopped["runs"][1]["run_id"], stopped["runs"][1]["epochs"]) == (None, 0), "there was one job at a time"
    assert store.get_run(stopped["parent_run_id"]).info.status == "KILLED"
    assert "go on: python -m repro run small.py --data stand-in" in (tmp_path / "output.txt").read_text()
    assert "Traceback" not in (tmp_path / "output.txt").read_text()

    assert cli.main([*command, "0"]) == 0
    run = runs(tmp_path)[0]
    assert run.data.params["threads"] == "1", "it goes on with the threads that it began with"
    assert digests(tmp_path) == weights(range(1), epochs=100)
    parent = store.get_run(run.data.tags[names.PARENT])
    assert parent.info.run_id == stopped["parent_run_id"], "it had no curves that would have to be replaced"
    assert (parent.info.status, parent.data.tags[names.SEEDS]) == ("FINISHED", "0")
    check_curves(store, parent, [run], 100)


@pytest.mark.usefixtures("small_file")
def test_seeds_that_fail_are_named_and_stop_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(seeds, "run_all", run_all_here)
    options = [*STAND_IN, "--set", "optim.lr=1000", "--epochs", "50", "--seeds", "3,8", "--summary", "s.json"]
    assert cli.main(["run", "small.py", *options]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert all(f"seed {seed}: FAILED after" in printed.out for seed in (3, 8))
    summary = json.loads((tmp_path / "s.json").read_text())
    assert all("not finite at epoch" in run["error"] for run in summary["runs"])
    assert client(tmp_path).get_run(summary["parent_run_id"]).info.status == "FAILED"


def test_a_terminal_shows_a_row_for_each_seed_and_one_for_all(small: Experiment) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = Progress(TextColumn("{task.description}"), console=screen)
    display = SeedsDisplay(small, seeds=2, steps=20, progress=progress)
    display.pass_on(4, lambda row: row.started("r4", 20, 10))
    display.pass_on(9, lambda row: row.started("r9", 20, 0))
    display.pass_on(9, lambda row: row.step(3))
    display.pass_on(9, lambda row: row.epoch(1, {names.COST: 1.0, names.IMAGES_PER_SECOND: 1.0}))
    shown = {task.description: (task.completed, task.total) for task in progress.tasks}
    assert shown == {"0 of 2 seeds": (13, 40), "seed 4  epoch 2/2": (10, 20), "seed 9  epoch 2/2": (3, 20)}
    failed = DataSource("", False, "")
    display.end(RunResult(run_id="r9", status="FAILED", experiment="small", seed=9, epochs=1, data=failed))
    assert [task.completed for task in progress.tasks] == [30, 10], "a seed that has ended has no steps left"


def test_a_run_that_another_process_finished_a_moment_ago_is_left_as_it_is(tmp_path: Path, small_file: Path) -> None:
    """It had no result when this process looked, and has no checkpoint now."""
    assert repro("run", str(small_file), *STAND_IN, "--epochs", "1", cwd=tmp_path).returncode == 0
    run_id = only_run(tmp_path)
    config, dataset = run_dir.recorded(run_id)
    result = runner.run(run_id, config, dataset, runner.Reporter())
    assert result == run_dir.load_result(run_id)
    assert reader.run(run_id).status == result.status == "FINISHED"
