"""What MLflow shows of a run, and what a run is read back as."""

from mlflow.entities import Metric, Param, RunData, RunTag

from repro import names
from repro.spec import Dense, Experiment
from repro.spec.overrides import apply
from repro.tracking import layout, reader
from repro.tracking.store import experiment_id, open_client


def in_mlflow(params: dict[str, str], tags: dict[str, str]) -> RunData:
    shown = [Param(key, value) for key, value in params.items()]
    return RunData(params=shown, tags=[RunTag(key, value) for key, value in tags.items()])


def test_a_run_is_read_as_it_was_logged_and_shows_a_dozen_params(small: Experiment) -> None:
    computed = {"seed": "0", "device": "cpu", "threads": "1", "precision": "float32", "engine": "fast", "products": "-"}
    params = computed | layout.settings(small)
    tags = {"repro.cpu": "é", "repro.version.torch": "2", names.SIGNATURE: "s", names.SET: "optim.beta1 data.holdout"}
    shown, packed = layout.pack(params, tags)
    assert shown.keys() == {*names.SHOWN_PARAMS, "optim.beta1", "data.holdout"}
    assert shown[names.ARCHITECTURE] == "dense 16 → 3 → dense 16, dense 784; softplus"
    assert packed.keys() == {names.SIGNATURE, names.DETAILS}
    assert layout.unpack(in_mlflow(shown, packed)) == (params, tags)


def test_settings_that_are_longer_than_a_tag_are_read_too(small: Experiment) -> None:
    layers = [{"kind": "dense", "units": 1000 + number} for number in range(100)]
    deep = apply(small, [f"model.encoder={layers}".replace("'", '"')])
    assert deep.model.encoder[-1] == Dense(1099)
    params = layout.settings(deep) | {"reported": "x" * 60_000}
    shown, packed = layout.pack(params, {})
    assert len(packed) > 10
    assert max(map(len, packed.values())) <= names.LONGEST_TAG
    assert layout.unpack(in_mlflow(shown, packed)) == (params, {})


def test_a_run_of_an_earlier_version_is_read_as_it_is() -> None:
    params, tags = {"seed": "0", "optim.beta1": "0.9"}, {"repro.cpu": "x"}
    assert layout.unpack(in_mlflow(params, tags)) == (params, tags)


def test_every_metric_of_the_glossary_is_in_one_of_six_groups() -> None:
    every = {*names.METRICS, *names.PARENT_METRICS, *names.MEASUREMENT_METRICS, names.BEST_HELDOUT}
    assert names.SHOWN_METRICS.keys() == every
    assert len(set(names.SHOWN_METRICS.values())) == len(every)
    groups = {name.partition("/")[0] for name in names.SHOWN_METRICS.values()}
    assert groups == {"train", "heldout", "test", "seeds", "evaluation", "time"}


def test_a_run_begun_by_an_earlier_version_has_one_curve() -> None:
    store = open_client()
    run_id = store.create_run(experiment_id(store, "small")).info.run_id
    store.log_batch(run_id, metrics=[Metric(names.COST, 9.0, 1, 1), Metric(names.COST, 8.0, 2, 2)])
    store.log_batch(run_id, metrics=[layout.metric(names.COST, 7.0, 3, 3)])
    assert store.get_run(run_id).data.metrics == {"cost": 8.0, "train/cost": 7.0}
    assert reader.history(run_id, names.COST) == {1: 9.0, 2: 8.0, 3: 7.0}
    assert reader.run(run_id).metrics == {names.COST: 7.0}
