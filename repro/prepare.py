"""From what was asked on the command line to a checked request: every fault is found before anything is started."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

from repro import folder, overrides, registry
from repro.errors import UsageError
from repro.folder import Plan
from repro.spec import Experiment, from_dict

if TYPE_CHECKING:
    import torch

    from repro.data import Choice, Dataset
    from repro.request import Request

MOST_SEEDS = 1000  # in one command


@contextmanager
def all_faults() -> Iterator[list[str]]:
    """Collects the faults of a command line; raises them all in one UsageError at the end."""
    faults: list[str] = []
    yield faults
    if faults:
        raise UsageError(*faults)


def whole(faults: list[str], option: str, text: str, low: int, high: int) -> int:
    """The number that an option was given; a fault is added if it is none, or out of range."""
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        faults.append(f"{option} {text}: should be a whole number from {low} to {high}")
    return number


def seeds(faults: list[str], text: str) -> tuple[int, ...]:
    """The seeds that `--seeds` was given, ascending: `0-4`, `0,2,5` or `0-2,7`. Every fault in it is added."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", part.strip())
        if match is None:
            faults.append(f"--seeds {text}: {part!r} should be a whole number, or a range such as 0-4")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**63:
            faults.append(f"--seeds {text}: {last} should be at most {2**63 - 1}")
        elif last < first:
            faults.append(f"--seeds {text}: {part} should ascend, as {last}-{first} does")
        elif len(found) + last - first >= MOST_SEEDS:
            faults.append(f"--seeds {text}: should name at most {MOST_SEEDS} seeds; take several commands")
            break
        else:
            found += range(first, last + 1)
    twice = sorted({seed for seed in found if found.count(seed) > 1})
    if twice:
        faults.append(f"--seeds {text}: should name each seed once; more than once: {', '.join(map(str, twice))}")
    return tuple(sorted(found))


def overridden(faults: list[str], spec: Experiment, assignments: list[str]) -> Experiment:
    """The spec after overrides, whose faults are added to the others."""
    try:
        return overrides.apply(spec, assignments)
    except UsageError as fault:
        faults += fault.faults
        return spec


def reference(name: str) -> str:
    """An experiment's name, or the whole path of a user's file, which holds from any directory."""
    return str(Path(name).resolve()) if Path(name).suffix == ".py" else name


def plans(name: str) -> Iterator[Plan]:
    """What the runs of an experiment that have a folder here were asked for, newest first; trials of sweeps apart."""
    experiment = reference(name)
    return (plan for plan in map(folder.load, folder.every()) if plan.experiment == experiment and not plan.trial)


def to_resume(name: str, spec: Experiment, seed: int) -> str | None:
    """The newest run of this experiment and seed, or None. Raises UsageError if it is of another spec."""
    plan = next((plan for plan in plans(name) if plan.seed == seed), None)
    if plan is not None:
        _refuse_changes(plan, spec)
    return plan.run_id if plan else None


def same(name: str, spec: Experiment, fingerprint: str) -> dict[int, Plan]:
    """By seed, the run of this experiment with this whole spec and data: the newest finished one, or else the newest.

    `fingerprint` is the data set's. Runs of the experiment with another spec or other data are passed over.
    """
    matching = [plan for plan in plans(name) if plan.fingerprint == fingerprint and _is_of(plan, spec)]
    found: dict[int, Plan] = {}
    for plan in sorted(matching, key=lambda plan: folder.outcome(plan.run_id) is None):  # finished ones before others
        found.setdefault(plan.seed, plan)
    return found


def _is_of(plan: Plan, spec: Experiment) -> bool:
    try:
        return not _changes(plan, spec)
    except UsageError:  # a spec of an older version of the program
        return False


def _changes(plan: Plan, spec: Experiment) -> list[str]:
    """The settings in which a recorded run differs from a spec, a line for each."""
    before, now = from_dict(plan.spec).flat(), spec.flat()
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    return [f"  {key}: was {before.get(key, '-')}, is {now.get(key, '-')}" for key in changed]


def _refuse_changes(plan: Plan, spec: Experiment) -> None:
    changes = _changes(plan, spec)
    if changes:
        raise UsageError(f"run {plan.run_id} was of another spec, and cannot go on with this one:", *changes)


def recorded(plan: Plan, data_dir: Path | None) -> "Request":
    """What a recorded run asked for, with its data. Raises UsageError if the spec or the data have changed since."""
    entry = registry.get(plan.experiment)
    spec = overrides.apply(entry.spec, plan.assignments)
    _refuse_changes(plan, spec)
    device = pick_device(plan.device)
    dataset = load_data(spec, plan.data, data_dir or (Path(plan.data_dir) if plan.data_dir else None))
    if dataset.fingerprint != plan.fingerprint:
        raise UsageError(
            f"run {plan.run_id} was trained on other data (fingerprint {plan.fingerprint[:12]}, here is "
            f"{dataset.fingerprint[:12]}: {dataset.origin}); name the directory it used with --data-dir"
        )

    from repro.request import Request

    how = (plan.precision, plan.engine, plan.products, plan.trial)
    return Request(entry, spec, dataset, plan.seed, device, plan.threads, *how)


def pick_device(name: str) -> "torch.device":
    """The device to compute on. Raises UsageError where there is no such."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no usable NVIDIA GPU here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def load_data(spec: Experiment, choice: "Choice", data_dir: Path | None) -> "Dataset":
    """The images for a spec whose model and batches fit. Raises UsageError and DataError; says why it is a stand-in."""
    from repro import data, model

    model.check(spec.model, spec.data.shape)  # before any waiting for data
    with _search_notes() as notes:
        dataset = data.load(spec.data, choice, data_dir)
        if dataset.status == "stand-in":
            notes.flush()
    batch, images = spec.training.batch_size, len(dataset.train)
    if batch > images:
        raise UsageError(f"training.batch_size={batch}: should be at most {images}, the number of training images")
    return dataset


@contextmanager
def _search_notes() -> Iterator[MemoryHandler]:
    """Holds what the search for data says of each place; printed on stderr if it is flushed, else forgotten."""
    log, printed = logging.getLogger("repro.data"), logging.StreamHandler()
    printed.setFormatter(logging.Formatter("not found: %(message)s"))
    notes = MemoryHandler(capacity=100, flushLevel=logging.CRITICAL, target=printed, flushOnClose=False)
    log.addHandler(notes)
    log.setLevel(logging.INFO)
    try:
        yield notes
    finally:
        log.removeHandler(notes)
        notes.close()
