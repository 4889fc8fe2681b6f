"""The search space of a sweep: read from `--space`, checked against a spec, and drawn from by a trial."""

import itertools
import json
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from repro.errors import UsageError
from repro.spec import Choice, Experiment, Integers, LogUniform, Range, Space, Uniform, ranges
from repro.text import odd_number

if TYPE_CHECKING:  # so that a wrong --space is refused at once
    from optuna.trial import Trial

FORM = "KEY=log:LOW:HIGH, KEY=uniform:LOW:HIGH, KEY=int:LOW:HIGH, or KEY=VALUE,VALUE,..."
MOST_CELLS = 10_000
_KINDS: dict[str, Any] = {"log": LogUniform, "uniform": Uniform, "int": Integers}


def read(spec: Experiment, texts: Iterable[str]) -> Space:
    """Return the experiment's space with each `key=range` of `--space` put in; a single value fixes its key.

    Raises UsageError with every fault: a text that has none of the forms in FORM, a key or a value that does not fit
    the spec, an empty space.
    """
    space, faults = dict(spec.sweep or {}), []
    for text in texts:
        key, equals, wanted = text.partition("=")
        try:
            if not (equals and key.strip() and wanted.strip()):
                raise ValueError(f"should be {FORM}")
            space[key.strip()] = parse(wanted.strip())
        except ValueError as error:
            faults.append(f"--space {text}: {error}")
    faults += [f"--space {fault}" for fault in ranges.faults(spec, space)]
    if not space and not faults:
        faults.append(f"there is nothing to search: the experiment names no sweep; give --space {FORM}")
    if faults:
        raise UsageError(*faults)
    return space


def parse(text: str) -> Range:
    """Return the range that a text describes. Raises ValueError with what it should be."""
    if any(map(odd_number, re.split("[:,]", text))):
        raise ValueError("should be written with the digits 0 to 9 alone")
    kind, colon, rest = text.partition(":")
    if not colon or kind not in _KINDS:
        return Choice(*(_value(part) for part in text.split(",")))
    number = int if kind == "int" else float
    try:
        low, high = map(number, rest.split(":"))
    except ValueError:
        kinds = "two whole numbers" if kind == "int" else "two numbers"
        raise ValueError(f"{kind}: should be followed by {kinds}, LOW:HIGH") from None
    made: Range = _KINDS[kind](low, high)
    return made


def _value(text: str) -> int | float | str:
    """Return one value of a list, as a number if it is one."""
    text = text.strip()
    if not text:
        raise ValueError("has an empty value; should be VALUE,VALUE,...")
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def draw(trial: "Trial", space: Space) -> None:
    """Draw what a trial is to try, in alphabetical order. A value that the trial has already stays."""
    for key, each in sorted(space.items()):
        match each:
            case Choice():
                trial.suggest_categorical(key, each.values)
            case Integers():
                trial.suggest_int(key, each.low, each.high)
            case LogUniform() | Uniform():
                trial.suggest_float(key, each.low, each.high, log=isinstance(each, LogUniform))


def check_sampler(sampler: str, space: Space) -> None:
    """Raise UsageError if a sampler cannot draw from a space, or lacks a package."""
    if sampler == "grid":
        cells(space)
    if sampler == "cmaes" and find_spec("cmaes") is None:  # Optuna looks for it at the second trial
        raise UsageError("--sampler cmaes: needs the package cmaes; pip install cmaes")


def cells(space: Space) -> list[dict[str, Any]]:
    """Return every combination of a space. Raises UsageError if it is not made of lists only, or has too many."""
    lists = {key: each.values for key, each in space.items() if isinstance(each, Choice)}
    endless = [f"--sampler grid: {key}={each} is no list; --space {key}=VALUE,VALUE,... makes it one"
               for key, each in space.items() if key not in lists]  # fmt: skip
    if endless:
        raise UsageError(*endless)
    if math.prod(map(len, lists.values())) > MOST_CELLS:
        raise UsageError(f"--sampler grid: the space has more than {MOST_CELLS:,} combinations; take another sampler")
    return [dict(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values())]


def shown(values: dict[str, Any]) -> str:
    """Return values by key in few digits."""
    numbers = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key} {number}" for key, number in numbers.items())


def dumped(space: Space) -> str:
    """Return the space as JSON, the same for the same space."""
    return json.dumps({key: str(each) for key, each in sorted(space.items())})
