"""What the tests share: no network, no store or data outside a test's own directory, small experiments."""

import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from repro.spec import VAE, Adam, Data, Dense, Experiment, Training
from repro.tracking import store

settings.register_profile("repro", deadline=None)  # the first call imports; time is not what is tested
settings.load_profile("repro")

SMALL = """
from repro.registry import register
from repro.spec import *

@register
def small():
    return Experiment(
        data=Data("mnist", holdout=5000),
        model=VAE(encoder=(Dense(16),), latent=3, decoder=(Dense(16), Dense(784)), activation="softplus"),
        optim=Adam(lr=1e-3),
        training=Training(epochs=3, batch_size=100),
        reported=Reported(cost=100.0, epoch=3, source="nobody"),
    )
"""


def _forget_settings() -> None:
    for name in [key for key in os.environ if key.startswith(("REPRO_", "MLFLOW_TRACKING"))]:
        del os.environ[name]
    os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; a pipe has no width


@pytest.fixture(autouse=True, scope="session")
def _without_settings() -> None:
    """Without the user's settings, also where a module's fixture runs a command."""
    _forget_settings()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every test runs in a directory of its own, offline, and leaves no setting behind: MLflow makes some."""
    request.addfinalizer(_forget_settings)
    monkeypatch.setenv("REPRO_OFFLINE", "1")
    monkeypatch.setenv("REPRO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking store: MLflow takes seconds to make one."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    store._create(database)
    return database


@pytest.fixture(autouse=True)
def _quick_store(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the empty store where a test needs one in this process; a command in its own process makes its own."""
    monkeypatch.setattr(store, "_create", partial(shutil.copy, empty_store))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two processes share two cores; and what a test draws does not depend on the tests before it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Where the suite runs in the background, Ctrl-C is ignored there, and by every process that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small() -> Experiment:
    """A tiny fully connected experiment."""
    return Experiment(
        data=Data("mnist", holdout=5000),
        model=VAE(encoder=(Dense(16),), latent=3, decoder=(Dense(16), Dense(784)), activation="softplus"),
        optim=Adam(lr=1e-3),
        training=Training(epochs=2, batch_size=100),
    )


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """The same as a user's own file."""
    path = tmp_path / "small.py"
    path.write_text(SMALL, encoding="utf-8")
    return path
