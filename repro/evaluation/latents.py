"""Maps of the latent means, walks between images in latent space, and traversals of single latent dimensions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repro import images
from repro.data import Dataset
from repro.engine import to_batch
from repro.evaluation.batches import posterior
from repro.measurement import Measurement, Row
from repro.model import VAE
from repro.model.objective import kl_to_standard_normal
from repro.rng import stream

STEPS = 11  # pictures in a row
REACH = 3.0  # standard deviations of the prior that a traversal goes in either direction


@torch.no_grad()
def maps(model: VAE, dataset: Dataset, mapped: int = 5000, embedded: int = 2000, seed: int = 0) -> Measurement:
    """Map the latent means of test images to two dimensions, and draw walks, traversals, samples and reconstructions.

    The first `mapped` images are mapped by PCA, the first `embedded` of them by t-SNE, which is slow. A row's `x` is
    the index of the test image; its group is the image's class, or `-` if the data set has no labels.
    """
    mean, log_variance = posterior(model, dataset.test[:mapped])
    labels = ["-"] * len(mean) if dataset.test_labels is None else [str(int(each)) for each in dataset.test_labels]
    rows = []
    for name, points in {"pca": _pca(mean), "tsne": _tsne(mean[:embedded], seed)}.items():
        for axis in (0, 1):
            rows += [
                Row(f"latent_{name}_{axis + 1}", float(value), "-", labels[index], index)
                for index, value in enumerate(points[:, axis])
            ]
    z = torch.randn((100, model.latent), generator=stream("samples", seed))
    starts, ends = _pairs(dataset, mean, seed)
    originals = to_batch(dataset.test[: min(50, mapped)])
    pictures = {
        "samples": images.grid(model.generate(z).numpy(), columns=10),
        "originals_and_reconstructions": images.pairs(originals.numpy(), model.generate(mean[:50]).numpy(), columns=10),
        "walk": images.grid(model.generate(walk(starts, ends)).numpy(), columns=STEPS),
        "traversals": images.grid(model.generate(traversals(mean, log_variance)).numpy(), columns=STEPS),
    }
    return Measurement(rows, pictures)


def walk(starts: Tensor, ends: Tensor) -> Tensor:
    """Interpolate linearly from each start to its end in STEPS points. [R, D], [R, D] -> [R * STEPS, D]."""
    share = torch.linspace(0, 1, STEPS)[None, :, None]
    return ((1 - share) * starts[:, None] + share * ends[:, None]).flatten(0, 1)


def traversals(mean: Tensor, log_variance: Tensor, rows: int = 10) -> Tensor:
    """Vary one dimension at a time of the first image's mean, the dimensions with the highest KL first.

    [N, D], [N, D] -> [rows * STEPS, D].
    """
    dimensions = range(mean.shape[1])
    kl = torch.stack([kl_to_standard_normal(mean[:, [d]], log_variance[:, [d]]).mean() for d in dimensions])
    chosen = kl.argsort(descending=True)[:rows]
    moved = mean[0].repeat(len(chosen), STEPS, 1)
    for row, dimension in enumerate(chosen.tolist()):
        moved[row, :, dimension] = torch.linspace(-REACH, REACH, STEPS)
    return moved.flatten(0, 1)


def _pairs(dataset: Dataset, mean: Tensor, seed: int, rows: int = 8) -> tuple[Tensor, Tensor]:
    """Draw pairs of latent means, of different classes where labels are known. [N, D] -> [R, D], [R, D]."""
    order = torch.randperm(len(mean), generator=stream("walk", seed)).tolist()
    pairs = list(zip(order[::2], order[1::2], strict=False))
    if dataset.test_labels is not None:
        labels = dataset.test_labels
        pairs = [pair for pair in pairs if labels[pair[0]] != labels[pair[1]]]
    chosen = torch.tensor(pairs[:rows], dtype=torch.int64).view(-1, 2)
    return mean[chosen[:, 0]], mean[chosen[:, 1]]


def _pca(mean: Tensor) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA  # noqa: PLC0415 - takes a second, and the other measurements do without it

    points = PCA(min(2, mean.shape[1]), svd_solver="full").fit_transform(mean.double().numpy())
    flat: NDArray[np.float64] = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # a single latent dimension
    return flat


def _tsne(mean: Tensor, seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # noqa: PLC0415

    nearest = min(30.0, (len(mean) - 1) / 3)
    start = "pca" if mean.shape[1] > 1 else "random"
    points = TSNE(2, perplexity=nearest, init=start, random_state=seed).fit_transform(mean.double().numpy())
    return np.asarray(points, dtype=np.float64)
