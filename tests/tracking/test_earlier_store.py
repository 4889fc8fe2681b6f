"""A tracking store that an earlier version of the program has written: two seeds, their parent, a measurement."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from repro import cli, names
from repro.measurement import Measurement, Row
from repro.runs import load
from repro.spec import Dense
from repro.tracking import artifacts, reader
from repro.tracking.notes import Note, annotate

EARLIER = Path(__file__).parent / "store_of_an_earlier_version"
RUN_ID, OTHER, PARENT = (
    "21f0a07ec24c447cb993092a93914979", "1775759b5400410f942d1ae7be010d8e", "4f10ba7292c745649658802813ea84d7",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _store(tmp_path: Path) -> None:
    """Put the store and the file of its experiment where this version looks for them."""
    shutil.copytree(EARLIER, tmp_path / "mlruns")
    shutil.move(tmp_path / "mlruns" / "tiny.py", tmp_path / "tiny.py")


def test_the_reader_finds_the_runs_their_parent_and_their_curves() -> None:
    run, other = (reader.run(run_id) for run_id in (RUN_ID, OTHER))
    assert sorted(reader.runs("tiny"), key=lambda each: each.params[names.SEED]) == [run, other]
    assert (run.status, run.comparable, run.params["optim.lr"]) == ("FINISHED", False, "0.01")
    assert run.tags[names.PARENT] == other.tags[names.PARENT] == PARENT
    (parent,) = reader.parents("tiny")
    assert (parent.run_id, parent.tags[names.SEEDS]) == (PARENT, "0-1")
    assert set(parent.metrics) == set(names.PARENT_METRICS)
    assert reader.history(RUN_ID, names.COST) == {1: 477.5695090478756}
    assert reader.history(PARENT, "cost_low") == {1: 474.57293224533555}
    samples = reader.last_image(RUN_ID, "samples")
    assert samples is not None
    assert samples.size == (280, 280)


def test_a_measurement_is_read() -> None:
    record = reader.run(RUN_ID)
    assert artifacts.measurements_of(record) == ["evaluation"]
    rows = artifacts.read_measurement(RUN_ID, "evaluation")
    assert rows is not None
    assert len(rows) == 21
    of_test = "nats per image"
    assert rows[0] == Row("test_neg_elbo_many", 399.82608681518167, of_test, standard_error=0.15178871123052262)
    assert rows[-3] == Row("kl_of_dimension", 1.022840912653936, of_test, x=1.0)
    assert record.metrics["test_neg_elbo_many"] == rows[0].value


def test_the_trained_model_is_loaded_and_has_the_recorded_cost() -> None:
    run = load.load(RUN_ID, None, 1)
    assert (run.seed, run.spec.model.encoder, run.settings.precision) == (0, (Dense(4),), "float32")
    trainer = run.trainer()
    trainer.model.load_state_dict(run.model.state_dict())
    assert trainer.test().cost == pytest.approx(run.record.metrics[names.TEST_NEG_ELBO], rel=1e-6)


def test_compare_judges_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "tiny.py", "--json"]) == 0
    (verdict,) = json.loads(capsys.readouterr().out)
    assert (verdict["experiment"], verdict["epoch"], verdict["reported"]) == ("tiny", 1, 100.0)
    assert (verdict["verdict"], verdict["n"]) == ("not comparable", 0)
    assert verdict["reason"] == "it was trained on a stand-in, not on the real data"
    assert cli.main(["compare", "tiny.py"]) == 0
    assert "477.57" in capsys.readouterr().out


def test_a_measurement_is_logged_in_place_of_another_and_read_back_exactly() -> None:
    rows = [
        Row("active_units", 7, "units"),
        Row("spectrum", 0.1 + 0.2, 'share, "of energy"', "data", 0.5, 1e-17),
        Row("spectrum", -1 / 3, "share of energy", "samples", 1),
    ]
    picture = {"sheet": np.zeros((2, 3, 1), dtype=np.uint8)}
    artifacts.log_measurement(reader.run(RUN_ID), "evaluation", Measurement(rows, picture), "command")
    record = reader.run(RUN_ID)
    assert artifacts.read_measurement(RUN_ID, "evaluation") == rows
    assert record.metrics["active_units"] == 7
    assert record.tags[names.MEASUREMENT + "evaluation"].endswith("command")
    assert artifacts.read_file(RUN_ID, f"{artifacts.FOLDER}/sheet.png").startswith(b"\x89PNG")
    assert artifacts.read_measurement(RUN_ID, "spectrum") is None
    artifacts.log_files(RUN_ID, {"note.txt": b"words"})
    assert "note.txt" in artifacts.list_files(RUN_ID)
    assert annotate({RUN_ID: Note("text", {names.VERDICT: "reproduced"}), OTHER: Note("text", {})}) == 2
    assert annotate({RUN_ID: Note("text", {names.VERDICT: "reproduced"})}) == 0


def test_a_damaged_measurement_is_named() -> None:
    file = Path(f"mlruns/artifacts/tiny/{RUN_ID}/artifacts/{artifacts.FOLDER}/evaluation.csv")
    for text in ("quantity,value\nx,y\n", "", file.read_text().replace("399.8", "x", 1)):
        file.write_text(text)
        with pytest.raises(artifacts.StoreError, match=r"measurement evaluation of run .* is missing or damaged"):
            artifacts.read_measurement(RUN_ID, "evaluation")
