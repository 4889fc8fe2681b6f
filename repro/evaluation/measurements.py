"""The measurements that `repro evaluate` makes of a finished run, by the names of `repro.evaluation.MEASUREMENTS`."""

from collections.abc import Callable
from dataclasses import dataclass

from repro.data import Dataset
from repro.engine import Settings
from repro.evaluation import gradients, kl, latents, likelihood, realism, spectrum
from repro.evaluation.likelihood import Options
from repro.measurement import Measurement, Tell
from repro.model import VAE
from repro.spec import Experiment
from repro.training.trainer import Trainer


@dataclass(frozen=True)
class TrainedRun:
    """A model with its final weights, and how it was trained. `settings` are the run's, but for threads."""

    spec: Experiment
    seed: int
    model: VAE
    dataset: Dataset
    settings: Settings

    def trainer(self) -> Trainer:
        """Return a trainer that repeats the training from the initial weights."""
        return Trainer(self.spec, self.seed, self.dataset, self.settings)


FUNCTIONS: dict[str, Callable[[TrainedRun, Options, Tell], Measurement]] = {
    "evaluation": lambda run, options, tell: likelihood.evaluate(run.model, run.dataset, options, tell),
    "kl": lambda run, options, tell: kl.formulas(run.model, run.dataset.test[:1000], seed=options.seed),
    "gradients": lambda run, options, tell: gradients.over_training(run.trainer(), run.model, tell=tell),
    "digits": lambda run, options, tell: realism.realism(run.model, run.dataset, seed=options.seed, tell=tell),
    "spectrum": lambda run, options, tell: spectrum.blurriness(run.model, run.dataset.test, seed=options.seed),
    "latents": lambda run, options, tell: latents.maps(run.model, run.dataset, seed=options.seed),
}
