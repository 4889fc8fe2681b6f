"""Measurements on a trained model beyond its cost: each a function of model and images, listed in `measurements`.

Here are only their names and the ranges of images, which the command line checks and lists without PyTorch.
"""

import re

from repro.errors import UsageError
from repro.text import did_you_mean

MEASUREMENTS = {
    "evaluation": "log p(x), test ELBO, active units, KL by dimension; the default",
    "kl": "the KL in closed form, as in the notebook, and by Monte Carlo",
    "gradients": "variance of gradient estimators in the course of training",
    "digits": "realism of generated digits, judged by classifiers; needs labels",
    "spectrum": "blurriness: high frequencies of samples and reconstructions",
    "latents": "maps of the latent means, walks between images, traversals",
}
"""What `repro evaluate` can measure, by name. Their functions are in `measurements.FUNCTIONS`."""
Ranges = tuple[tuple[int, int], ...]
"""First and last index of ranges of training images, as `evaluate --only` names them. Both belong to the range."""


def check_names(names: list[str]) -> list[str]:
    """Return the names without repetitions. Raises UsageError for each that is no measurement, with a suggestion."""
    distinct = list(dict.fromkeys(names))
    faults = [
        f"--measure {name}: is none of {', '.join(MEASUREMENTS)}{did_you_mean(name, MEASUREMENTS)}"
        for name in distinct
        if name not in MEASUREMENTS
    ]
    if faults:
        raise UsageError(*faults)
    return distinct


def parse_ranges(text: str) -> Ranges:
    """Parse `0-1016,5000` into ranges of indices. Raises UsageError with every fault."""
    ranges, faults = [], []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        if match is None:
            faults.append(f"--only {part.strip()!r}: should be an index or a range, such as 0-1016,10000-11016")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            faults.append(f"--only {part.strip()}: ends before it begins")
        ranges.append((first, last))
    if faults:
        raise UsageError(*faults)
    return tuple(ranges)
