"""Commands that begin at the same moment in one folder: all of them end well, and nothing is done twice."""

import sqlite3
from collections import Counter
from contextlib import closing

import pytest
from conftest import SMALL
from support import killing
from support.killing import ForkServer

from repro import names

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
OPTIONS = ["small.py", "--data", "stand-in", "--threads", "1", "--epochs", "2"]
SEARCH = ["sweep", "run", *OPTIONS, "--space", "optim.lr=log:1e-4:1e-2", "--trials", "6"]
TRAINED = f"""
    SELECT p.value, r.status, (SELECT count(*) FROM metrics m WHERE m.run_uuid = r.run_uuid AND m.key = 'train/cost')
    FROM runs r JOIN params p ON p.run_uuid = r.run_uuid AND p.key = ?
    WHERE NOT EXISTS (SELECT * FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = '{names.KIND}')
"""


@pytest.mark.parametrize(
    ("commands", "key", "runs"),
    [
        ([["run", *OPTIONS, "--seed", str(seed)] for seed in range(20)], names.SEED, 20),
        ([["run", *OPTIONS, "--seeds", "0-3", "--jobs", "1"]] * 2, names.SEED, 4),
        ([SEARCH] * 2, "optim.lr", 6),
    ],
    ids=["20 seeds", "two commands for the same seeds", "two searches of one study"],
)
def test_commands_that_begin_together_do_each_thing_once(
    commands: list[list[str]], key: str, runs: int, server: ForkServer
) -> None:
    killing.empty(server.folder)
    (server.folder / "small.py").write_text(SMALL, encoding="utf-8")
    ended = server.run_together(commands)
    printed = "\n".join(each.printed for each in ended)
    assert [each.code for each in ended] == [0] * len(commands), printed
    assert "locked" not in printed and "Traceback" not in printed, printed
    with closing(sqlite3.connect(server.folder / "mlruns" / "mlflow.db")) as store:
        trained = store.execute(TRAINED, (key,)).fetchall()
    assert len(trained) == runs
    assert set(Counter(value for value, *_ in trained).values()) == {1}
    assert {tuple(rest) for _, *rest in trained} <= {("FINISHED", 2), ("KILLED", 1)}, "a pruned trial is killed"
