"""Configurations and results as JSON, and a run directory that an earlier version of the program has written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repro import cli, names, registry
from repro.engine import Precision
from repro.errors import UsageError
from repro.runs import ids, run_dir
from repro.runs.config import RunConfig, pick_precision
from repro.runs.result import DataSource, ReportedCost, RunResult
from repro.spec import Experiment
from repro.spec.overrides import apply
from repro.tracking.outbox import Outbox
from repro.training import checkpoint
from repro.training.trainer import Trainer

EARLIER = Path(__file__).parent / "run_of_an_earlier_version"
RUN_ID = "a563ca29825748aaac877580d09012d4"


def config(spec: Experiment) -> RunConfig:
    return RunConfig(
        "small.py", spec, 7, ("optim.lr=0.1",), "stand-in", Path("/data"), "f", "cpu", 2, "mixed", "fast", "mkl", True
    )


def result() -> RunResult:
    return RunResult(
        run_id="r", status="KILLED", experiment="small", seed=7, epochs=2, cost=1.0, heldout_neg_elbo=2.0, seconds=3.0,
        data=DataSource("here", True, "f"), reasons=("it did not finish",), reported=(ReportedCost(2, 1.5, 1.0, -0.5),),
        error="interrupted", cause="interrupted", exit_code=130,
    )  # fmt: skip


def test_a_config_is_the_same_after_json(small: Experiment) -> None:
    assert RunConfig.from_json(json.loads(json.dumps(config(small).to_json()))) == config(small)
    plain = RunConfig("mnist_fc", small)
    assert RunConfig.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_what_sets_a_run_apart_is_said_in_a_few_words() -> None:
    def changes(*assignments: str, data: str = "canonical", precision: Precision = "float32") -> tuple[str, ...]:
        spec = apply(registry.get("mnist_fc").spec, list(assignments))
        return RunConfig("mnist_fc", spec, precision=precision).changes(data)

    assert changes() == ()
    assert changes("optim.lr=0.0003", "model.latent=10") == ("latent 10", "lr 3e-4")
    assert changes("optim.lr=0.05", "training.epochs=1", data="stand-in") == ("lr 0.05", "1 epoch", "stand-in")
    assert changes("training.batch_size=50", precision="mixed") == ("batch size 50", "mixed")
    layers = '[{"units": 1, "kind": "dense"}]'
    assert changes(f"model.encoder={layers}") == ("other encoder",)


def test_faults_of_a_config_are_named(small: Experiment) -> None:
    values = config(small).to_json() | {"threads": "many", "device": "tpu"}
    values["spec"]["optim"]["momentum"] = 1
    with pytest.raises(UsageError) as caught:
        RunConfig.from_json(values)
    for part in ("threads='many'", "device='tpu'", "spec.optim.momentum"):
        assert part in str(caught.value)


def test_a_result_is_the_same_after_json_but_for_what_only_its_process_needs() -> None:
    again = RunResult.from_json(json.loads(json.dumps(result().to_json())))
    assert again == replace(result(), cause="", exit_code=0)


@pytest.fixture
def earlier(tmp_path: Path) -> str:
    """Put the earlier version's run where this version looks for runs."""
    shutil.copytree(EARLIER, tmp_path / "mlruns" / "runs")
    return RUN_ID


def test_an_earlier_versions_run_is_read(earlier: str) -> None:
    found = run_dir.load_config(ids.find(earlier[:6]))
    assert (found.experiment, found.seed, found.spec.model.latent, found.data) == ("mnist_fc", 3, 2, "stand-in")
    assert (found.device, found.threads, found.precision, found.engine, found.products) == (
        "cpu", 1, "float32", "fast", "onednn",
    )  # fmt: skip
    finished = run_dir.load_result(earlier)
    assert finished is not None
    assert (finished.run_id, finished.cost, finished.comparable) == (earlier, 541.5794738171799, False)
    assert json.loads(json.dumps(finished.to_json())) == json.loads(
        (run_dir.path(earlier) / "summary.json").read_text()
    )
    assert run_dir.same_runs(found) == {3: earlier}
    assert run_dir.newest("mnist_fc", found.spec, 3) == earlier
    outbox = Outbox(run_dir.path(earlier))
    assert (len(outbox.records), outbox.pending()) == (15, [])
    assert outbox.has("status", status="FINISHED")


def test_a_run_goes_on_under_another_plan_but_not_as_another_computation(earlier: str) -> None:
    found = run_dir.load_config(earlier)
    run_dir.with_data(earlier, replace(found, spec=replace(found.spec, reported=())), None)
    with pytest.raises(UsageError, match=r"was of another spec.*\n  optim.lr: was 0.1, is "):
        run_dir.with_data(earlier, replace(found, spec=apply(found.spec, ["optim.lr=0.1"])), None)


def test_an_earlier_versions_checkpoint_gives_the_costs_that_it_recorded(earlier: str) -> None:
    found, dataset = run_dir.recorded(earlier)
    trainer = Trainer(found.spec, found.seed, dataset, found.settings)
    state, faults = checkpoint.newest(run_dir.checkpoints(earlier), found.spec.signature, found.seed)
    assert state is not None, faults
    trainer.restore(state)
    finished = run_dir.load_result(earlier)
    assert finished is not None
    assert trainer.test().cost == pytest.approx(finished.test_neg_elbo, rel=1e-6)
    assert trainer.history[-1][names.COST] == finished.cost


def test_an_earlier_versions_finished_run_needs_no_checkpoint(earlier: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_dir.checkpoints(earlier).exists()
    assert cli.main(["resume", earlier]) == 0
    assert "is finished already: training cost 541.5795" in capsys.readouterr().out
    assert not run_dir.checkpoints(earlier).exists()


def test_an_earlier_versions_run_goes_on(earlier: str, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir.path(earlier) / "summary.json").unlink()
    assert cli.main(["resume", earlier]) == 1, "the store of this directory has no such run"
    printed = capsys.readouterr().out
    assert "14 steps, 14 of them done before" in printed
    assert "FINISHED" in printed
    assert run_dir.load_result(earlier) is not None


def test_a_run_whose_record_cannot_be_read_is_named_but_stops_no_other(earlier: str) -> None:
    damaged = run_dir.path("0" * 32)
    damaged.mkdir()
    (damaged / "run.json").write_text('{"spec": {}}')
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        run_dir.load_config("0" * 32)
    assert [run_id for run_id, _ in run_dir.earlier_runs("mnist_fc")] == [earlier]


def test_mixed_precision_is_refused_where_nothing_would_be_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_precision("float32", "cpu") == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})
    assert pick_precision("mixed", "cpu") == "mixed"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    with pytest.raises(UsageError, match="has no products in bfloat16"):
        pick_precision("mixed", "cpu")
