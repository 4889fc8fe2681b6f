"""Overrides: `optim.lr=3e-4` replaces one setting of an experiment."""

import json
from collections.abc import Iterable
from typing import Any

from repro.errors import UsageError
from repro.spec.experiment import Experiment, from_dict
from repro.text import did_you_mean, odd_number

FIXED = ("reported", "variant_of")  # facts about publications, not settings


def apply(spec: Experiment, assignments: Iterable[str]) -> Experiment:
    """Return the spec with each `dotted.key=value` replaced, in order; the last value of a repeated key counts.

    The type of the field decides how its value is read; lists and objects are written as JSON. Raises UsageError with
    a line for every assignment that has another form, an unknown key, or a value of the wrong type or range.
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
    """Put the value of one assignment into the nested lists and dictionaries of a spec."""
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(f"override {assignment!r} should be written key=value, such as optim.lr=3e-4")
    parts = key.strip().split(".")
    parent: Any = None
    child: Any = values
    for depth, part in enumerate(parts):
        known = _keys(child)
        if depth == 0:
            known = [name for name in known if name not in FIXED]
        if part not in known:
            where = ".".join(parts[:depth]) or "the experiment"
            raise UsageError(
                f"unknown override {key!r}{did_you_mean(part, known)}; "
                + (f"{where} has: {', '.join(known)}" if known else f"{where} has no parts")
            )
        parent, index = child, int(part) if isinstance(child, list) else part
        child = parent[index]
    if isinstance(child, dict):
        raise UsageError(f"override {key!r} names a group; it has: {', '.join(child)}")
    if odd_number(text.strip()):
        raise UsageError(f"{key}={text!r}: should be written with the digits 0 to 9 alone")
    parent[index] = _parse(text.strip())


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return list(value)
    return [str(index) for index in range(len(value))] if isinstance(value, list) else []


def _parse(text: str) -> Any:
    """Read JSON lists, objects and null. Other text is left to the type of its field."""
    if text[:1] in ("[", "{") or text == "null":
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
