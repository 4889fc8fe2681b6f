"""The measurements that `repro evaluate` makes of a finished run, by name. A new one is a new line in MEASUREMENTS."""

from collections.abc import Callable
from typing import Protocol

from repro.data import Dataset
from repro.errors import UsageError
from repro.evaluation import gradients, kl, latents, likelihood, realism, spectrum
from repro.evaluation.bounds import Tell
from repro.evaluation.likelihood import Options
from repro.findings import Findings
from repro.model import VAE
from repro.spec import Experiment
from repro.text import did_you_mean


class TrainedRun(Protocol):
    """What a measurement needs to know of a finished run."""

    @property
    def spec(self) -> Experiment:
        """The experiment."""

    @property
    def model(self) -> VAE:
        """The model with its final weights."""

    @property
    def dataset(self) -> Dataset:
        """The images that the model was trained and tested on."""

    def trainer(self) -> gradients.Trainer:
        """Return a trainer that repeats the training from the initial weights."""


Measure = Callable[[TrainedRun, Options, Tell], Findings]

MEASUREMENTS: dict[str, Measure] = {
    "evaluation": lambda run, options, tell: likelihood.evaluate(run.model, run.dataset, options, tell),
    "kl": lambda run, options, tell: kl.closed_form(run.model, run.dataset.test[:1000], seed=options.seed),
    "gradients": lambda run, _, tell: _gradients(run, tell),
    "digits": lambda run, options, tell: realism.realism(run.model, run.dataset, seed=options.seed, tell=tell),
    "spectrum": lambda run, options, tell: spectrum.blurriness(run.model, run.dataset.test, seed=options.seed),
    "latents": lambda run, options, tell: latents.maps(run.model, run.dataset, seed=options.seed),
}
GRADIENT_EPOCHS = (0, 1, 3, 10)
"""Gradients are measured after these epochs and after the last."""


def _gradients(run: TrainedRun, tell: Tell) -> Findings:
    last = run.spec.training.epochs
    epochs = [epoch for epoch in GRADIENT_EPOCHS if epoch < last]
    return gradients.over_training(run.trainer(), run.model, last, epochs, tell=tell)


def check_names(names: list[str]) -> list[str]:
    """Return the names without repetitions. Raises UsageError for each that is no measurement, with a suggestion."""
    distinct = list(dict.fromkeys(names))
    faults = [
        f"--measure {name}: is none of {', '.join(MEASUREMENTS)}{did_you_mean(name, list(MEASUREMENTS))}"
        for name in distinct
        if name not in MEASUREMENTS
    ]
    if faults:
        raise UsageError(*faults)
    return distinct


def caveats(spec: Experiment, findings: Findings) -> str:
    """Return sentences that must be printed beside the log p(x) of an evaluation."""
    value = {row.quantity: row.value for row in findings.rows if not row.group}
    log_px, by_tenths = value["test_log_px"], value["test_log_px_by_tenths"]
    if spec.model.likelihood == "bernoulli":
        scale = (
            'On grey pixels the Bernoulli "log p(x)" is not a likelihood of binary data, nor a density: it is not '
            "comparable with tables for binarised MNIST."
        )
    else:
        scale = (
            "The Gaussian log p(x) is a density of pixels in [0, 1], which are bytes and were not dequantised: compare "
            "it with models of the same pixels only."
        )
    return (
        f"log p(x) is a lower bound in expectation, by K = {value['log_px_samples']:,} draws of z each. K/10 give "
        f"{by_tenths:.2f}: the {log_px - by_tenths:.2f} nats between them, not +-, show how far it still rises with K. "
        f"{scale}"
    )
