"""What a sweep searches: ranges by dotted key of a spec, and what a trial draws from them."""

import itertools
import json
import math
from collections.abc import Iterable
from typing import Any

from optuna import distributions
from optuna.trial import Trial

from repro.errors import UsageError
from repro.spec import Choice, Experiment, Integers, LogUniform, Range, Space, Uniform, overrides

FORM = "KEY=log:LOW:HIGH, KEY=uniform:LOW:HIGH, KEY=int:LOW:HIGH, or KEY=VALUE,VALUE,..."
MOST_CELLS = 10_000
SHARED = {
    "training.epochs": "is what --epochs is for",
    "data.name": "decides what trials are judged by, and has to be the same for all",
    "data.holdout": "decides what trials are judged by, and has to be the same for all",
}
"""Keys that no trial may have a value of its own for, and why."""
_KINDS: dict[str, Any] = {"log": LogUniform, "uniform": Uniform, "int": Integers}


def changed(space: Space, texts: Iterable[str], faults: list[str]) -> Space:
    """The space with each `key=range` of `--space` put in, of a form that FORM gives; one that is of none is a fault.

    One value alone fixes the key.
    """
    found = dict(space)
    for text in texts:
        key, equals, wanted = text.partition("=")
        try:
            if not (equals and key.strip() and wanted.strip()):
                raise ValueError(f"should be {FORM}")
            found[key.strip()] = _range(wanted.strip())
        except ValueError as error:
            faults.append(f"--space {text}: {error}")
    return found


def check(space: Space, spec: Experiment) -> None:
    """Raise UsageError, with every fault, for a space that is empty, or has a key or a value that the spec has not."""
    faults = [] if space else ["there is nothing to search: the experiment names no sweep; give --space " + FORM]
    for key, each in space.items():
        fault = SHARED.get(key) or _fault(each)
        if fault:
            faults.append(f"--space {key}={each}: {fault}")
            continue
        for value in _ends(each):
            try:
                overrides.apply(spec, [assignment(key, value)])
            except UsageError as error:
                faults += [f"--space {key}={each}: {line}" for line in error.faults]
                break
    if faults:
        raise UsageError(*faults)


def draw(trial: Trial, space: Space) -> dict[str, Any]:
    """What a trial is to try, by key; drawn once, the same ever after."""
    return {key: _drawn(trial, key, space[key]) for key in sorted(space)}  # in whatever order the command names them


def as_distributions(space: Space) -> dict[str, distributions.BaseDistribution]:
    """The space in Optuna's terms."""
    return {key: _distribution(each) for key, each in space.items()}


def assignments(values: dict[str, Any]) -> tuple[str, ...]:
    """Values by key as `--set` takes them."""
    return tuple(assignment(key, value) for key, value in values.items())


def assignment(key: str, value: Any) -> str:
    """One of them; a float with all its digits."""
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def cells(space: Space) -> list[dict[str, Any]]:
    """Every combination of a space that is made of lists only. Raises UsageError for any other."""
    endless = [f"--sampler grid: {key}={each} is no list; --space {key}=VALUE,VALUE,... makes it one"
               for key, each in space.items() if not isinstance(each, Choice)]  # fmt: skip
    if endless:
        raise UsageError(*endless)
    lists = [each.values for each in space.values() if isinstance(each, Choice)]
    if math.prod(map(len, lists)) > MOST_CELLS:
        raise UsageError(f"--sampler grid: the space has more than {MOST_CELLS:,} combinations; take another sampler")
    return [dict(zip(space, combination, strict=True)) for combination in itertools.product(*lists)]


def _range(text: str) -> Range:
    """A range from text. Raises ValueError with what it should be."""
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
    """One value of a list: a number where it is one."""
    text = text.strip()
    if not text:
        raise ValueError("has an empty value; should be VALUE,VALUE,...")
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _fault(each: Range) -> str:
    """What is wrong with a range by itself; "" if nothing is."""
    if not isinstance(each, Range):
        return "should be a LogUniform, a Uniform, Integers or a Choice"
    if isinstance(each, Choice):
        twice = sorted({str(value) for value in each.values if each.values.count(value) > 1})
        return "is empty" if not each.values else f"names {', '.join(twice)} more than once" if twice else ""
    if not isinstance(each, Integers) and not (math.isfinite(each.low) and math.isfinite(each.high)):
        return "should have finite ends"
    if each.low >= each.high:
        return f"should ascend, from low to high; {each.low} is not below {each.high}"
    return "should be above 0 on a logarithmic scale" if isinstance(each, LogUniform) and each.low <= 0 else ""


def _ends(each: Range) -> tuple[Any, ...]:
    """The values by which a range is tried out; of real numbers also one that is not whole."""
    if isinstance(each, Choice):
        return each.values
    return (each.low, each.high) if isinstance(each, Integers) else (each.low, each.high, _between(each))


def _between(each: LogUniform | Uniform) -> float:
    middle = each.low + (each.high - each.low) / 2
    return math.nextafter(middle, each.high) if middle.is_integer() else middle


def _drawn(trial: Trial, key: str, each: Range) -> Any:
    match each:
        case LogUniform():
            return trial.suggest_float(key, each.low, each.high, log=True)
        case Uniform():
            return trial.suggest_float(key, each.low, each.high)
        case Integers():
            return trial.suggest_int(key, each.low, each.high)
        case Choice():
            return trial.suggest_categorical(key, each.values)


def _distribution(each: Range) -> distributions.BaseDistribution:
    match each:
        case LogUniform():
            return distributions.FloatDistribution(each.low, each.high, log=True)
        case Uniform():
            return distributions.FloatDistribution(each.low, each.high)
        case Integers():
            return distributions.IntDistribution(each.low, each.high)
        case Choice():
            return distributions.CategoricalDistribution(each.values)


def shown(values: dict[str, Any]) -> str:
    """Values in few digits, to be read."""
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def dumped(space: Space) -> str:
    """The space as JSON, by which two are the same."""
    return json.dumps({key: str(each) for key, each in sorted(space.items())})
