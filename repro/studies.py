"""The studies that can be made of a finished run, by name. One more is one more line in STUDIES."""

import re
from collections.abc import Callable

from repro.errors import UsageError
from repro.finished import Finished
from repro.measure import Findings, digits, evaluation, gradients, kl, latents, spectrum
from repro.measure.bounds import Tell
from repro.measure.evaluation import Options, Ranges
from repro.text import did_you_mean

Study = Callable[[Finished, Options, Tell], Findings]

STUDIES: dict[str, Study] = {
    "evaluation": lambda run, options, tell: evaluation.evaluate(run.model, run.dataset, options, tell),
    "kl": lambda run, options, tell: kl.closed_form(run.model, run.dataset.test[:1000], seed=options.seed),
    "gradients": lambda run, _, tell: _gradients(run, tell),
    "digits": lambda run, options, tell: digits.realism(run.model, run.dataset, seed=options.seed, tell=tell),
    "spectrum": lambda run, options, tell: spectrum.blurriness(run.model, run.dataset.test, seed=options.seed),
    "latents": lambda run, options, tell: latents.portrait(run.model, run.dataset, seed=options.seed),
}
POINTS = (0, 1, 3, 10)
"""Epochs after which gradients are measured, besides the last."""


def _gradients(run: Finished, tell: Tell) -> Findings:
    last = run.spec.training.epochs
    points = [epoch for epoch in POINTS if epoch < last]
    return gradients.over_training(run.trainer(), run.model, last, points, tell=tell)


def chosen(names: list[str]) -> list[str]:
    """The names, each once. Raises UsageError naming those that are no study, with a guess at what was meant."""
    unknown = [name for name in dict.fromkeys(names) if name not in STUDIES]
    if unknown:
        known = ", ".join(STUDIES)
        raise UsageError(
            *(f"--study {each}: is none of {known}{did_you_mean(each, list(STUDIES))}" for each in unknown)
        )
    return list(dict.fromkeys(names))


def ranges(text: str) -> Ranges:
    """`0-1016,5000` as ranges of indices, both ends included. Raises UsageError with every fault."""
    found, faults = [], []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        if match is None:
            faults.append(f"--only {part.strip()!r}: should be an index or a range, such as 0-1016,10000-11016")
            continue
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            faults.append(f"--only {part.strip()}: ends before it begins")
        found.append((first, last))
    if faults:
        raise UsageError(*faults)
    return tuple(found)


def caveats(run: Finished, findings: Findings) -> str:
    """What must be said beside the log p(x) of an evaluation, in sentences."""
    value = {row.quantity: row.value for row in findings.rows if not row.group}
    log_px, by_tenths = value["test_log_px"], value["test_log_px_by_tenths"]
    return (
        f"log p(x) is a lower bound in expectation, by K = {value['log_px_samples']:,} draws of z each. K/10 give "
        f"{by_tenths:.2f}: the {log_px - by_tenths:.2f} nats between them, not +-, show how far it still rises with K. "
        + _scale(run)
    )


def _scale(run: Finished) -> str:
    if run.spec.model.likelihood == "bernoulli":
        return (
            'On grey pixels the Bernoulli "log p(x)" is not a likelihood of binary data, nor a density: it is not '
            "comparable with tables for binarised MNIST."
        )
    return (
        "The Gaussian log p(x) is a density of pixels in [0, 1], which are bytes and were not dequantised: compare it "
        "with models of the same pixels only."
    )
