"""Bundles: what is exported comes out the same elsewhere, and a damaged or hostile file is refused in one sentence."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SMALL
from support.process import client, in_a_process, repro
from support.run_here import in_epoch, interrupt, run_all_here

from repro import names
from repro.errors import UsageError
from repro.runs import bundle, run_dir, seeds
from repro.tracking import layout, reader, transfer

STAND_IN = ["--data", "stand-in", "--threads", "1"]
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, one of them evaluated, and with `all.zip`, the bundle of both."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.py").write_text(SMALL, encoding="utf-8")
    for seed in "12":
        assert repro("run", "small.py", "--seed", seed, *STAND_IN, cwd=folder).returncode == 0
    evaluated = next((folder / "mlruns/runs").iterdir()).name
    options = ["--samples", "10", "--images", "10", "--draws", "2", "--threads", "1"]
    assert repro("evaluate", evaluated, *options, cwd=folder).returncode == 0
    process = repro("export", "small.py", "--out", "all.zip", "--json", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert len(json.loads(process.stdout)["runs"]) == 2
    return folder


@pytest.fixture
def elsewhere(made: Path, tmp_path: Path) -> Path:
    """An empty folder with the same experiment and a copy of the bundle."""
    for name in ("small.py", "all.zip"):
        shutil.copy(made / name, tmp_path)
    return tmp_path


def test_what_is_imported_is_what_was_exported(made: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repro("import", "all.zip", cwd=elsewhere).stdout == "all.zip: 2 runs taken in, 0 were here already\n"
    said = [repro("compare", "small.py", "--json", cwd=folder).stdout for folder in (made, elsewhere)]
    assert said[0] == said[1]
    assert {row["n"] for row in json.loads(said[0])} == {0}, "a stand-in decides nothing"
    records = []
    for folder in (made, elsewhere):
        monkeypatch.chdir(folder)
        reader.forget_ids()
        runs = sorted(run.run_id for run in reader.runs("small"))
        records.append([(transfer.read(run_id), dict(transfer.files_of(run_id))) for run_id in runs])
    for (mine, files), (theirs, same_files) in zip(*records, strict=True):
        assert mine[0] == theirs[0]
        assert mine[1].equals(theirs[1])
        assert files == same_files
    again = repro("import", "all.zip", "--json", cwd=elsewhere)
    assert (again.returncode, json.loads(again.stdout)["all.zip"]["new"]) == (0, [])
    parts = {path.split("/")[0] for path in zipfile.ZipFile("all.zip").namelist()}
    assert parts <= {"manifest.json", "runs", "source"}
    both = repro("run", "small.py", "--seeds", "1-2", *STAND_IN, cwd=elsewhere)
    assert (both.returncode, both.stdout.count("finished before")) == (0, 2), "what was imported is not trained again"


def test_an_imported_run_that_had_ended_is_not_trained_again(made: Path, elsewhere: Path) -> None:
    assert repro("import", "all.zip", cwd=elsewhere).returncode == 0
    run_id = next(iter(bundle.Bundle(elsewhere / "all.zip").runs))
    done = repro("resume", run_id[:8], "--json", cwd=elsewhere)
    assert (done.returncode, "is finished already" in done.stderr) == (0, True), done.stderr
    there, here = json.loads((made / f"mlruns/runs/{run_id}/summary.json").read_text()), json.loads(done.stdout)
    assert (here["cost"], here["status"], here["epochs"]) == (there["cost"], "FINISHED", 3)
    (stored,) = client(elsewhere).search_runs(["1"], f"tags.`{names.RUN_ID}` = '{run_id}'")
    assert len(client(elsewhere).get_metric_history(stored.info.run_id, names.SHOWN_METRICS[names.COST])) == 3
    client(elsewhere).set_terminated(stored.info.run_id, "FAILED")
    refused = repro("resume", run_id[:8], cwd=elsewhere)
    assert (refused.returncode, "was imported without a checkpoint" in refused.stderr) == (2, True), refused.stderr


def test_a_run_of_a_bundle_is_trained_again_and_compared(made: Path, elsewhere: Path) -> None:
    """The file of the experiment is neither needed nor executed, and the bundle does not say where it was."""
    (elsewhere / "small.py").write_text("raise SystemExit('executed')")
    with zipfile.ZipFile(elsewhere / "all.zip") as archive:
        configurations = [archive.read(name) for name in archive.namelist() if name.endswith("config.json")]
    assert [json.loads(each)["experiment"] for each in configurations] == ["small.py"] * 2
    assert not any(str(made).encode() in each for each in configurations)
    run_id = next(iter(bundle.Bundle(elsewhere / "all.zip").runs))
    process = repro("verify", "all.zip", "--run", run_id[:8], "--epochs", "2", "--json", cwd=elsewhere)
    found = json.loads(process.stdout)
    assert (process.returncode, found["agreement"], found["epochs"], found["recorded"]) == (0, "bit-identical", 2, 3)
    assert repro("verify", "all.zip", "--run", "xyz", cwd=elsewhere).returncode == 2


@pytest.mark.slow
def test_an_unfinished_run_goes_on_where_it_was_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end is that of the run that was left alone."""
    alone, cut, there = folders = [tmp_path / name for name in ("alone", "cut", "there")]
    for folder in folders:
        folder.mkdir()
        (folder / "small.py").write_text(SMALL, encoding="utf-8")
    run = ["run", "small.py", "--seed", "3", *STAND_IN]
    assert in_a_process(*run, cwd=alone).returncode == 0
    in_epoch(monkeypatch, 2, interrupt)
    assert repro(*run, cwd=cut).returncode == 130
    (run_id,) = [path.name for path in (cut / "mlruns/runs").iterdir()]
    process = in_a_process("export", "small.py", "--unfinished", "--out", "cut.zip", cwd=cut)
    assert process.returncode == 0, process.stderr
    assert in_a_process("import", str(cut / "cut.zip"), cwd=there).returncode == 0
    done = in_a_process("resume", run_id, cwd=there)
    assert done.returncode == 0, done.stderr
    assert "of them done before" in done.stdout
    end, expected = (client(folder).search_runs(["1"])[0] for folder in (there, alone))
    assert end.info.status == "FINISHED"
    assert end.data.tags[names.WEIGHTS_SHA256] == expected.data.tags[names.WEIGHTS_SHA256]
    points = layout.points(client(there), end.info.run_id, names.COST)
    assert [point.step for point in points] == [1, 2, 3]


def run_seed(folder: Path) -> int:
    return int(json.loads((folder / "run.json").read_text())["seed"])


def rewritten(file: Path, change: Callable[[Files], None], honest: bool = True) -> None:
    """Change the files of a bundle; `honest` is whether the manifest is changed with them."""
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    if honest and "manifest.json" in files:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {n: hashlib.sha256(c).hexdigest() for n, c in files.items() if n != "manifest.json"}
        files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def first(files: Files, end: str) -> str:
    return next(name for name in sorted(files) if name.startswith("runs/") and name.endswith(end))


def edit(end: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        name = first(files, end)
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    return change


def add(name: str) -> Callable[[Files], None]:
    return lambda files: files.update({name: b"x"})


HOSTILE = {
    "escapes": (add("../evil.json"), True, "'../evil.json' is no name of a file of a bundle"),
    "absolute": (add("/etc/evil.json"), True, "'/etc/evil.json' is no name"),
    "escapes by source": (add("source/0123456/../../evil.py"), True, "is no name of a file of a bundle"),
    "program": (add("runs/evil.py"), True, "'runs/evil.py' is no name"),
    "not listed": (add("source/0123456/setup.py"), False, "is in the manifest or in the file, and not in both"),
    "no manifest": (lambda files: files.pop("manifest.json"), False, "it has no manifest.json"),
    "edited": (edit("values.csv", b"cost,1,", b"cost,1,9"), False, "its SHA-256 is another"),
    "nan": (edit("values.csv", b"cost,1,", b"cost,1,nan,0\ncost,9,"), True, "no finite number"),
    "no number": (edit("values.csv", b"cost,1,", b"cost,1,x"), True, "is refused"),
    "twice": (edit("values.csv", b"cost,1,", b"cost,1,5.0,0\ncost,1,"), True, "two values of a metric at one step"),
    "html": (
        edit("run.json", b'"experiment": "small"', b'"experiment": "<b>x</b>"'),
        True,
        "experiment: string should",
    ),
    "html in a metric": (edit("values.csv", b"cost,1,", b"<b>,1,"), True, "without a proper name"),
    "other run": (edit("run.json", b'"run_id": "', b'"run_id": "' + b"0" * 32 + b'", "x": "'), True, "is refused"),
    "other weights": (edit("weights.safetensors", b"", b"x"), True, "weights.safetensors of run"),
    "other spec": (edit("spec.json", b"0.001", b"0.002"), True, "spec of run"),
    "other configuration": (edit("config.json", b"0.001", b"0.002"), True, "configuration of run"),
    "other seed": (edit("config.json", b'"seed": ', b'"seed": 9'), True, "configuration of run"),
    "no configuration": (edit("config.json", b"{", b"{{"), True, "config.json is damaged"),
    "experiment is a file": (
        edit("run.json", b'"experiment": "small"', b'"experiment": "small.py"'),
        True,
        "experiment 'small.py' is a file, which is not executed",
    ),
    "no such status": (edit("run.json", b'"FINISHED"', b'"DONE"'), True, "status: input should be"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_sentence_and_nothing_is_written(elsewhere: Path, fault: str) -> None:
    change, honest, said = HOSTILE[fault]
    rewritten(elsewhere / "all.zip", change, honest)
    process = repro("import", "all.zip", cwd=elsewhere)
    assert process.returncode == 2, process.stderr
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert not list(elsewhere.glob("**/evil*"))
    assert not (elsewhere / "mlruns/runs").exists()


def test_a_truncated_file_a_bomb_and_another_record_are_refused(elsewhere: Path) -> None:
    file = elsewhere / "all.zip"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="is no bundle, or a damaged one"):
        bundle.Bundle(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (bundle.LARGEST_MANIFEST + 1))
    with pytest.raises(UsageError, match="are read"):
        bundle.Bundle(file)
    file.write_bytes(whole)
    assert repro("import", "all.zip", cwd=elsewhere).returncode == 0
    rewritten(file, edit("values.csv", b"cost,1,", b"cost,1,1"))
    process = repro("import", "all.zip", cwd=elsewhere)
    assert process.returncode == 2
    assert "is in this store with another record: cost at step 1: here " in process.stderr


def test_an_export_overwrites_nothing(made: Path) -> None:
    before = (made / "all.zip").read_bytes()
    process = repro("export", "small.py", "--out", "all.zip", cwd=made)
    assert (process.returncode, "exists already" in process.stderr) == (2, True)
    assert (made / "all.zip").read_bytes() == before
    assert repro("export", "mnist_fc", "--out", "none.zip", cwd=made).returncode == 1
    assert not (made / "none.zip").exists()


def test_a_run_that_was_deleted_in_the_store_does_not_count(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_all", run_all_here)
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    (run_id,) = [path.name for path in (folder / "mlruns/runs").iterdir() if run_seed(path) == 1]
    client(folder).delete_run(run_id)
    process = repro("run", "small.py", "--seeds", "1-2", *STAND_IN, cwd=folder)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("finished before") == 1
    assert len(list((folder / "mlruns/runs").iterdir())) == 3
    assert run_dir.path(run_id).name == run_id
