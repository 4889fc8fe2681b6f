"""Specs, overrides and the registry: what is accepted, what is refused, and in what words."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.errors import UsageError
from repro.spec import Conv, Dense, Experiment, from_dict, registry
from repro.spec.overrides import apply

FC = registry.get("mnist_fc").spec


def test_the_three_setups_are_registered_with_what_was_reported() -> None:
    specs = {name: registry.get(name).spec for name in registry.names()}
    costs = {(name, each.epoch): each.cost for name, spec in specs.items() for each in spec.reported}
    assert costs == {
        ("mnist_fc", 10): 112.542405215,
        ("mnist_fc", 100): 96.211937214,
        ("mnist_conv", 150): 99.197660592,
        ("mnist_conv_lr_1e3", 10): 130.142956571,
        ("cifar_conv", 150): 1840.119207031,
    }


def test_a_margin_is_two_percent_of_the_excess_over_the_entropy_floor_and_seeds_are_planned() -> None:
    floors = {"mnist": 45.75, "cifar10": 1678.91}
    for name in registry.names():
        spec = registry.get(name).spec
        for each in spec.reported:
            assert each.margin == pytest.approx(0.02 * (each.cost - floors[spec.data.name]), abs=0.005)
            assert each.seeds == tuple(range(100, 120 if name == "mnist_conv_lr_1e3" else 112))


@pytest.mark.parametrize("name", [name for name in registry.names() if registry.get(name).spec.variant_of])
def test_a_variant_differs_from_its_experiment_in_one_setting(name: str) -> None:
    spec = registry.get(name).spec
    base, varied = registry.get(str(spec.variant_of)).spec.flat(), spec.flat()
    keys = {key for key in base | varied if key not in ("reported", "variant_of", "training.epochs")}
    assert len([key for key in keys if base.get(key) != varied.get(key)]) == 1


@pytest.mark.parametrize("name", registry.names())
def test_a_spec_survives_its_own_dictionary(name: str) -> None:
    spec = registry.get(name).spec
    assert from_dict(spec.to_dict()) == spec


def test_the_signature_covers_all_that_is_computed_and_nothing_else() -> None:
    assert apply(FC, ["optim.epsilon=1e-7"]).signature != FC.signature
    assert apply(FC, ["data.first_epoch=shuffled"]).signature != FC.signature
    assert apply(FC, ["optim.epsilon_at=sqrt_corrected"]).signature != FC.signature
    assert apply(FC, ["training.epochs=3"]).signature == FC.signature
    assert apply(FC, ["optim.lr=0.001"]).signature == FC.signature
    values = FC.to_dict() | {"reported": None}
    assert from_dict(values).signature == FC.signature


def test_signatures_stay_what_they_are() -> None:
    found = {name: registry.get(name).spec.signature for name in registry.names()}
    assert found == {
        "cifar_conv": "d711949b9420",
        "cifar_conv_shuffled": "592796e0ec4d",
        "mnist_conv": "091024faf743",
        "mnist_conv_lr_1e3": "9206410e6967",
        "mnist_conv_pytorch_adam": "f72ff04cbd34",
        "mnist_fc": "d6c7f72fd7c7",
        "mnist_fc_first_epoch_shuffled": "d61996a658da",
        "mnist_fc_gaussian": "b8295829d054",
        "mnist_fc_heldout_included": "5c1f359efa21",
        "mnist_fc_kl_as_printed": "2d36037c4ebb",
        "mnist_fc_lr_1e4": "cb9ee89d9d2e",
        "mnist_fc_pytorch_init": "6dea11068854",
        "mnist_fc_score_function": "5e662f0cf9b6",
    }


def test_a_spec_recorded_with_one_reported_result_is_read() -> None:
    one = {"cost": 96.2, "epoch": 100, "source": "somebody", "curve": None, "margin": 1.01}
    values = FC.to_dict()
    del values["data"]["first_epoch"], values["optim"]["epsilon_at"]
    read = from_dict(values | {"reported": one})
    assert [each.cost for each in read.reported] == [96.2]
    assert (read.data.first_epoch, read.optim.epsilon_at) == (None, "sqrt_corrected")
    assert from_dict(values | {"reported": None}).reported == ()


def test_overrides_take_the_type_of_their_field() -> None:
    layers = '[{"kind": "conv", "kernel": 5, "channels": 8}, {"kind": "dense", "units": 7, "activation": "tanh"}]'
    changed = apply(
        FC,
        [
            "optim.lr=3e-4",
            "model.latent=10",
            "data.shuffle=false",
            f"model.encoder={layers}",
            "model.decoder.0.units=9",
        ],
    )
    assert changed.optim.lr == 3e-4
    assert changed.model.latent == 10
    assert changed.data.shuffle is False
    assert changed.model.encoder == (Conv(5, channels=8), Dense(7, activation="tanh"))
    assert changed.model.decoder[0] == Dense(9)


def test_every_fault_is_reported_at_once() -> None:
    wrong = ["optim.lrr=1", "model.latent=-3", "optim.lr=abc", "foo", "model=3", "data.name=mnst", "reported.cost=1"]
    with pytest.raises(UsageError) as caught:
        apply(FC, wrong)
    said = str(caught.value)
    for part in (
        "unknown override 'optim.lrr', did you mean 'lr'?; optim has: lr, beta1, beta2, epsilon",
        "model.latent='-3': should be greater than 0",
        "optim.lr='abc': should be a valid number",
        "override 'foo' should be written key=value",
        "override 'model' names a group",
        "data.name='mnst'",
        "unknown override 'reported.cost'",
    ):
        assert part in said


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "", "1e999", "[1]", "null", "yes please", "1_0x"])
def test_a_learning_rate_is_a_positive_finite_number(value: str) -> None:
    with pytest.raises(UsageError, match=r"optim\.lr"):
        apply(FC, [f"optim.lr={value}"])


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_as_an_override_is_taken_or_refused_in_words(key: str, value: str) -> None:
    try:
        assert isinstance(apply(FC, [f"{key}={value}"]), Experiment)
    except UsageError as fault:
        assert str(fault)


@given(
    st.sampled_from(sorted(FC.flat())), st.one_of(st.text(max_size=20), st.integers().map(str), st.floats().map(str))
)
def test_any_value_for_a_real_key_is_taken_or_refused_in_words(key: str, value: str) -> None:
    try:
        changed = apply(FC, [f"{key}={value}"])
        assert from_dict(changed.to_dict()) == changed
    except UsageError as fault:
        assert key.split(".", maxsplit=1)[0] in str(fault)


@given(st.floats(1e-9, 999), st.integers(1, 1000))
def test_what_is_set_is_what_is_got(lr: float, latent: int) -> None:
    changed = apply(FC, [f"optim.lr={lr!r}", f"model.latent={latent}"])
    assert (changed.optim.lr, changed.model.latent) == (lr, latent)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"unknown experiment 'mnist_cf', did you mean 'mnist_fc'\?; there are: cifar_conv"
    ):
        registry.get("mnist_cf")


def test_a_copied_experiment_that_kept_its_name_is_called_after_its_place_too(tmp_path: Path) -> None:
    original = registry.get("mnist_fc").file
    assert registry.load(original).name == "mnist_fc", "the project's own file by its path"
    (tmp_path / "my wide").mkdir()
    for copy, name in {"my wide/mnist_fc.py": "mnist_fc.my-wide", "narrow.py": "mnist_fc.narrow"}.items():
        shutil.copy(original, tmp_path / copy)
        entry = registry.load(tmp_path / copy)
        assert (entry.name, entry.spec) == (name, registry.get("mnist_fc").spec)


def test_a_users_file_is_loaded_by_its_path_and_stays_out_of_the_registry(small_file: Path) -> None:
    entry = registry.get(str(small_file))
    assert entry.name == "small"
    assert entry.spec.model.latent == 3
    assert "small" not in registry.names()


def own_file(change: str = "", name: str = "own", after: str = "") -> str:
    """Return the text of a user's file whose experiment is that of mnist_fc with a change."""
    return f"""
from dataclasses import replace
from repro.registry import register
from repro.spec import *
from repro.experiments.mnist_fc import mnist_fc
base = mnist_fc()
def own(): return replace(base, reported=() {change})
own.__name__ = {name!r}
register(own)
{after}
"""


FILES = {
    "x = 1": "registers 0",
    "x = = 1": "in line 1: SyntaxError",
    "x = 1\ny = 1 / 0": "in line 2: ZeroDivisionError",
    "from repro.spec import Adam\nAdam(lr=-1)": "lr",
    "raise SystemExit(5)": "SystemExit",
    "raise BaseException('no')": "in line 1: BaseException",
    "def f(): f()\nf()": "RecursionError",
    "from repro.registry import register\n@register\ndef f(seed): ...": "@register f: should be a function without arg",
    "from repro.registry import register\n@register\ndef f(): ...": r"f\(\) returns None, and should return an Experim",
    "from repro.registry import register\n@register\ndef f(): return 'text'": r"f\(\) returns 'text', and",
    "from repro.registry import register\n@register\nclass F: ...": r"F\(\) returns <.*F object",
    "from repro.registry import register\nregister(3)": "should be a function named by 1 to 100 letters",
    **{
        own_file(name=name): re.escape(f"@register {name[:9]!r}"[:-1])
        for name in ("", "../x", "/tmp/x", "x" * 300, "a\nb", "100%", "a'b", "<b>", "é", "mnist fc")
    },
    own_file(", sweep=[1]"): r"sweep: \[1\] should be a dictionary",
    own_file(", sweep={'optim.lr': 3}"): "sweep: optim.lr=3: should be a LogUniform, a Uniform, Integers or a Choice",
    own_file(", sweep={'optim.lrr': Choice(1, 2)}"): "unknown override 'optim.lrr', did you mean 'lr'",
    own_file(", sweep={'optim.lr': LogUniform(1, 0)}"): "should ascend",
    own_file(", sweep={'optim.lr': LogUniform('a', 'b')}"): "should have numbers as ends",
    own_file(", sweep={'optim.lr': Integers(1.5, 3)}"): "should have whole numbers as ends",
    own_file(", sweep={'model.latent': Uniform(1, 9)}"): "model.latent=.*valid integer",
    **{
        own_file(after=f"Reported(cost=1.0, epoch=1, source='', curve={curve!r})"): "curve=.*: should be a file beside"
        for curve in ("../x.csv", "/etc/passwd", "a/../../x.csv", "..\\x.csv")
    },
}


@pytest.mark.parametrize("text", FILES)
def test_a_users_file_that_cannot_be_used_says_why_and_where(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=FILES[text]):
        registry.get(str(path))


def test_a_users_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        registry.get(str(tmp_path / "none.py"))
    with pytest.raises(UsageError, match="not a file"):
        registry.get(f"{tmp_path}/")
