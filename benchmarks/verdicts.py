"""Simulate planned seeds: how often the verdict is wrong, and how often it can decide.

python -m repro.benchmarks.verdicts
"""

from collections.abc import Sequence

import numpy as np
from repro.analysis.verdicts import half_widths

REPEATS = 200_000
EARLIER_RULE = range(3, 13)
"""Numbers of seeds after which the earlier rule tested, until one test decided."""
CASES = (  # result, planned seeds, margin and standard deviation over seeds in nats; the last is of earlier runs
    ("mnist_fc, epoch 100", 12, 1.01, 0.50),
    ("mnist_conv, epoch 150", 12, 1.07, 0.51),
    ("cifar_conv, epoch 150", 12, 3.22, 3.40),
    ("mnist_fc, epoch 10", 12, 1.34, 1.0),
    ("mnist_conv_lr_1e3, epoch 10", 20, 1.69, 1.0),
)


def rates(n: int, margin: float, std: float, offset: float, *, one_of_ours: bool = False) -> dict[str, float]:
    """Return the shares of `reproduced`, `consistent` and `different` over repeats.

    The reported cost is `offset` below the true mean of ours; with `one_of_ours` it is drawn like our runs.
    """
    generator = np.random.default_rng(0)
    costs = generator.normal(0, std, (REPEATS, n))
    reported = generator.normal(0, std, REPEATS) if one_of_ours else np.full(REPEATS, -offset)
    half, beyond = half_widths(costs.std(1, ddof=1), n)
    difference = np.abs(costs.mean(1) - reported)
    reached, out = difference + half < margin, difference > beyond
    shares = {"reproduced": reached, "consistent": ~reached & ~out, "different": ~reached & out}
    return {word: float(where.mean()) for word, where in shares.items()}


def by_the_earlier_rule(margin: float, std: float) -> float:
    """Return how often tests after 3 to 12 seeds say `reproduced` when the true mean is at the margin."""
    costs = np.random.default_rng(0).normal(margin, std, (REPEATS, max(EARLIER_RULE)))
    said = np.zeros(REPEATS, bool)
    for n in EARLIER_RULE:
        first = costs[:, :n]
        half, _ = half_widths(first.std(1, ddof=1), n)
        said |= np.abs(first.mean(1)) + half < margin
    return float(said.mean())


def table(cases: Sequence[tuple[str, int, float, float]] = CASES) -> str:
    lines = [
        "| result | seeds | margin | standard deviation | reproduced, true difference at the margin | asked after each "
        "of 3 to 12 seeds | reproduced, true difference 0 | reproduced / consistent / different, published run one of "
        "ours |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, n, margin, std in cases:
        at_margin, at_zero = rates(n, margin, std, margin), rates(n, margin, std, 0.0)
        same = " / ".join(f"{share:.1%}" for share in rates(n, margin, std, 0.0, one_of_ours=True).values())
        lines.append(
            f"| {name} | {n} | {margin} | {std} | {at_margin['reproduced']:.1%} | "
            f"{by_the_earlier_rule(margin, std):.1%} | {at_zero['reproduced']:.1%} | {same} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
