"""What a measurement came to: tidy rows and pictures."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """One measured number. `group` and `x` say what of: an estimator, a class; an epoch, a latent dimension."""

    quantity: str  # lower case with underscores, by the field's terms: test_log_px, active_units
    value: float
    unit: str  # nats per image, share, images, ...
    group: str = ""
    x: float | None = None
    standard_error: float | None = None  # of the measurement itself, for a Monte Carlo estimate


@dataclass
class Findings:
    """Rows in the order in which they should be read, and pictures (uint8 [H, W, 1 or 3]) by file name without .png."""

    rows: list[Row] = field(default_factory=list)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
