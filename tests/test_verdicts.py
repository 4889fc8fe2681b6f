"""Verdicts on stores whose right verdict is known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from process import repro
from scipy import stats

from analysis import ablations, compare, curves, frames, verdicts
from analysis.claims import CLAIMS, Evidence
from analysis.verdicts import Verdict, judge
from repro import registry
from repro.overrides import apply

FC = registry.get("mnist_fc")
REPORTED, MARGIN = 96.2119372147, 1.01
KEYS = ["experiment", "reported", "n", "mean", "std", "pi_low", "pi_high", "difference", "excess_share"]
KEYS += ["verdict", "reason", "data"]


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


def found(*entries: str) -> Verdict:
    chosen = [registry.get(name) for name in entries or ["mnist_fc"]]
    tables, faults = frames.from_store(chosen)
    assert not faults
    return compare.verdicts(chosen, tables)[0]


CASES = [
    ([96.1, 96.3, 96.25], "reproduced", ""),
    ([96.21, 96.21, 96.21], "reproduced", ""),
    ([98.6, 98.7, 98.5], "different (worse)", ""),
    ([94.0, 94.1, 93.9], "different (better)", ""),
    ([96.2], "inconclusive", "needs at least 1 more seed"),
    ([95.6, 96.8], "inconclusive", "needs about"),
    ([97.1, 97.4, 97.2], "inconclusive", "needs about"),
]


@pytest.mark.parametrize(("costs", "word", "reason"), CASES)
def test_seeds_on_canonical_data(store: Path, costs: list[float], word: str, reason: str) -> None:
    for seed, cost in enumerate(costs):
        synthetic.run("mnist_fc", seed, cost)
    verdict = found()
    assert (verdict.verdict, verdict.n, verdict.data) == (word, len(costs), "MNIST (canonical)")
    assert verdict.reason.startswith(reason)
    assert bool(verdict.reason) == bool(reason)
    assert verdict.difference == pytest.approx(np.mean(costs) - REPORTED)
    assert verdict.excess_share == pytest.approx((np.mean(costs) - REPORTED) / (REPORTED - 45.75))


NEVER = [
    ({"data": "stand-in", "reason": "it was trained on a stand-in, not on the real data"}, "stand-in"),
    ({"spec": apply(FC.spec, ["training.epochs=5"]), "reason": "it was set to 5 epochs"}, "5 epochs"),
    ({"spec": apply(FC.spec, ["optim.lr=0.01"]), "reason": "it overrides optim.lr"}, "optim.lr"),
    ({"spec": apply(FC.spec, ["optim.lr=0.01"])}, "another version"),
    ({"status": "RUNNING"}, "not finished"),
    ({"status": "KILLED"}, "KILLED"),
    ({"spec": synthetic.with_margin(FC.spec, 5.0)}, "the margin is 1.01 nats now and was 5.0"),
    ({"spec": synthetic.with_margin(FC.spec, None)}, "the margin is 1.01 nats now and was"),
]


@pytest.mark.parametrize(("made", "why"), NEVER)
def test_what_must_not_enter_a_verdict_does_not(store: Path, made: dict[str, object], why: str) -> None:
    for seed in range(3):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 100, **made)
    verdict = found()
    assert verdict.verdict == "not comparable"
    assert why in verdict.reason


def test_they_do_not_change_a_verdict_either(store: Path) -> None:
    for seed in range(3):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 100)
        synthetic.run("mnist_fc", seed + 10, 300.0, data="stand-in", reason="stand-in")
    assert (found().verdict, found().n) == ("reproduced", 3)


def test_data_is_never_mixed(store: Path) -> None:
    for seed in range(3):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 100, data="unverified", fingerprint=synthetic.OTHER)
        synthetic.run("mnist_fc", seed + 3, 96.2, data="unverified")
    verdict = found()
    assert verdict.verdict == "not comparable"
    assert "different data" in verdict.reason
    for seed in range(3):
        synthetic.run("mnist_fc", seed + 6, 98.6 + seed / 100, fingerprint="f" * 64)
    verdict = found()
    assert (verdict.verdict, verdict.n, verdict.seeds) == ("different (worse)", 3, (6, 7, 8))
    assert "6 on other data left out" in verdict.reason


def test_a_seed_that_was_run_twice_counts_once(store: Path) -> None:
    for cost in (96.0, 96.1, 96.2):
        synthetic.run("mnist_fc", 0, cost)
    verdict = found()
    assert (verdict.verdict, verdict.n) == ("inconclusive", 1)


def test_the_command_gives_every_setup_its_verdict(store: Path) -> None:
    for seed in range(3):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 100)
    process = repro("compare", "mnist_fc", "mnist_conv", "--json", cwd=store)
    assert process.returncode == 0, process.stderr
    rows = synthetic.loaded(process.stdout)
    assert all(list(row)[: len(KEYS)] == KEYS for row in rows.values())
    assert rows["mnist_fc"]["verdict"] == "reproduced"
    assert (rows["mnist_conv"]["verdict"], rows["mnist_conv"]["n"]) == ("not comparable", 0)
    shown = repro("compare", "mnist_fc", cwd=store)
    assert "reproduced" in shown.stdout
    assert "within error and margin" in shown.stdout
    lines = repro("compare", "mnist_fc", "--csv", cwd=store).stdout.splitlines()
    assert lines[0].startswith("experiment,reported,n,mean,std")
    assert len(lines) == 2
    both = repro("compare", "--csv", "--json", cwd=store)
    assert (both.returncode, both.stdout) == (2, "")
    judged = repro("claims", "--json", cwd=store)
    assert judged.returncode == 0, judged.stderr
    by_name = {row["name"]: row for row in json.loads(judged.stdout)}
    assert by_name["cost_mnist_fc"]["verdict"] == "holds"
    assert by_name["curve_mnist_fc"]["verdict"] == "holds"
    assert by_name["cost_cifar_conv"]["verdict"] == "not measured"
    assert "python -m repro run cifar_conv" in by_name["cost_cifar_conv"]["evidence"]


def test_tables_survive_their_files(store: Path, tmp_path: Path) -> None:
    for seed in range(2):
        synthetic.run("mnist_fc", seed, 96.2 + seed / 300)
    tables, _ = frames.from_store([FC])
    tables.save(tmp_path / "results")
    again = frames.from_files(tmp_path / "results")
    assert compare.verdicts([FC], again) == compare.verdicts([FC], tables)
    again.save(tmp_path / "again")
    for name in ("runs.csv", "curves.csv", "measurements.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "results" / name).read_bytes()
    joined = tables.joined(again)
    assert len(joined.runs) == 2
    assert len(joined.curves) == len(tables.curves)


def test_a_variant_is_measured_against_its_experiment_at_the_same_epoch(store: Path) -> None:
    synthetic.run("mnist_fc", 0, 96.2)
    synthetic.run("mnist_fc", 1, 96.4)
    synthetic.run("mnist_fc_pytorch_init", 0, 95.0)
    synthetic.run("mnist_fc_gaussian", 0, -1000.0)
    tables, _ = frames.from_store(frames.all_entries())
    rows = ablations.table(Evidence(tables)).set_index("variant")
    init = rows.loc["mnist_fc_pytorch_init"]
    assert (init["epoch"], init["change"]) == (100, "model.init: truncated_normal -> pytorch")
    assert init[["difference", "low", "high"]].tolist() == pytest.approx([-1.3, -1.4, -1.2])
    assert np.isnan(rows.loc["mnist_fc_gaussian", "difference"])
    assert "not compared" in rows.loc["mnist_fc_gaussian", "note"]
    assert rows.loc["cifar_conv_shuffled", "note"] == "not run yet: python -m repro run cifar_conv_shuffled"


@pytest.mark.parametrize(
    ("shift", "data", "word"),
    [(100.0, "canonical", "holds"), (-100.0, "canonical", "does not hold"), (100.0, "stand-in", "not measured")],
)
def test_training_that_diverged_on_real_data_is_an_outcome(store: Path, shift: float, data: str, word: str) -> None:
    for seed in range(2):
        synthetic.run("mnist_fc", seed)
    synthetic.run("mnist_fc", 2, diverged_after=30)
    synthetic.run("mnist_fc_score_function", 0, diverged_after=16, shift=shift, data=data)
    tables, faults = frames.from_store(frames.all_entries())
    assert not faults
    evidence = Evidence(tables)
    (claim,) = (each for each in CLAIMS if each.name == "score_function_not_practical")
    finding = claim.finding(evidence)
    assert finding.verdict == word
    row = ablations.table(evidence).set_index("variant").loc["mnist_fc_score_function"]
    if word == "not measured":
        assert row["note"].startswith("not run yet")
    else:
        assert "in 16 epochs by the score function, after which its cost was no longer a number" in finding.evidence
        assert (row["epoch"], row["difference"]) == (16, pytest.approx(shift))
        assert row["note"] == ablations.DIVERGED_THEN
    assert evidence.verdicts["mnist_fc"].n == 2
    (other,) = tables.runs[tables.runs["seed"] == 2].to_dict("records")
    assert (other["status"], other["reason"]) == (frames.DIVERGED, "it failed: the cost is not finite")


@given(st.floats(-3, 3), st.floats(0.01, 3), st.integers(2, 12))
def test_the_verdict_is_that_of_two_one_sided_t_tests(off: float, spread: float, n: int) -> None:
    costs = REPORTED + off + spread * np.linspace(-1, 1, n)
    low = stats.ttest_1samp(costs, REPORTED - MARGIN, alternative="greater").pvalue < 0.05
    high = stats.ttest_1samp(costs, REPORTED + MARGIN, alternative="less").pvalue < 0.05
    worse = stats.ttest_1samp(costs, REPORTED + MARGIN, alternative="greater").pvalue < 0.05
    better = stats.ttest_1samp(costs, REPORTED - MARGIN, alternative="less").pvalue < 0.05
    expected = "different (worse)" if worse else "different (better)" if better else "inconclusive"
    assert judge(costs.tolist(), REPORTED, MARGIN).verdict == ("reproduced" if low and high else expected)


def test_so_many_more_seeds_decide_and_no_fewer() -> None:
    more = verdicts.more_seeds(0.5, 0.8, 1.01, 3)
    assert more is not None

    def decided(total: int) -> bool:
        half = stats.t.ppf(0.95, total - 1) * 0.8 / np.sqrt(total)
        return bool(0.5 + half < 1.01)

    assert decided(3 + more)
    assert not decided(3 + more - 1)
    assert verdicts.more_seeds(1.01, 0.8, 1.01, 3) is None


def test_knees_are_where_the_fall_is_done() -> None:
    epochs, cost = np.arange(1.0, 7.0), np.array([500.0, 200, 190, 140, 110, 100])
    half, most = curves.knees(epochs, cost, 100.0)
    assert half == pytest.approx(3.8)  # 150 between 190 at epoch 3 and 140 at epoch 4
    assert most == pytest.approx(5.0)
    assert np.isnan(curves.knees(epochs, np.full(6, 200.0), 100.0)).all()


def test_a_curve_that_strays_is_measured_in_reading_errors() -> None:
    reported = curves.reported_curve(FC)
    assert reported is not None
    rows = pd.DataFrame({"epoch": reported.epoch.astype(int), "seed": 0, "cost": reported.cost})
    rows.loc[rows["epoch"] == 60, "cost"] += 3 * 0.52
    shape = curves.compare(FC, rows, reported, MARGIN)
    assert (shape.largest_epoch, round(float(shape.largest_deviation or 0), 6)) == (60, 3.0)
    assert shape.share_within == pytest.approx(
        1 - 1 / np.sum((reported.epoch > shape.knees_reported[-1]) & (reported.reading_error > 0))
    )
    assert shape.knees_reported == tuple(seed[0] for seed in shape.knees)
