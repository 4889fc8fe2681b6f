"""The Python interface: experiments, their data, models, training, and the models of finished runs.

Pixels are in [0, 1], [N, C, H, W]; costs are nats per image. Models round pixels to the 256 levels of the data sets.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from repro import images as pictures
from repro import model as architecture
from repro import names, provenance
from repro.data import Choice, Dataset
from repro.engine import Settings, Step, choose, to_batch
from repro.errors import UsageError
from repro.evaluation import batches
from repro.model import VAE
from repro.rng import stream
from repro.runs import config
from repro.spec import Experiment, Shape, overrides, registry
from repro.spec.registry import Entry
from repro.training.loop import Costs, evaluate, train_epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Epoch(NamedTuple):
    """The running means of an epoch's training costs, nats per image. `cost` is `reconstruction` + `kl`."""

    epoch: int  # from 1
    cost: float
    reconstruction: float
    kl: float


class Data:
    """Images as float32 in [0, 1], [N, C, H, W]. Each part is converted when it is first used.

    `dataset` has the bytes, the labels, and where the images come from: `origin`, and `status`, which is `canonical`,
    `unverified` or `stand-in`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"<Data {self.dataset.name}, {self.dataset.status}, {self.dataset.origin}>"

    @cached_property
    def train(self) -> Tensor:
        """The images that `repro run` trains on."""
        return to_batch(self.dataset.train)

    @cached_property
    def heldout(self) -> Tensor:
        """Training images that are held out; the test images if the experiment holds none out."""
        return to_batch(self.dataset.heldout)

    @cached_property
    def test(self) -> Tensor:
        """The test images."""
        return to_batch(self.dataset.test)


class Model:
    """A VAE with its experiment and its costs. `build` and `load_run` make one.

    `network` is the PyTorch module; `history` has the costs of each trained epoch; `run_id` is the run that the model
    was loaded from, or "". Images that a method is given should be in [0, 1], [N, C, H, W]; it raises UsageError for
    another range or layout. Tensors that it returns are on the CPU and have no gradient; `network` has gradients.
    """

    def __init__(self, experiment: Entry, seed: int, network: VAE, settings: Settings, run_id: str = "") -> None:
        self.experiment, self.seed, self.settings, self.run_id = experiment, seed, settings, run_id
        self.network = network.to(settings.device)
        self.history: list[Epoch] = []

    def __repr__(self) -> str:
        source = f", run {self.run_id[:8]}" if self.run_id else ""
        return f"<Model {self.experiment.name}, seed {self.seed}, {len(self.history)} epochs{source}>"

    @property
    def spec(self) -> Experiment:
        """The settings of the experiment."""
        return self.experiment.spec

    @property
    def step(self) -> Step:
        """The training step, with the state of the optimiser. PyTorch is set to the model's number of threads."""
        torch.set_num_threads(self.settings.threads)
        return self._step

    @cached_property
    def _step(self) -> Step:
        return choose(self.spec, self.network, self.settings)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z|x). [N, C, H, W] -> [N, D], [N, D]."""
        mean, log_variance = batches.posterior(self.network, self._own(images))
        return mean.cpu(), log_variance.cpu()

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean images of p(x|z). [N, D] -> [N, C, H, W]."""
        if z.ndim != 2 or z.shape[1] != self.spec.model.latent:
            raise UsageError(f"z: should be of shape [N, {self.spec.model.latent}], is {list(z.shape)}")
        return batches.generated(self.network, z.to(self.settings.device)).cpu()

    def sample(self, count: int = 100, seed: int = 0) -> Tensor:
        """Return the mean images of `count` draws from the prior. -> [N, C, H, W].

        100 draws of seed 0 are those that a run shows in its pictures.
        """
        return self.decode(torch.randn((count, self.spec.model.latent), generator=stream("samples", seed)))

    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the mean images of p(x|z) at the mean of q(z|x). [N, C, H, W] -> [N, C, H, W]."""
        return self.decode(self.encode(images)[0])

    def costs(self, images: Tensor, draws: int = 10) -> Costs:
        """Return the negative ELBO, `cost`, and its parts `reconstruction` and `kl`: means over the images.

        Each image has `draws` draws of z. Of all test images, with ten draws, `cost` is the `test_neg_elbo` of a run.
        """
        return evaluate(self.step, self._own(images), stream("test", self.seed), draws)

    def _own(self, images: Tensor) -> Tensor:
        return as_bytes(images, self.spec.data.shape).to(self.settings.device)


def experiment(name: str, *assignments: str) -> Entry:
    """Return an experiment, with settings changed as `--set` does: `experiment("mnist_fc", "optim.lr=3e-4")`.

    `name` is a registered name, or the path of your own file. The settings are in `spec`; `spec.flat()` lists those
    that can be changed. Raises UsageError with every fault.
    """
    entry = registry.get(name)
    return replace(entry, spec=overrides.apply(entry.spec, assignments))


def load_data(experiment: Entry, data: Choice = "auto", data_dir: str | Path | None = None) -> Data:
    """Return the images of an experiment, found as `repro run` finds them with `--data` and `--data-dir`.

    Raises DataError if they are damaged or cannot be had, UsageError if model or batch size do not fit.
    """
    return Data(config.load_data(experiment.spec, data, Path(data_dir) if data_dir else None))


def build(
    experiment: Entry, seed: int = 0, *, device: Literal["auto", "cpu", "cuda"] = "auto", threads: int | None = None
) -> Model:
    """Return the model with the initial weights of `seed`, those of a run with the same number of threads.

    PyTorch in this process is set to `threads` CPU threads, all cores if not given. Raises UsageError if layers do not
    fit, or if there is no such device.
    """
    settings = Settings(config.pick_device(device), threads or provenance.cores())
    torch.set_num_threads(settings.threads)
    return Model(experiment, seed, architecture.build(experiment.spec, seed), settings)


def train(
    model: Model, images: Tensor, epochs: int = 1, after_epoch: Callable[[Epoch], object] = lambda _: None
) -> list[Epoch]:
    """Train a model for further epochs; return their costs, which are also given to `after_epoch` one by one.

    On `Data.train` each epoch has the same bits as in `repro run` with the same experiment, seed and threads. Nothing
    is written or tracked; use the command `run` for evidence. If an epoch is interrupted, build the model again:
    its weights are between two epochs.

    Raises UsageError for images of another range or layout, for fewer images than a batch, and for a model from
    `load_run`, which has no optimiser state; NotFiniteError if the cost is no longer a number.
    """
    if model.run_id:
        raise UsageError(f"{model} cannot be trained on: a finished run has no optimiser state; build a new model")
    pixels = model._own(images)
    config.require_a_batch(model.spec, len(pixels))
    done = len(model.history)
    for epoch in range(done + 1, done + epochs + 1):
        costs = train_epoch(model.step, pixels, model.spec, model.seed, epoch)
        model.history.append(Epoch(epoch, costs.cost, costs.reconstruction, costs.kl))
        after_epoch(model.history[-1])
    return model.history[done:]


def load_run(run_id: str, *, threads: int | None = None) -> Model:
    """Return the model of a finished run, by its id or the first characters of it. Its data set is not needed.

    The run is looked for in `mlruns/` of the current directory, or in the store that MLFLOW_TRACKING_URI names.
    `threads` is for `Model.costs`, all cores if not given. Raises UsageError for a run that is unknown or has not
    finished, ReproError if its records are missing or damaged.
    """
    from repro.runs import load  # noqa: PLC0415 - MLflow takes seconds, and nothing else here needs it

    run = load.load_model(run_id, threads or provenance.cores())
    record = load.record(run.record.run_id)
    model = Model(_entry(run.record.experiment, run.spec), run.seed, run.model, run.settings, record.run_id)
    cost, reconstruction, kl = (record.histories[name] for name in (names.COST, names.RECONSTRUCTION, names.KL))
    model.history = [Epoch(epoch, cost[epoch], reconstruction[epoch], kl[epoch]) for epoch in sorted(cost)]
    return model


def picture(images: Tensor, columns: int = 10) -> Image.Image:
    """Return images as one picture, in rows of `columns`. [N, C, H, W] in [0, 1]."""
    return Image.fromarray(pictures.grid(images.expand(-1, 3, -1, -1).numpy(), columns))


def plot_costs(models: Mapping[str, Model], published: bool = True) -> "Figure":
    """Return a plot of the training costs of models, by label, over the published curve of the first, if it has one.

    The published curve is of the real data: choose `published=False` for the stand-in. Raises ReproError if the curve
    cannot be read.
    """
    first = next(iter(models.values())).experiment
    reported = first.spec.reported if published else ()
    curve = pictures.reported_curve(first.file, reported[-1]) if reported else None
    costs = {label: {row.epoch: row.cost for row in model.history} for label, model in models.items()}
    return pictures.cost_curve(first.name, costs, curve)


def as_bytes(images: Tensor, shape: Shape) -> Tensor:
    """Return pixels in [0, 1] as the bytes nearest to them. [N, C, H, W] -> uint8 [N, H, W, C].

    Raises UsageError with the remedy if the images are of another type, range or layout.
    """
    channels, height, width = shape
    got, wanted = list(images.shape), f"[N, {channels}, {height}, {width}]"
    if got[1:] != [*shape] or not got[0]:
        channels_last = got[1:] == [height, width, channels]
        remedy = "; use images.permute(0, 3, 1, 2)" if channels_last else "; use images[None]" * (got == [*shape])
        raise UsageError(f"images: should be of shape {wanted} with N > 0, are {got}{remedy}")
    if not images.is_floating_point():
        raise UsageError(f"images: should be floats in [0, 1], are {images.dtype}; bytes become so by images / 255")
    low, high = (float(each) for each in images.aminmax())
    if not (low >= 0 and high <= 1):
        remedy = "; use images / 255" if low >= 0 and 1 < high <= 255 else ""
        raise UsageError(f"images: should be in [0, 1], are from {low:g} to {high:g}{remedy}")
    return (images.detach().float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _entry(name: str, spec: Experiment) -> Entry:
    """Return an entry for a run's spec. The published curve of a file that is not registered is not at hand."""
    if name in registry.names():
        return replace(registry.get(name), spec=spec)
    return Entry(name, replace(spec, reported=()), "", Path())
