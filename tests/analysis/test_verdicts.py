"""Verdicts on runs whose right verdict is known."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from repro.analysis import tables, variants, verdicts
from repro.analysis.claims import CLAIMS, Evidence
from repro.analysis.verdicts import Verdict, judge, word
from scipy import stats
from support import synthetic
from support.planned import FC, LAST, PLANNED, failed, judged, planned
from support.process import repro

from repro.spec.overrides import apply

MARGIN = 1.01
BLANK = Verdict("mnist_fc", LAST.epoch, LAST.cost, "interim", "", 0, len(PLANNED), MARGIN)
KEYS = ["experiment", "epoch", "reported", "verdict", "reason", "n", "planned", "margin", "mean", "std", "difference"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        synthetic.open_client()
    return folder / "mlruns"


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    """A store of the test's own, in the present directory."""
    shutil.copytree(template, tmp_path / "mlruns")
    return tmp_path


CASES = [
    (0.3, 0.5, "reproduced", "yes"),
    (0.0, 0.0, "reproduced", "yes"),
    (0.9, 0.05, "reproduced", "no"),
    (0.9, 1.0, "consistent", "yes"),
    (3.0, 3.0, "consistent", "yes"),
    (2.5, 0.1, "different (worse)", "no"),
    (-2.5, 0.1, "different (better)", "no"),
]


@pytest.mark.parametrize(("off", "half_range", "expected", "one_of_ours"), CASES)
def test_a_complete_plan_gets_its_word(off: float, half_range: float, expected: str, one_of_ours: str) -> None:
    verdict = judged(planned(off, half_range))
    assert (verdict.verdict, verdict.n, verdict.planned) == (expected, 12, 12)
    assert verdict.number_reached == ("yes" if expected == "reproduced" else "not shown")
    assert verdict.one_of_ours == one_of_ours
    assert (verdict.plan_commit, verdict.plan_date) == (synthetic.PLAN_COMMIT, synthetic.PLAN_DATE)
    assert verdict.difference == pytest.approx(off)
    assert verdict.excess_share == pytest.approx(off / (LAST.cost - 45.75))
    assert (verdict.reason, verdict.seeds, verdict.outside) == ("", PLANNED, ())


def test_an_incomplete_plan_is_interim_whatever_its_seeds_say() -> None:
    for count in (0, 1, 2, 11):
        verdict = judged(planned(0.0, 0.01)[:count])
        assert (verdict.verdict, verdict.label) == ("interim", f"interim ({count} of 12)")
        assert (verdict.number_reached, verdict.one_of_ours, verdict.reason) == ("-", "-", "")
        assert (verdict.mean is None) == (count == 0)
        assert (verdict.pi_low is None) == (count < 2)


def test_a_seed_outside_the_plan_is_listed_and_not_pooled() -> None:
    rows = planned(0.3, 0.5)
    verdict = judged([*rows, {"seed": 7, "cost": 500.0}])
    assert (verdict.verdict, verdict.outside) == ("reproduced", (7,))
    assert replace(verdict, outside=()) == judged(rows)
    assert judged([*rows[:-1], {"seed": 7, "cost": LAST.cost}]).verdict == "interim"
    (row,) = verdicts.plan_rows([verdict])
    assert row["note"] == "outside the plan: seeds 7"


@pytest.mark.parametrize("status", ["DIVERGED", "FAILED"])
def test_a_planned_seed_that_failed_or_diverged_is_an_outcome_and_rules_out_equivalence(status: str) -> None:
    verdict = judged([*planned(0.3, 0.5)[:-1], failed(111, status)])
    assert (verdict.verdict, verdict.n, verdict.seeds) == ("consistent", 12, PLANNED[:-1])
    assert verdict.failures == ("seed 111: it failed: the cost is not finite",)
    assert judged([*planned(2.5, 0.1)[:-1], failed(111, status)]).verdict == "different (worse)"
    assert "11 of 12" not in verdict.label


def test_a_seed_that_failed_later_counts_for_the_results_that_it_reached() -> None:
    early = FC.spec.reported[0]
    found = synthetic.tables("mnist_fc", [*planned(0.3, 0.5)[:-1], failed(111, "DIVERGED")])
    verdict = verdicts.verdict(FC, early, found)
    assert (verdict.n, verdict.seeds, verdict.failures) == (12, PLANNED, ())
    assert verdict.mean == pytest.approx(synthetic.curve_of(FC).cost[9])


def test_with_all_seeds_failed_there_is_no_comparison() -> None:
    verdict = judged([failed(seed, "DIVERGED") for seed in PLANNED])
    assert (verdict.verdict, verdict.reason) == ("not comparable", "12 of 12 planned seeds failed or diverged")


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_a_seed_that_was_cut_off_is_no_outcome(status: str) -> None:
    verdict = judged([*planned(0.3, 0.5)[:-1], failed(111, status)])
    assert (verdict.label, verdict.failures) == ("interim (11 of 12)", ())


def test_a_seed_that_is_run_again_counts_with_its_first_finished_run() -> None:
    again = {"seed": 100, "cost": 500.0, "started": "2026-01-03"}
    assert judged([*planned(0.3, 0.5), again]) == judged(planned(0.3, 0.5))
    first = {**failed(100, "FAILED"), "started": "2026-01-01"}
    assert judged([first, *planned(0.3, 0.5)]).verdict == "reproduced"


@pytest.mark.parametrize(
    ("field", "value", "was"),
    [
        ("margin", 5.0, "margin 5.0, seeds 100-111"),
        ("margin", None, "margin None, seeds 100-111"),
        ("seeds", (100, 101), "margin 1.01, seeds 100-101"),
        ("cost", 95.0, "cost 95.0, margin 1.01"),
    ],
)
def test_a_plan_that_has_changed_since_a_run_judges_nothing(field: str, value: object, was: str) -> None:
    then = replace(FC.spec, reported=(replace(LAST, **{field: value}),)).flat()["reported"]
    rows = planned(0.3, 0.5)
    rows[3]["plan"] = then
    verdict = judged(rows)
    assert verdict.verdict == "not comparable"
    assert "the plan has changed" in verdict.reason
    assert "when seed 103 was run" in verdict.reason
    assert was in verdict.reason


def test_a_result_without_a_plan_is_not_judged() -> None:
    found = synthetic.tables("mnist_fc", planned(0.3, 0.5))
    for changed, missing in ((replace(LAST, seeds=()), "seeds="), (replace(LAST, margin=None), "margin=")):
        verdict = verdicts.verdict(FC, changed, found)
        assert verdict.verdict == "not comparable"
        assert missing in verdict.reason
        assert verdict.mean is not None


def test_data_is_never_mixed() -> None:
    other = {"data": "MNIST (unverified)", "fingerprint": "0123456789ab"}
    rows = planned(0.3, 0.5)
    mixed = [row | other if index % 2 else row | {"data": "MNIST (unverified)"} for index, row in enumerate(rows)]
    verdict = judged(mixed)
    assert verdict.verdict == "not comparable"
    assert "different data" in verdict.reason
    verdict = judged([*rows, {"seed": 7, "cost": 1.0, **other}])
    assert (verdict.verdict, verdict.outside) == ("reproduced", ())
    assert verdict.reason == "1 on other data left out"


NEVER = [
    ({"data": "stand-in", "reason": "it was trained on a stand-in, not on the real data"}, "stand-in"),
    ({"spec": apply(FC.spec, ["training.epochs=5"]), "reason": "it was set to 5 epochs"}, "5 epochs"),
    ({"spec": apply(FC.spec, ["optim.lr=0.01"]), "reason": "it overrides optim.lr"}, "optim.lr"),
    ({"spec": apply(FC.spec, ["optim.lr=0.01"])}, "another version"),
    ({"status": "RUNNING"}, "not finished"),
    ({"status": "KILLED"}, "KILLED"),
]


@pytest.mark.parametrize(("made", "why"), NEVER)
def test_what_must_not_enter_a_verdict_does_not(store: Path, made: dict[str, object], why: str) -> None:
    synthetic.run("mnist_fc", 100, 96.2, **made)
    found, faults = tables.from_store([FC])
    assert not faults
    verdict = verdicts.verdicts([FC], found)[-1]
    assert (verdict.label, verdict.mean) == ("interim (0 of 12)", None)
    assert why in found.runs["reason"].iloc[0]


def test_the_command_gives_every_result_its_verdict(store: Path) -> None:
    for row in planned(0.1, 0.5):
        synthetic.run("mnist_fc", row["seed"], row["cost"], shift=row["cost"] - LAST.cost)
    synthetic.run("mnist_fc", 0, 300.0)
    process = repro("compare", "mnist_fc", "mnist_conv", "--json", cwd=store)
    assert process.returncode == 0, process.stderr
    rows = synthetic.loaded(process.stdout)
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows.values())
    assert rows["mnist_fc", 100]["verdict"] == "reproduced"
    assert (rows["mnist_fc", 100]["n"], rows["mnist_fc", 100]["planned"]) == (12, 12)
    assert rows["mnist_fc", 100]["outside"] == [0]
    assert rows["mnist_fc", 100]["plan_commit"] == synthetic.PLAN_COMMIT
    assert (rows["mnist_conv", 150]["verdict"], rows["mnist_conv", 150]["n"]) == ("interim", 0)
    shown = repro("compare", "mnist_fc", cwd=store)
    for part in ("reproduced", "12 of 12", "cccccccc, 2026-01-01", "published distance", "consistent: "):
        assert part in shown.stdout
    lines = repro("compare", "mnist_fc", "--csv", cwd=store).stdout.splitlines()
    assert lines[0].startswith("experiment,epoch,reported,verdict")
    assert len(lines) == 3
    both = repro("compare", "--csv", "--json", cwd=store)
    assert (both.returncode, both.stdout) == (2, "")
    printed = repro("claims", "--json", cwd=store)
    assert printed.returncode == 0, printed.stderr
    by_name = {row["name"]: row for row in json.loads(printed.stdout)}
    assert by_name["cost_mnist_fc"]["verdict"] == "holds"
    assert by_name["curve_mnist_fc"]["verdict"] == "holds"
    assert by_name["cost_cifar_conv"]["verdict"] == "not measured"
    assert "python -m repro run cifar_conv --seeds 100-111" in by_name["cost_cifar_conv"]["evidence"]


def test_tables_survive_their_files(store: Path, tmp_path: Path) -> None:
    for seed in range(100, 102):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 300)
    found, _ = tables.from_store([FC])
    found.save(tmp_path / "results")
    again = tables.Tables.from_files(tmp_path / "results")
    assert verdicts.verdicts([FC], again) == verdicts.verdicts([FC], found)
    again.save(tmp_path / "again")
    for name in ("runs.csv", "curves.csv", "measurements.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "results" / name).read_bytes()
    joined = found.joined(again)
    assert len(joined.runs) == 2
    assert len(joined.curves) == len(found.curves)


def test_a_variant_is_measured_against_its_experiment_at_the_same_epoch(store: Path) -> None:
    synthetic.run("mnist_fc", 0, 96.2)
    synthetic.run("mnist_fc", 1, 96.4)
    synthetic.run("mnist_fc_pytorch_init", 0, 95.0)
    synthetic.run("mnist_fc_pytorch_init", 1, 95.4)
    synthetic.run("mnist_fc_heldout_included", 7, 95.4)
    synthetic.run("mnist_fc_gaussian", 0, -1000.0)
    found, _ = tables.from_store(tables.all_entries())
    rows = variants.table(Evidence(found)).set_index("variant")
    init = rows.loc["mnist_fc_pytorch_init"]
    assert (init["epoch"], init["change"]) == (100, "model.init: truncated_normal -> pytorch")
    paired = stats.ttest_rel([95.0, 95.4], [96.2, 96.4]).confidence_interval(0.95)
    assert init[["difference", "low", "high"]].tolist() == pytest.approx([-1.1, paired.low, paired.high])
    assert (init["pairs"], init["interval"]) == (2, f"{paired.low:+.2f} to {paired.high:+.2f} ~")
    unpaired = rows.loc["mnist_fc_heldout_included"]
    assert np.isnan(unpaired["difference"])
    note = "it shares no seed with mnist_fc; python -m repro run mnist_fc_heldout_included --seeds 0-1"
    assert unpaired["note"] == note
    assert np.isnan(rows.loc["mnist_fc_gaussian", "difference"])
    assert "not compared" in rows.loc["mnist_fc_gaussian", "note"]
    assert rows.loc["cifar_conv_shuffled", "note"] == "not run yet: python -m repro run cifar_conv_shuffled"


@pytest.mark.parametrize(("change", "words"), [(0.05, "within 0.10"), (0.2, "not within 0.10")])
def test_mixed_precision_is_a_variant_and_enters_no_verdict(store: Path, change: float, words: str) -> None:
    for seed in range(100, 105):
        cost = 96.2 + seed / 100
        synthetic.run("mnist_fc", seed, cost)
        mixed = {"precision": "mixed", "reason": "it was computed in mixed precision"}
        synthetic.run("mnist_fc", seed, cost + change + seed % 2 / 1000, **mixed)
    found, _ = tables.from_store(tables.all_entries())
    row = variants.table(Evidence(found)).set_index("variant").loc["mnist_fc, mixed"]
    assert (row["pairs"], row["difference"]) == (5, pytest.approx(change + 0.0004))
    assert row["note"] == f"the interval is {words} nats, a tenth of the margin"
    assert verdicts.verdicts([FC], found)[-1].n == 5
    assert variants.table(Evidence(found)).set_index("variant").loc["cifar_conv, mixed", "note"] == (
        "not run yet: python -m repro run cifar_conv --precision mixed --seeds 100-102"
    )


@pytest.mark.parametrize(
    ("shift", "data", "expected"),
    [(100.0, "canonical", "holds"), (-100.0, "canonical", "does not hold"), (100.0, "stand-in", "not measured")],
)
def test_training_that_diverged_on_real_data_is_an_outcome(store: Path, shift: float, data: str, expected: str) -> None:
    for seed in range(2):
        synthetic.run("mnist_fc", seed)
    synthetic.run("mnist_fc_score_function", 0, diverged_after=16, shift=shift, data=data)
    found, faults = tables.from_store(tables.all_entries())
    assert not faults
    evidence = Evidence(found)
    (claim,) = (each for each in CLAIMS if each.name == "score_function_not_practical")
    finding = claim.finding(evidence)
    assert finding.verdict == expected
    row = variants.table(evidence).set_index("variant").loc["mnist_fc_score_function"]
    if expected == "not measured":
        assert row["note"].startswith("not run yet")
    else:
        assert "in 16 epochs by the score function, after which its cost was not finite" in finding.evidence
        assert (row["epoch"], row["difference"]) == (16, pytest.approx(shift))
        assert row["note"] == variants.DIVERGED_THEN


@given(st.floats(-3, 3), st.floats(0.01, 3), st.integers(2, 20))
def test_both_answers_are_those_of_t_tests(off: float, half_range: float, n: int) -> None:
    costs = LAST.cost + off + half_range * np.linspace(-1, 1, n)
    low = stats.ttest_1samp(costs, LAST.cost - MARGIN, alternative="greater").pvalue < 0.05
    high = stats.ttest_1samp(costs, LAST.cost + MARGIN, alternative="less").pvalue < 0.05
    found = judge(BLANK, costs.tolist())
    assert (word(found) == "reproduced") == (low and high)
    assert word(replace(found, failures=("seed 0: it failed",))) != "reproduced"
    one_more = stats.t(n - 1, costs.mean(), costs.std(ddof=1) * np.sqrt(1 + 1 / n))
    assert found.p == pytest.approx(2 * min(one_more.cdf(LAST.cost), one_more.sf(LAST.cost)))
    assert (found.pi_low, found.pi_high) == pytest.approx(one_more.interval(0.95))
    assert (found.p < 0.05) == (not found.pi_low < LAST.cost < found.pi_high)
