"""Ranges of settings for a sweep. `str(range)` gives the form that `--space` reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform between `low` and `high`, both positive."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"log:{self.low:.12g}:{self.high:.12g}"


@dataclass(frozen=True)
class Uniform:
    """A number that is uniform between `low` and `high`."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"uniform:{self.low:.12g}:{self.high:.12g}"


@dataclass(frozen=True)
class Integers:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"int:{self.low}:{self.high}"


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values without an order."""

    values: tuple[int | float | str, ...]

    def __init__(self, *values: int | float | str) -> None:
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return ",".join(str(value) for value in self.values)


Range = LogUniform | Uniform | Integers | Choice
Space = dict[str, Range]
"""A search space: the range of each setting, by dotted key."""
