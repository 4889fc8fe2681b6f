"""The parent run of several seeds, over runs that were not trained."""

from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag

from repro import names
from repro.spec import Experiment
from repro.tracking import layout
from repro.tracking.parents import SeedsParent
from repro.tracking.store import experiment_id, open_client


def parent_of(seeds: list[int], spec: Experiment, told: list[str]) -> SeedsParent:
    return SeedsParent("small", spec, "f", "canonical", (), frozenset(seeds), told.append)


def history(store: MlflowClient, run: Run, metric: str) -> dict[int, float]:
    return {point.step: point.value for point in layout.points(store, run.info.run_id, metric)}


def recorded(store: MlflowClient, spec: Experiment, seed: int, status: str = "FINISHED") -> str:
    """A made-up run of two epochs whose costs are its seed and twice its seed."""
    tags = {names.SIGNATURE: spec.signature, names.DATA_FINGERPRINT: "f"}
    run_id = str(store.create_run(experiment_id(store, "small"), tags=tags).info.run_id)
    store.log_param(run_id, names.SEED, seed)
    for name in names.OVER_SEEDS:
        for epoch in (1, 2):
            store.log_metric(run_id, name, float(seed * epoch), step=epoch)
    store.set_terminated(run_id, status)
    return run_id


def test_a_parent_follows_its_children(small: Experiment) -> None:
    store = open_client()
    told: list[str] = []

    def after(seeds: list[int], ids: list[str], status: Any = "FINISHED") -> Run:
        parent = parent_of(seeds, small, told)
        parent.open(ids)
        assert store.get_run(str(parent.run_id)).info.status == "RUNNING"
        parent.close(status, ids)
        return store.get_run(str(parent.run_id))

    one, three = recorded(store, small, 1), recorded(store, small, 3)
    killed = recorded(store, small, 4, "KILLED")
    first = after([1, 4], [one, killed], "KILLED")
    assert (first.info.status, first.info.run_name) == ("KILLED", "seeds 1,4")
    assert first.data.tags[names.COMPARABLE] == "false"
    assert history(store, first, "cost_high") == {1: 1.0, 2: 2.0}, "the killed run is left out"
    second = after([3], [three])
    assert (second.info.run_name, second.data.tags[names.SEEDS]) == ("seeds 1,3", "1,3")
    assert second.data.tags[names.COMPARABLE] == "true"
    assert history(store, second, "cost_mean") == {1: 2.0, 2: 4.0}
    assert store.get_run(first.info.run_id).info.lifecycle_stage == "deleted"
    assert {store.get_run(run_id).data.tags[names.PARENT] for run_id in (one, three)} == {second.info.run_id}
    assert after([1], [one]).info.run_id == second.info.run_id, "nothing new, the same parent"
    other = after([1], ["a run that this store has not"], "FAILED")
    assert other.info.run_id == second.info.run_id
    assert not told


@pytest.mark.parametrize("logged", [None, "shown", "all"])
def test_a_parent_whose_process_was_killed_while_it_made_it_gets_its_settings(
    logged: str | None, small: Experiment
) -> None:
    store, ids = open_client(), [recorded(open_client(), small, 1)]
    made = parent_of([1], small, [])._create()
    if logged:
        params, details = layout.pack(layout.settings(small), {})
        tags = [RunTag(key, value) for key, value in details.items()]
        store.log_batch(made.info.run_id, params=[Param(*each) for each in params.items()])
        store.log_batch(made.info.run_id, tags=tags if logged == "all" else [])
    parent = parent_of([1], small, [])
    parent.open(ids)
    parent.close("FINISHED", ids)
    assert parent.run_id == made.info.run_id
    assert layout.unpack(store.get_run(made.info.run_id).data)[0] == layout.settings(small)


def test_a_store_that_refuses_the_parent_is_told_of_once(monkeypatch: pytest.MonkeyPatch, small: Experiment) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    told: list[str] = []
    parent = parent_of([0], small, told)
    parent.open([])
    parent.add("r")
    parent.close("FINISHED", ["r"])
    assert parent.run_id is None
    assert len(told) == 1
    assert "training goes on" in told[0]
