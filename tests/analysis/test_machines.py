"""Seeds of several machines: a row for each, and a test that finds a machine whose costs are off."""

import numpy as np
import pytest
from repro.analysis import machines, verdicts
from repro.analysis.paired import Setting, rows
from support import synthetic
from support.process import ROOT, repro

from repro import registry

FC = registry.get("mnist_fc")


def judged(costs: list[float], processors: list[str]) -> tuple[verdicts.Verdict, list[dict[str, object]]]:
    made = [
        {"seed": 100 + n, "cost": cost, "cpu": cpu} for n, (cost, cpu) in enumerate(zip(costs, processors, strict=True))
    ]
    tables = synthetic.tables("mnist_fc", made)
    found = [each for each in verdicts.verdicts([FC], tables) if each.epoch == 100]
    return found[0], machines.rows(found, tables)


@pytest.mark.parametrize(("shift", "seen"), [(0.0, False), (3.0, True)])
def test_a_machine_whose_costs_are_off_is_seen(shift: float, seen: bool) -> None:
    noise = np.random.default_rng(5).normal(96.2, 0.3, 12)
    _, found = judged([cost + shift * (n > 7) for n, cost in enumerate(noise)], ["Xeon"] * 8 + ["EPYC"] * 4)
    assert [(row["processor"], row["seeds"]) for row in found] == [("EPYC", 4), ("Xeon", 8)]
    assert (float(str(found[0]["p"])) < 0.01) is seen


def test_one_machine_has_no_row_and_a_single_seed_no_test() -> None:
    assert judged([96.0, 96.5], ["Xeon", "Xeon"])[1] == []
    _, found = judged([96.0, 96.5, 96.1], ["Xeon", "Xeon", "EPYC"])
    assert [row["p"] for row in found] == [None, None]
    assert found[0]["standard_deviation"] is None


def test_two_settings_are_compared_over_the_seeds_that_they_share() -> None:
    tables = synthetic.tables("mnist_fc", [{"seed": seed, "cost": 96.0 + seed / 10} for seed in range(3)])
    other = FC.spec.signature[::-1]
    changed = synthetic.tables("mnist_fc", [{"seed": s, "cost": 97.0 + s / 10, "signature": other} for s in (1, 2, 5)])
    for table in (changed.runs, changed.curves):
        table["run_id"] = "f" + table["run_id"].str[1:]
    first = Setting.read("mnist_fc")
    second = Setting("mnist_fc,other=1", FC, other)
    (row,) = rows([first, second], tables.joined(changed))
    assert (row["seeds"], row["epoch"]) == (2, 100)
    assert row["difference"] == pytest.approx(-1.0)
    assert Setting.read("mnist_fc,optim.lr=0.002").signature != first.signature


@pytest.mark.parametrize(("names", "code"), [(["mnist_fc"], 0), (["cifar_conv"], 5), (["mnist_fc", "cifar_conv"], 5)])
def test_compare_check_gives_an_exit_code(names: list[str], code: int) -> None:
    options = ["--check", "--results", str(ROOT / "results")]
    assert repro("compare", *names, *options, cwd=ROOT).returncode == code


def test_compare_names_a_wrong_setting() -> None:
    process = repro("compare", "mnist_fc", "mnist_fc,optim.lrr=1", "--results", str(ROOT / "results"), cwd=ROOT)
    assert (process.returncode, "did you mean 'lr'" in process.stderr) == (2, True)
