"""A run's directory on this disk: its configuration, checkpoints, outbox, result, and a lock while it runs.

Also which of the earlier runs a command goes on with.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from repro.data import Dataset
from repro.errors import ReproError, UsageError
from repro.runs import ids
from repro.runs.config import RunConfig, pick_device, require_same_data
from repro.runs.result import RunResult
from repro.spec import Experiment, overrides


class BusyError(ReproError):
    """Another process works on the run."""


def path(run_id: str) -> Path:
    return ids.root() / run_id


def exists(run_id: str) -> bool:
    return (path(run_id) / "run.json").exists()


def checkpoints(run_id: str) -> Path:
    return path(run_id) / "checkpoints"


def epochs(run_id: str) -> int:
    """Return how many epochs are in the newest checkpoint of a run; 0 if it has none."""
    found = sorted(checkpoints(run_id).glob("epoch-*.safetensors")) if run_id else []
    return int(found[-1].stem.removeprefix("epoch-")) if found else 0


def save_config(run_id: str, config: RunConfig) -> None:
    """Write `run.json`, whole or not at all; create the directory if need be."""
    path(run_id).mkdir(parents=True, exist_ok=True)
    partial = path(run_id) / "run.json.part"
    partial.write_text(json.dumps(config.to_json(), indent=2), encoding="utf-8")
    partial.replace(path(run_id) / "run.json")


def load_config(run_id: str) -> RunConfig:
    """Read `run.json`. Raises UsageError if it is damaged, or of a version of this program with other settings."""
    file = path(run_id) / "run.json"
    try:
        return RunConfig.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error!r}") from None
    except UsageError as error:
        raise UsageError(f"{file} cannot be read:", *(f"  {fault}" for fault in error.faults)) from None


def rename(old: str, new: str) -> None:
    """Give a run's directory the id that the tracking store has chosen for the run."""
    path(old).rename(path(new))


def save_result(run_id: str, result: RunResult) -> None:
    """Write `summary.json`."""
    (path(run_id) / "summary.json").write_text(json.dumps(result.to_json(), indent=2), encoding="utf-8")


def has_ended(run_id: str) -> bool:
    """Whether the run's last process has written the run's result, of any status."""
    return (path(run_id) / "summary.json").exists()


def forget_result(run_id: str) -> None:
    """Remove the result of an attempt that did not finish: another one begins."""
    (path(run_id) / "summary.json").unlink(missing_ok=True)


def load_result(run_id: str) -> RunResult | None:
    """Return the result of a finished run; None if the run has no result, or did not finish."""
    try:
        found = RunResult.from_json(json.loads((path(run_id) / "summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return found if found.status == "FINISHED" else None


@contextmanager
def locked(run_id: str) -> Iterator[None]:
    """Hold a run's directory while working on it. Raises BusyError if another process holds it."""
    path(run_id).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path(run_id) / "lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(f"run {run_id} is being worked on by another process") from None


def earlier_runs(experiment: str) -> Iterator[tuple[str, RunConfig]]:
    """Yield the runs of an experiment that have a directory here, newest first, without the trials of sweeps.

    Runs whose `run.json` cannot be read, such as one of an older version of the program, are left out.
    """
    for run_id in ids.here():
        try:
            config = load_config(run_id)
        except UsageError:
            continue
        if config.experiment == experiment and not config.trial:
            yield run_id, config


def newest(experiment: str, spec: Experiment, seed: int) -> str | None:
    """Return the newest run of an experiment and seed, or None. Raises UsageError if it is of another spec."""
    for run_id, config in earlier_runs(experiment):
        if config.seed == seed:
            _require_same_spec(run_id, config.spec, spec)
            return run_id
    return None


def same_runs(config: RunConfig) -> dict[int, str]:
    """Return by seed the run of the same experiment, spec and data: the newest finished one, otherwise the newest."""
    found: dict[int, str] = {}
    for run_id, earlier in earlier_runs(config.experiment):
        if earlier.fingerprint != config.fingerprint or earlier.spec.differences(config.spec):
            continue
        known = found.get(earlier.seed)
        if known is None or (load_result(known) is None and load_result(run_id) is not None):
            found[earlier.seed] = run_id
    return found


def recorded(run_id: str, data_dir: Path | None = None) -> tuple[RunConfig, Dataset]:
    """Return the configuration that a run recorded, and its data, from `data_dir` or from where the run had them.

    Raises UsageError if the spec or the data have changed since, DataError if the data are not here.
    """
    return with_data(run_id, load_config(run_id), data_dir)


def with_data(run_id: str, config: RunConfig, data_dir: Path | None) -> tuple[RunConfig, Dataset]:
    """Return a recorded configuration for this machine, and its data. Raises as `recorded` does."""
    _require_same_spec(run_id, config.spec, overrides.apply(config.entry.spec, config.assignments))
    config = replace(config, device=pick_device(config.device))
    if data_dir is not None:  # it is searched, also for a run on the stand-in
        config = replace(config, data="auto", data_dir=data_dir)
    dataset = config.load_data()
    require_same_data(run_id, config.fingerprint, dataset)
    return config, dataset


def _require_same_spec(run_id: str, before: Experiment, now: Experiment) -> None:
    # the published results and their plan decide nothing that a run computes
    before, now = (replace(spec, reported=(), variant_of=None) for spec in (before, now))
    changes = [f"  {key}: was {old}, is {new}" for key, (old, new) in before.differences(now).items()]
    if changes:
        raise UsageError(f"run {run_id} was of another spec, and cannot go on with this one:", *changes)
