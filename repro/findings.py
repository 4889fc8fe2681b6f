"""The result of a measurement on a trained model: rows of a tidy table, and pictures."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """One measured number.

    `group` names what was measured, such as an estimator or a class; `x` is a position, such as an epoch or a latent
    dimension.
    """

    quantity: str  # lower case with underscores, such as test_log_px, active_units
    value: float
    unit: str  # nats per image, share, images, ...
    group: str = ""
    x: float | None = None
    standard_error: float | None = None  # of the measurement itself, for a Monte Carlo estimate


@dataclass
class Findings:
    """Rows in reading order, and pictures, uint8 [H, W, 1 or 3], by file name without .png."""

    rows: list[Row] = field(default_factory=list)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
