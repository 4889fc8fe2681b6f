"""What is wrong with a search space: ranges by themselves, and values that the experiment does not take."""

import math
from typing import Any

from repro.errors import UsageError
from repro.spec import overrides
from repro.spec.experiment import Experiment
from repro.spec.search_space import Choice, Integers, LogUniform, Range

SHARED = {
    "training.epochs": "is what --epochs is for",
    "data.name": "decides what trials are judged by, and has to be the same for all",
    "data.holdout": "decides what trials are judged by, and has to be the same for all",
}
"""Keys that no trial may have a value of its own for, and why."""


def faults(spec: Experiment, space: Any) -> list[str]:
    """Return a sentence for each range of a search space that is not one of this experiment."""
    if space is not None and not isinstance(space, dict):
        return [f"{repr(space)[:60]} should be a dictionary of ranges by dotted key"]
    found = []
    for key, each in (space or {}).items():
        try:
            shown = str(each)
        except ValueError:  # ends that are no numbers
            shown = repr(each)
        found += [f"{key}={shown}: {fault}" for fault in _of_range(spec, str(key), each)]
    return found


def _of_range(spec: Experiment, key: str, each: Range) -> tuple[str, ...]:
    """Return what is wrong with a range by itself, or else with the first of its values that the spec refuses."""
    fault = SHARED.get(key) or _fault(each)
    if fault:
        return (fault,)
    for value in tried_values(each):
        try:
            overrides.apply(spec, [assignment(key, value)])
        except UsageError as error:
            return error.faults
    return ()


def _fault(each: Range) -> str:
    """Return what is wrong with a range by itself; "" if nothing is."""
    if not isinstance(each, Range):
        return "should be a LogUniform, a Uniform, Integers or a Choice"
    if isinstance(each, Choice):
        twice = sorted({str(value) for value in each.values if each.values.count(value) > 1})
        return "is empty" if not each.values else f"names {', '.join(twice)} more than once" if twice else ""
    if not all(isinstance(end, int if isinstance(each, Integers) else int | float) for end in (each.low, each.high)):
        return f"should have {'whole ' * isinstance(each, Integers)}numbers as ends"
    if not isinstance(each, Integers) and not (math.isfinite(each.low) and math.isfinite(each.high)):
        return "should have finite ends"
    if each.low >= each.high:
        return f"should ascend, from low to high; {each.low} is not below {each.high}"
    return "should be above 0 on a logarithmic scale" if isinstance(each, LogUniform) and each.low <= 0 else ""


def tried_values(each: Range) -> tuple[Any, ...]:
    """Return the values by which a range is checked; of real numbers also one that is not whole."""
    if isinstance(each, Choice):
        return each.values
    if isinstance(each, Integers):
        return (each.low, each.high)
    middle = each.low + (each.high - each.low) / 2
    return (each.low, each.high, math.nextafter(middle, each.high) if middle.is_integer() else middle)


def assignment(key: str, value: Any) -> str:
    """Return a value as `--set` takes it; a float has all its digits."""
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"
