"""Disks that are full or read-only for a while or for ever, and folders that move: a clear outcome, nothing lost."""

import errno
import time
from pathlib import Path

import pytest
from conftest import SMALL
from support import killing
from support.finished_runs import STAND_IN, only_run
from support.killing import ForkServer, Left
from support.process import client, repro
from support.run_here import in_epoch, interrupt

from repro import names

RUN = ["run", "small.py", *STAND_IN, "--epochs", "2", "--resume"]
FOREVER = 10**9


@pytest.fixture(scope="module")
def undisturbed(server: ForkServer, empty_store: Path) -> tuple[Left, int]:
    """What a run leaves, and in how many changes of files it does so."""
    found = []
    for _ in range(2):
        killing.with_store(server.folder, SMALL, empty_store)
        ended = server.run(*RUN)
        assert ended.code == 0, ended.printed
        found.append(killing.left(server.folder))
    return killing.agreed(*found), ended.instants


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("failing", [25, FOREVER], ids=["freed", "never freed"])
@pytest.mark.parametrize("part", [0.0, 0.12, 0.3, 0.6, 0.95], ids=["creation", "start", "epoch 1", "epoch 2", "end"])
def test_a_full_disk_loses_nothing(
    part: float, failing: int, server: ForkServer, undisturbed: tuple[Left, int], empty_store: Path
) -> None:
    expected, count = undisturbed
    killing.with_store(server.folder, SMALL, empty_store)
    ended = server.run(*RUN, kill_at=1 + int(part * count), failing=failing)
    lost = killing.differences(expected, killing.left(server.folder))
    if ended.code == 0:  # nothing lacks but a summary, which it tells; checkpoints may be left over
        lost = [each for each in lost if not each.startswith("more ")]
        assert not [each for each in lost if "summary.json" not in each], (lost, ended.printed)
        assert not lost or "the summary cannot be kept" in ended.printed
    else:
        assert ended.code == 1, ended.printed
    assert ended.code == 1 or failing != FOREVER or part == 0.95, "only the summary is written after all else"
    assert "Traceback" not in ended.printed and "unexpected" not in ended.printed, ended.printed
    again = server.run(*RUN)
    assert again.code == 0, again.printed
    found = killing.differences(expected, killing.left(server.folder))
    assert not found, (found, ended.printed)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run small.py --data stand-in --seed 1", "runs", "compare ./small.py"])
def test_a_read_only_folder_is_refused_by_its_name(command: str, server: ForkServer, empty_store: Path) -> None:
    killing.with_store(server.folder, SMALL, empty_store)
    before = killing.left(server.folder)
    ended = server.run(*command.split(), kill_at=1, failing=FOREVER, error=errno.EROFS)
    assert (ended.code, "Traceback" in ended.printed, "unexpected" in ended.printed) == (1, False, False), ended.printed
    assert "Read-only file system" in ended.printed and str(server.folder / "mlruns") in ended.printed
    assert killing.left(server.folder) == before


@pytest.mark.slow
def test_a_folder_with_an_odd_name_may_move_between_two_attempts(
    tmp_path: Path, server: ForkServer, undisturbed: tuple[Left, int], empty_store: Path
) -> None:
    """It is reached by a symbolic link, and there is no HOME and no TMPDIR."""
    expected, count = undisturbed
    real, link, plain = tmp_path / "Läufe 1? %20#'", tmp_path / "a link", server.folder
    killing.with_store(real, SMALL, empty_store)
    link.symlink_to(real, target_is_directory=True)
    try:
        server.folder = link
        without = ["HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "REPRO_CACHE_DIR"]
        killed = server.run(*RUN, kill_at=count // 2, without=without)
        assert killed.code < 0, killed.printed
        server.folder = real.rename(tmp_path / "später?")
        again = server.run(*RUN, without=without)
        assert again.code == 0, again.printed
        found = killing.differences(expected, killing.left(server.folder))
        assert not found, found
        run_id = only_run(server.folder)
        evaluated = server.run("evaluate", run_id, "--samples", "2", "--draws", "2", "--images", "20", without=without)
        assert evaluated.code == 0, evaluated.printed
    finally:
        server.folder = plain


def test_a_clock_that_is_set_back_by_an_hour_changes_nothing(
    tmp_path: Path, small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set back in the first epoch, and the run is interrupted after the second one."""
    now, shift = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: now() + shift)

    def set_back() -> None:
        nonlocal shift
        shift = -3600.0

    in_epoch(monkeypatch, 1, set_back)
    in_epoch(monkeypatch, 2, interrupt)
    command = ["run", str(small_file), *STAND_IN, "--resume"]
    assert repro(*command, cwd=tmp_path).returncode == 130
    again = repro(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    store = client(tmp_path)
    run = store.get_run(only_run(tmp_path))
    assert run.info.status == "FINISHED"
    history = store.get_metric_history(run.info.run_id, names.SHOWN_METRICS[names.COST])
    assert sorted(point.step for point in history) == [1, 2, 3]
    assert repro("verify", run.info.run_id, cwd=tmp_path).returncode == 0
    assert "finished before" in repro(*command[:-1], "--seeds", "0", cwd=tmp_path).stdout
