"""Runs that were started before: which of them a command goes on with, and from which recorded configuration."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from repro.data import Dataset
from repro.errors import UsageError
from repro.runs import run_dir
from repro.runs.config import RunConfig, pick_device, require_same_data
from repro.spec import Experiment, overrides


def earlier_runs(experiment: str) -> Iterator[tuple[str, RunConfig]]:
    """Yield the runs of an experiment that have a directory here, newest first, without the trials of sweeps.

    Runs whose `run.json` cannot be read, such as one of an older version of the program, are left out.
    """
    for run_id in run_dir.run_ids():
        try:
            config = run_dir.load_config(run_id)
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
        if known is None or (run_dir.load_result(known) is None and run_dir.load_result(run_id) is not None):
            found[earlier.seed] = run_id
    return found


def recorded(run_id: str, data_dir: Path | None = None) -> tuple[RunConfig, Dataset]:
    """Return the configuration that a run recorded, and its data, from `data_dir` or from where the run had them.

    Raises UsageError if the spec or the data have changed since, DataError if the data are not here.
    """
    config = run_dir.load_config(run_id)
    _require_same_spec(run_id, config.spec, overrides.apply(config.entry.spec, config.assignments))
    config = replace(config, device=pick_device(config.device), data_dir=data_dir or config.data_dir)
    dataset = config.load_data()
    require_same_data(run_id, config.fingerprint, dataset)
    return config, dataset


def _require_same_spec(run_id: str, before: Experiment, now: Experiment) -> None:
    changes = [f"  {key}: was {old}, is {new}" for key, (old, new) in before.differences(now).items()]
    if changes:
        raise UsageError(f"run {run_id} was of another spec, and cannot go on with this one:", *changes)
