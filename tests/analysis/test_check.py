"""`check`: curves of our own seeds and variants, from the committed results, with the mistakes that people make."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repro.analysis import check
from repro.analysis.claims.evidence import Evidence
from repro.analysis.curves import by_seed
from repro.analysis.tables import Tables
from support.process import ROOT, repro

from repro import registry
from repro.errors import ReproError, UsageError

FC = registry.get("mnist_fc")
COMMITTED = Tables.from_files(ROOT / "results")


def curves(name: str) -> pd.DataFrame:
    return by_seed(COMMITTED.curves_of(COMMITTED.runs_of(name)))


WRONG = [
    name
    for name in ("mnist_fc_pytorch_init", "mnist_fc_kl_as_printed", "mnist_fc_lr_1e4")
    if len(COMMITTED.runs_of(name)) > 1  # one is left out
]
"""Wrong settings whose runs are committed."""


def without(name: str, seed: int) -> Evidence:
    """The committed results without one run."""
    left_out = (COMMITTED.runs["experiment"] == name) & (COMMITTED.runs["seed"] == seed)
    return Evidence(COMMITTED.only(COMMITTED.runs.loc[~left_out, "run_id"]))


@pytest.mark.parametrize("name", ["mnist_fc", "mnist_conv_lr_1e3"])
def test_each_of_our_seeds_is_inside_the_band_of_the_others(name: str) -> None:
    ours = curves(name)
    for seed in ours:
        found = check.check(ours[seed], registry.get(name), without(name, seed))
        assert (found.inside, found.epochs, len(found.seeds)) == (True, len(ours), len(ours.columns) - 1), seed


def test_a_short_look_is_put_beside_the_published_run_and_our_seeds() -> None:
    said = check.sentence(136.32, 4, FC, Evidence(COMMITTED))
    assert said.startswith("epoch 4: 136.32; the published run had 134.66 ± 0.11 there; the band of ")
    margin = max(each.margin for each in FC.spec.reported)
    low, high = check.band(curves("mnist_fc").loc[:4], margin).loc[4]
    assert said.endswith(f"of our seeds is {low:.2f} to {high:.2f}: inside")
    assert check.sentence(high + 0.1, 4, FC, Evidence(COMMITTED)).endswith("outside")
    assert check.sentence(136.32, 4, FC, None).endswith("134.66 ± 0.11 there"), "no seeds, the published run alone"
    assert check.sentence(90.0, 300, FC, Evidence(COMMITTED)) == "", "nobody has trained for so long"


@pytest.mark.parametrize(
    ("variant", "epochs"),
    [
        (variant, epochs)
        for variant in WRONG
        for epochs in (100, 5)
        if (variant, epochs) != ("mnist_fc_kl_as_printed", 5)
    ],
)
def test_a_wrong_setting_is_named(variant: str, epochs: int) -> None:
    theirs = curves(variant)
    found = check.check(theirs.iloc[:epochs, 0], FC, without(variant, int(theirs.columns[0])))
    assert not found.inside
    assert (found.likenesses[0].experiment, found.likenesses[0].unit) == (variant, "image")
    assert f"looks like {variant}" in "\n".join(found.sentences())


@pytest.mark.parametrize(
    ("unit", "factor", "said"),
    [
        ("pixel", 1 / 784, "a mean over the pixels: 784 times too small; give --per pixel"),
        ("batch", 100, "a sum over the batch: 100 times too large; give --per batch"),
        ("bits", 1 / (784 * np.log(2)), "bits per pixel and channel: 543.4 times too small; give --per bits"),
    ],
)
def test_a_wrong_scale_is_named_and_can_be_given(unit: check.Unit, factor: float, said: str) -> None:
    evidence = without("mnist_fc", 100)
    found = check.check(curves("mnist_fc")[100] * factor, FC, evidence)
    assert (found.inside, found.leaving is not None and found.leaving.epoch) == (False, 1)
    assert f"looks like {said}" in "\n".join(found.sentences())
    assert check.check(curves("mnist_fc")[100] * factor, FC, evidence, unit).inside


def test_the_first_epoch_outside_is_named() -> None:
    curve = curves("mnist_fc")[100].copy()
    curve[40:] += 5
    leaving = check.check(curve, FC, without("mnist_fc", 100)).leaving
    assert leaving is not None
    assert leaving.epoch == 41
    assert leaving.beyond == pytest.approx(leaving.cost - leaving.high)


def test_the_command_reads_a_file_and_gives_an_exit_code(tmp_path: Path) -> None:
    options = ["--against", "mnist_fc", "--results", str(ROOT / "results")]
    file = tmp_path / "mine.csv"
    curves("mnist_fc")[100].iloc[:30].rename("cost").to_csv(file)
    inside = repro("check", str(file), *options, cwd=tmp_path)
    assert (inside.returncode, inside.stdout.startswith("inside: all 30 epochs")) == (0, True), inside.stderr
    (curves("mnist_fc")[100] / 784).rename("cost").to_csv(file)
    outside = repro("check", str(file), *options, "--json", cwd=tmp_path)
    found = json.loads(outside.stdout)
    assert (outside.returncode, found["inside"], found["likenesses"][0]["unit"]) == (4, False, "pixel")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch,loss\n1,2\n", "has no column cost"),
        ("epoch,cost\n1,nan\n", "row 2, column cost: 'nan'"),
        ("epoch,cost\n0,100\n", "row 2, column epoch"),
        ("epoch,cost\n1,100\n1,99\n", "row 3, column epoch: the same as in a row above"),
        ("epoch,cost\n", "has no rows"),
    ],
)
def test_a_file_that_is_no_curve_is_refused_with_the_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(ReproError) as refused:
        check.read_curve(tmp_path / "mine.csv")
    assert said in str(refused.value)


def test_an_experiment_without_seeds_has_no_band() -> None:
    with pytest.raises(UsageError, match="cifar_conv has 0 finished seeds"):
        check.check(pd.Series([2000.0], index=[1]), registry.get("cifar_conv"), Evidence(Tables.from_rows()))
