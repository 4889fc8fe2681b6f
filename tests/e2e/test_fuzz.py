"""A spec, checkpoint, curve, journal or plan of any content is taken, or refused in words. Thousands of cases."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import registry
from repro.engine import Settings, choose
from repro.errors import ReproError, UsageError
from repro.images import read_curve
from repro.model import build, check, count_parameters
from repro.runs import ids, run_dir
from repro.spec import VAE, Conv, Dense, Experiment, MeanPool, Reshape, Shape, TConv, from_dict
from repro.tracking.outbox import Outbox
from repro.training import checkpoint
from repro.training.checkpoint import CheckpointError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SMALL = st.integers(1, 9)
LAYERS = st.lists(
    st.builds(Dense, st.sampled_from([1, 7, 784])) | st.builds(Conv, SMALL, SMALL) | st.builds(MeanPool, SMALL)
    | st.builds(TConv, SMALL, SMALL, SMALL) | st.builds(Reshape, SMALL, SMALL, SMALL),
    max_size=4,
)  # fmt: skip


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a nest of dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


SPECS = [registry.get(name).spec.to_dict() for name in registry.names()]


@settings(max_examples=1500)
@given(st.data(), st.sampled_from(SPECS), JSON)
def test_a_spec_with_anything_anywhere(data: st.DataObject, values: dict[str, Any], anything: Any) -> None:
    place = data.draw(st.sampled_from(places(values)))
    changed = json.loads(json.dumps(values))
    parent = changed
    for key in place[:-1]:
        parent = parent[key]
    if place:
        parent[place[-1]] = anything
    try:
        spec = from_dict(changed if place else anything)
        assert isinstance(spec, Experiment)
        assert len(spec.signature) == 12
    except UsageError as fault:
        assert str(fault)


@settings(max_examples=1500)
@given(LAYERS, LAYERS.filter(bool))
def test_an_architecture_fits_or_its_misfit_is_named(encoder: list[Any], decoder: list[Any]) -> None:
    architecture = VAE(encoder=tuple(encoder), latent=2, decoder=tuple(decoder))
    shape = Shape(1, 28, 28)
    try:
        check(architecture, shape)
    except UsageError as fault:
        assert "model.encoder." in str(fault) or "model.decoder." in str(fault)
        return
    small = registry.get("mnist_fc").spec.to_dict()
    small["model"] |= {"encoder": [vars(x) for x in encoder], "decoder": [vars(x) for x in decoder], "latent": 2}
    assert count_parameters(from_dict(json.loads(json.dumps(small, default=str)))) > 0


@pytest.fixture(scope="module")
def sound() -> bytes:
    spec = from_dict(SPECS[-1] | {"model": {"encoder": [], "latent": 1, "decoder": [{"kind": "dense", "units": 784}]}})
    model = build(spec, 0)
    with scratch() as directory:
        state = checkpoint.snapshot(model, choose(spec, model, Settings()).state(), spec, 0, [{"cost": 1.0}])
        return checkpoint.save_state(state, directory).read_bytes()


@settings(max_examples=1500)
@given(st.data())
def test_a_checkpoint_with_any_damage_is_refused(sound: bytes, data: st.DataObject) -> None:
    header = 8 + int.from_bytes(sound[:8], "little")
    at = data.draw(st.integers(0, header) | st.integers(0, len(sound) - 1))
    bytes_ = bytearray(sound)
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "replace"]))
    if kind == "flip":
        bytes_[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del bytes_[at:]
    elif kind == "insert":
        bytes_[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        bytes_ = bytearray(data.draw(st.binary(max_size=200)))
    with scratch() as directory:
        path = directory / "epoch-000001.safetensors"
        path.write_bytes(bytes_)
        try:
            state = checkpoint.load_state(path)
        except CheckpointError as error:
            assert path.name in str(error)
        else:  # damage to what carries no meaning, such as a blank in the header
            path.write_bytes(sound)
            expected = checkpoint.load_state(path)
            assert (state.epoch, state.seed, state.spec, state.history) == (
                expected.epoch,
                expected.seed,
                expected.spec,
                expected.history,
            )
            assert all(torch.equal(state.tensors[name], expected.tensors[name]) for name in expected.tensors)


CURVE = "epoch,cost,reading_error\n1,196.9,4.2\n2,169.6,3.2\n"


@settings(max_examples=1000)
@given(st.integers(0, len(CURVE)), st.integers(0, 5), st.text(max_size=12) | st.floats().map(str))
def test_a_curve_with_anything_in_it(at: int, cut: int, text: str) -> None:
    with scratch() as directory:
        path = directory / "curve.csv"
        path.write_bytes((CURVE[:at] + text + CURVE[at + cut :]).encode("utf-8", "surrogatepass"))
        try:
            curve = read_curve(path)
            assert len(curve.epoch) == len(curve.cost) == len(curve.reading_error) > 0
        except ReproError as error:
            assert "curve.csv" in str(error)


@settings(max_examples=500)
@given(st.binary(max_size=60))
def test_a_journal_keeps_its_whole_records_before_anything_torn(torn: bytes) -> None:
    with scratch() as directory:
        outbox = Outbox(directory)
        outbox.append({"kind": "tags", "tags": {"a": "b"}})
        with (directory / "journal.jsonl").open("ab") as file:
            file.write(torn)
        again = Outbox(directory)
        assert again.records[0] == {"kind": "tags", "tags": {"a": "b"}}
        again.append({"kind": "status", "status": "FINISHED"})
        assert Outbox(directory).records[-1] == {"kind": "status", "status": "FINISHED"}


@settings(max_examples=500)
@given(JSON | st.dictionaries(st.sampled_from(["run_id", "spec", "assignments", "seed"]), JSON))
def test_a_plan_with_anything_in_it(anything: Any) -> None:
    with scratch() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ids, "root", lambda: directory)
        (directory / "r").mkdir()
        (directory / "r" / "run.json").write_text(json.dumps(anything), encoding="utf-8")
        with pytest.raises(UsageError, match=r"run\.json cannot be read"):
            run_dir.load_config("r")
