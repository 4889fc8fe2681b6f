"""`optim.lr=3e-4` to a typed replacement in a spec."""

import json
from collections.abc import Iterable
from typing import Any

from repro.errors import UsageError
from repro.spec import Experiment, from_dict
from repro.text import did_you_mean

FIXED = ("reported", "variant_of")  # what was published is not ours to override


def apply(spec: Experiment, assignments: Iterable[str]) -> Experiment:
    """The spec with each `dotted.key=value` replaced, in order; the same key twice takes the last value.

    Values are typed by the field they go to; lists and objects are written as JSON. Raises UsageError with a line for
    every assignment that is not of that form, names no field, or has a value of the wrong type or range.
    """
    values = spec.to_dict()
    faults: list[str] = []
    for assignment in assignments:
        try:
            _assign(values, assignment)
        except UsageError as fault:
            faults.extend(fault.faults)
    try:
        changed = from_dict(values)
    except UsageError as fault:
        faults.extend(fault.faults)
    if faults:
        raise UsageError(*faults)
    return changed


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(f"override {assignment!r} should be written key=value, such as optim.lr=3e-4")
    place: Any = values
    parts = key.strip().split(".")
    for depth, part in enumerate(parts):
        known = _keys(place, top=depth == 0)
        if part not in known:
            where = ".".join(parts[:depth]) or "the experiment"
            raise UsageError(
                f"unknown override {key!r}{did_you_mean(part, known)}; "
                + (f"{where} has: {', '.join(known)}" if known else f"{where} has no parts")
            )
        if depth < len(parts) - 1:
            place = _child(place, part)
    if isinstance(_child(place, parts[-1]), dict):
        raise UsageError(f"override {key!r} names a group; it has: {', '.join(_keys(_child(place, parts[-1])))}")
    _put(place, parts[-1], _parse(text.strip()))


def _keys(place: Any, top: bool = False) -> list[str]:
    if isinstance(place, dict):
        return [key for key in place if not (top and key in FIXED)]
    if isinstance(place, list):
        return [str(index) for index in range(len(place))]
    return []


def _child(place: Any, part: str) -> Any:
    return place[int(part)] if isinstance(place, list) else place[part]


def _put(place: Any, part: str, value: Any) -> None:
    if isinstance(place, list):
        place[int(part)] = value
    else:
        place[part] = value


def _parse(text: str) -> Any:
    """JSON for lists, objects and null; anything else stays text, which the field's own type then reads."""
    if text[:1] in ("[", "{") or text == "null":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
