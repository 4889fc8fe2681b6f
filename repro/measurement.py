"""A measurement on a trained model: rows of a tidy table, and pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tell = Callable[[str], None]
"""Is given sentences on how far a computation is."""


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
class Measurement:
    """Rows in reading order, and pictures, uint8 [H, W, 1 or 3], by file name without .png."""

    rows: list[Row] = field(default_factory=list)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


def mean_row(
    quantity: str, values: Tensor | NDArray[np.float64], unit: str, group: str = "", x: float | None = None
) -> Row:
    """Return the mean of independent values, with its standard error unless there is only one value. [N]."""
    found = torch.as_tensor(values, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else None
    return Row(quantity, float(found.mean()), unit, group, x, error)


def silent(_: str) -> None:
    """A `Tell` that prints nothing."""
