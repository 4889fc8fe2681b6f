"""Studies as tables and in the report, from a tracking store whose trials nobody trained."""

import json
import math
import uuid
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow.entities import Metric, Param, RunTag
from repro.analysis import sweeps
from repro.analysis.plots import sweeps as plots
from repro.analysis.report import sweeps as report
from repro.analysis.report.document import Figure, Table
from repro.analysis.report.write import Files, update_sweeps
from repro.analysis.sweeps import Sweeps
from repro.analysis.tables import CURVE_COLUMNS, RUN_COLUMNS, Tables

from repro import names, registry
from repro.errors import ReproError
from repro.tracking import artifacts
from repro.tracking import parents as tracked
from repro.tracking.store import experiment_id, open_client

LATENTS, RATES = (5, 20), [float(rate) for rate in np.geomspace(1e-4, 1e-2, 6)]
SPACE = {"space.optim.lr": "log:0.0001:0.01", "space.model.latent": "5,20"}


def bowl(rate: float, latent: int) -> float:
    """A cost that is lowest, at 100, for a rate of 0.002 and 20 latent dimensions."""
    return 100 + 5 * math.log10(rate / 0.002) ** 2 + (0.5 if latent == 5 else 0.0)


def trial(
    parent: str, number: int, state: str, value: float, settings: dict[str, float], data: str = "canonical"
) -> None:
    """Track one trial's run."""
    client = open_client()
    tags = {names.PARENT: parent, names.SWEEP: "bowl", names.TRIAL: str(number)}
    run = client.create_run(experiment_id(client, tracked.mlflow_experiment("mnist_fc")), tags=tags)
    metrics = {names.HELDOUT_NEG_ELBO: value, names.RECONSTRUCTION: value - 20, names.KL: 20.0, names.COST: value}
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, each, 0, 3) for key, each in metrics.items()],
        params=[Param(key, str(each)) for key, each in (settings | {"seed": 0, "data.name": "mnist"}).items()],
        tags=[RunTag(names.TRIAL_STATE, state), RunTag(names.DATA_STATUS, data), RunTag(names.ERROR, "-")],
    )
    client.set_terminated(run.info.run_id, "FINISHED" if state == "complete" else "KILLED")


def study(data: str = "canonical") -> str:
    """Track a study of twelve complete trials, one pruned and one abandoned; return its parent."""
    terms = {"experiment": "mnist_fc", "epochs": "3", "seeds_per_trial": "1", "sampler": "tpe", "pruner": "median"}
    parent = tracked.start_sweep("mnist_fc", "bowl", SPACE | terms, uuid.uuid4().hex)
    for number, rate in enumerate(RATES):
        for place, latent in enumerate(LATENTS):
            settings = {"optim.lr": rate, "model.latent": latent}
            trial(parent, 2 * number + place, "complete", bowl(rate, latent), settings, data)
    trial(parent, 12, "pruned", 130.0, {"optim.lr": 1e-4, "model.latent": 5}, data)
    trial(parent, 3, "abandoned", 99.0, {"optim.lr": 1e-4, "model.latent": 5}, data)
    return parent


def finished(parent: str, own: list[float], best: list[float]) -> None:
    """Log the results of retraining."""
    common = {"seeds": [1, 2, 3], "runs": ["a", "b", "c"], "cost": 99.0}
    settings = [
        common | {"trial": 7, "setting": {"optim.lr": 0.0016, "model.latent": 20}, "trial_value": 100.04,
                  "heldout_then": 100.54, "optimism": 0.5, "test_neg_elbo": best},
        common | {"trial": None, "setting": {}, "trial_value": None, "heldout_then": 100.9, "optimism": None,
                  "test_neg_elbo": own},
    ]  # fmt: skip
    content = json.dumps({"epochs_of_trials": 3, "settings": settings}).encode()
    artifacts.log_files(parent, {names.FINISH_FILE: content})


def read() -> Sweeps:
    """The present store's studies of mnist_fc."""
    found, faults = sweeps.from_store([registry.get("mnist_fc")])
    assert not faults
    return found


def test_each_trial_is_a_row_and_an_abandoned_run_is_none() -> None:
    study()
    trials = read().trials.sort_values("trial")
    assert trials["trial"].tolist() == list(range(13))
    assert trials["state"].tolist() == ["complete"] * 12 + ["pruned"]
    assert trials["value"].iloc[7] == bowl(RATES[3], 20)
    assert math.isnan(trials["value"].iloc[12])
    assert json.loads(trials["settings"].iloc[3]) == {
        "optim.lr": RATES[1],
        "model.latent": 20,
    }
    assert set(trials["data"]) == {"MNIST (canonical)"}
    assert set(trials["reason"]) == {""}


def test_tables_come_back_from_files_as_they_were(tmp_path: Path) -> None:
    finished(study(), [101.0, 101.1, 101.2], [100.0, 100.1, 100.2])
    found = read()
    found.save(tmp_path)
    (tmp_path / "again").mkdir()
    Sweeps.from_files(tmp_path).save(tmp_path / "again")
    for name in ("trials.csv", "retrained.csv"):
        assert (tmp_path / name).read_text() == (tmp_path / "again" / name).read_text()
    (tmp_path / "trials.csv").write_text("nonsense\n")
    with pytest.raises(ReproError, match=r"trials\.csv, row 1: has no column experiment"):
        Sweeps.from_files(tmp_path)
    assert Sweeps.from_files(tmp_path / "nowhere").names() == []


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (100.5, "The published setting is within 1.01 nats (the verdict's margin) of the best setting found"),
        (103.0, "The published setting is more than 1.01 nats (the verdict's margin) from the best setting found"),
        (101.0, "More seeds would decide"),
        (100.0, "The published setting is within 1.01 nats (the verdict's margin) of the best setting found"),
        (98.0, "The published setting is better at full length than the setting that was best after 3 epochs"),
    ],
)
def test_the_question_is_answered_by_test_images(own: float, words: str) -> None:
    parent = study()
    said = sweeps.answer(read(), "bowl", Tables.from_rows())
    assert "near the best one at full length: `python -m repro sweep retrain mnist_fc --study bowl`" in said
    finished(parent, [own - 0.1, own, own + 0.1], [99.9, 100.0, 100.1])
    said = sweeps.answer(read(), "bowl", Tables.from_rows())
    assert words in said
    assert f"{100 - own:+.2f} (95% confidence interval" in said
    assert "New seeds differ from it by +0.50" in said


def test_the_setting_that_answers_is_chosen_by_its_trial_and_not_by_test_images() -> None:
    finished(study(), [101.0, 101.1, 101.2], [100.0, 100.1, 100.2])
    found = read()
    second = found.retrained.iloc[[0]].assign(trial=9.0, trial_value=100.2, test_neg_elbo="[90.0, 90.1, 90.2]")
    found.retrained = pd.concat([second, found.retrained], ignore_index=True)
    assert "gives 100.10 nats of test negative ELBO" in sweeps.answer(found, "bowl", Tables.from_rows())


def own_runs(*costs: float) -> Tables:
    """Comparable runs of the published setting with these held-out costs after a trial's three epochs, and another."""
    found = Tables.from_rows()
    of = {"experiment": "mnist_fc", "data": "MNIST (canonical)", "signature": ""}
    rows = [of | {"run_id": str(number), "comparable": number < len(costs)} for number in range(len(costs) + 1)]
    found.runs = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    ends = [
        {"run_id": str(number), "epoch": epoch, names.HELDOUT_NEG_ELBO: cost - epoch + 3}
        for number, cost in enumerate((*costs, 0.0))
        for epoch in (2, 3, 4)
    ]
    found.curves = pd.DataFrame(ends, columns=list(CURVE_COLUMNS))
    return found


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        (
            (90.0, 92.0),
            "91.00 nats of held-out negative ELBO (mean of 2 seeds, 90.00 to 92.00). Of the 12 complete trials none ",
        ),
        ((100.1,), "have 100.10 nats of held-out negative ELBO (one seed). Of the 12 complete trials 1 is lower"),
        ((140.0,), "Of the 12 complete trials 12 are lower; the best has 100.05, a difference of -39.95. "),
    ],
)
def test_before_retraining_the_published_settings_own_runs_are_set_beside_the_trials(
    costs: tuple[float, ...], words: str
) -> None:
    study()
    said = sweeps.answer(read(), "bowl", own_runs(*costs))
    assert said.startswith("After 3 epochs the published setting's own runs have ")
    assert words in said
    other = own_runs(*costs)
    other.runs["data"] = "MNIST (unverified)"
    assert sweeps.answer(read(), "bowl", other) == sweeps.answer(read(), "bowl", Tables.from_rows())


def test_the_section_has_tables_and_plots() -> None:
    finished(study(), [101.0, 101.1, 101.2], [100.0, 100.1, 100.2])
    found = report.parts(read(), own_runs(100.5))
    parts = found["sweeps"]
    assert [part.name for part in parts if isinstance(part, Figure)] == [
        "surface_bowl", "rate_distortion_bowl",
    ]  # fmt: skip
    more = {part.name: "".join(part.svgs) for part in found["more_of_sweeps"] if isinstance(part, Figure)}
    assert list(more) == [
        "importance_bowl", "history_bowl", "slice_bowl", "parallel_bowl", "rank_bowl", "edf_bowl",
    ]  # fmt: skip
    assert "optim.lr" in more["slice_bowl"]
    assert "held-out negative ELBO" in more["parallel_bowl"]
    assert "published setting" in more["edf_bowl"]
    best = next(
        part for part in found["more_of_sweeps"] if isinstance(part, Table) and part.name == "trials_bowl"
    ).frame
    assert best["trial"].iloc[0] == 7
    said = [part for part in parts if isinstance(part, str)]
    assert any("12 complete, 1 pruned" in text for text in said)


def test_the_published_settings_own_runs_answer_where_it_was_not_retrained() -> None:
    finished(study(), [], [100.0, 100.1, 100.2])
    own = own_runs(100.1, 100.2)
    own.runs["test_neg_elbo"] = [102.9, 103.1, 1.0]
    said = sweeps.answer(read(), "bowl", own)
    assert "gives 100.10 nats of test negative ELBO over 3 seeds, the published setting 103.00 over 2: -2.90" in said
    other = own_runs(100.1)
    other.runs["test_neg_elbo"] = [102.9, 1.0]
    assert "It is not yet known" in sweeps.answer(read(), "bowl", other), "one seed has no standard deviation"


@pytest.mark.parametrize("complete", [0, 1, 2, 5])
def test_a_study_that_has_only_begun_is_in_the_report(complete: int) -> None:
    study()
    found = read()
    found.trials = found.trials.sort_values("trial").head(complete + 1)
    found.trials.loc[found.trials["trial"] == complete, ["state", "value"]] = "running", math.nan
    made = report.parts(found, Tables.from_rows())
    parts = made["sweeps"]
    drawn, more = (
        [part.name for part in made[key] if isinstance(part, Figure)] for key in ("sweeps", "more_of_sweeps")
    )
    assert drawn == ["rate_distortion_bowl"] * (complete > 1)
    assert more[:1] == ["history_bowl"] * (complete > 0)
    assert len(more) == (0, 1, 5, 5, 5, 5)[complete]
    assert any("1 running" in part for part in parts if isinstance(part, str))


def test_a_rebuilt_study_has_the_trials_the_ranges_and_the_importances_of_its_table() -> None:
    study()
    rebuilt = plots.study_of(read().trials)
    assert [each.value for each in rebuilt.trials] == [bowl(rate, latent) for rate in RATES for latent in LATENTS] + [
        None
    ]
    assert rebuilt.trials[12].state.name == "PRUNED"
    assert rebuilt.best_params == {"optim.lr": RATES[3], "model.latent": 20}
    kinds = rebuilt.trials[0].distributions
    assert (kinds["optim.lr"].low, kinds["optim.lr"].high, kinds["optim.lr"].log) == (RATES[0], RATES[-1], True)
    assert kinds["model.latent"].choices == LATENTS
    forests = [optuna.importance.FanovaImportanceEvaluator(seed=seed) for seed in range(9)]
    shares = [optuna.importance.get_param_importances(rebuilt, evaluator=forest)["optim.lr"] for forest in forests]
    assert np.median(shares) > 0.8, shares


def test_studies_of_stand_ins_stay_out_of_the_results(tmp_path: Path) -> None:
    study(data="stand-in")
    assert update_sweeps(read(), Files(tmp_path / "results")) == []
    assert not (tmp_path / "results" / "trials.csv").exists()


def test_an_update_takes_no_study_away_and_does_not_mix_two_of_one_name(tmp_path: Path) -> None:
    files = Files(tmp_path / "results")
    finished(study(), [100.0, 101.0, 102.0], [99.0, 99.5, 98.5])
    published = read()
    update_sweeps(published, files)
    here = Sweeps.from_rows(
        trials=[row | {"runs": f"{row['trial']:032.0f}"} for row in published.trials.head(4).to_dict("records")]
    )
    told = update_sweeps(here, files)
    assert told[0].endswith("has another study bowl; this store's is added as bowl.00000000")
    assert update_sweeps(here, files)[0] == told[0]  # again under the same name
    fewer = published.only(["bowl"])
    fewer.trials, fewer.retrained = fewer.trials.tail(2), fewer.retrained.head(0)
    assert len(update_sweeps(fewer, files)) == 2  # the files; it is the same study
    found = Sweeps.from_files(files.folder)
    assert found.trials["study"].value_counts().to_dict() == {"bowl": 13, "bowl.00000000": 4}
    assert found.retrained["study"].tolist() == ["bowl", "bowl"]
    assert sweeps.command(found.trials[found.trials["study"] != "bowl"]).endswith("--study bowl")
