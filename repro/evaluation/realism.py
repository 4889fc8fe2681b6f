"""Realism of generated digits, judged by a classifier of digits and by a classifier of real against generated."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro import images
from repro.data import Dataset
from repro.engine import to_batch
from repro.errors import UsageError
from repro.evaluation.batches import generated, posterior
from repro.measurement import Measurement, Row, Tell, mean_row, silent
from repro.model import VAE
from repro.rng import stream
from repro.training.loop import EVALUATION_BATCH

CLASSES = 10
SURE = 0.9


def realism(
    model: VAE, dataset: Dataset, samples: int = 10_000, epochs: int = 3, seed: int = 0, tell: Tell = silent
) -> Measurement:
    """Measure a classifier's confidence on generated digits, and how well a second one tells them from real digits.

    Samples and reconstructions are the means of p(x|z), rounded to bytes. Confidence is the largest class probability.
    The two-sample test is the one of Lopez-Paz and Oquab (2017), "Revisiting Classifier Two-Sample Tests": the share of
    held-out images, half of them samples and half training digits, that a classifier gets right; 0.5 is chance. Two
    further groups are given for comparison: reconstructions against test digits, and test digits against training
    digits, which have other writers.
    Raises UsageError if the data set has no labels.
    """
    if dataset.train_labels is None or dataset.test_labels is None:
        raise UsageError(f"measurement digits needs the labels of {dataset.name} beside its images: {dataset.origin}")
    train, test = to_batch(dataset.train), to_batch(dataset.test)
    classifier = trained(train, dataset.train_labels, CLASSES, epochs, seed, tell)
    z = torch.randn((samples, model.latent), generator=stream("digit samples", seed))
    # Real pixels are bytes: without rounding, a classifier could tell generated images by their fractions alone.
    latents = z, posterior(model, dataset.test)[0]
    drawn, copies = (generated(model, each).mul_(255).round_().div_(255) for each in latents)
    correct = (probabilities(classifier, test).argmax(1) == dataset.test_labels).double()
    rows = [mean_row("classifier_accuracy", correct, "share")]
    means = torch.stack([train[dataset.train_labels == digit].mean(0) for digit in range(CLASSES)])
    groups = {
        "test digits": test,
        "samples": drawn,
        "reconstructions": copies,
        "mean image": train.mean(0, keepdim=True),
        "class means": means,
    }
    chances = {group: probabilities(classifier, images) for group, images in groups.items()}
    for group, chance in chances.items():
        confidence = chance.max(1).values
        rows.append(mean_row("mean_confidence", confidence, "probability", group))
        rows.append(Row("median_confidence", float(np.median(confidence.numpy())), "probability", group))
        rows.append(mean_row("share_sure", confidence > SURE, f"share with confidence above {SURE}", group))
    shares = torch.bincount(chances["samples"].argmax(1), minlength=CLASSES).double() / len(drawn)
    rows += [Row("share_of_samples", float(share), "share", str(digit)) for digit, share in enumerate(shares)]
    entropy = float(torch.special.entr(shares).sum())
    rows.append(Row("entropy_of_samples_classes", entropy, "nats, ln 10 = 2.30 at most"))
    for group, real, other in (("", train, drawn), ("reconstructions", test, copies), ("test digits", train, test)):
        rows.append(told_apart(real[:samples], other[:samples], group, epochs, seed, tell))
    order = chances["samples"].max(1).values.argsort(descending=True)
    sheets = {"most_confident": order[:50], "least_confident": order.flip(0)[:50]}
    sheet = {f"samples_{name}": images.grid(drawn[chosen].numpy(), columns=10) for name, chosen in sheets.items()}
    return Measurement(rows, sheet)


def told_apart(
    real: Tensor, generated: Tensor, group: str = "", epochs: int = 3, seed: int = 0, tell: Tell = silent
) -> Row:
    """Train a classifier of real against generated images; return its accuracy on a fifth held out. [N, C, H, W] each.

    The longer of the two sets is cut, so that both have the same size.
    """
    count = min(len(real), len(generated))
    images, truth = torch.cat([real[:count], generated[:count]]), torch.arange(2).repeat_interleave(count)
    order = torch.randperm(2 * count, generator=stream("two samples", seed))
    kept, used = order[: 2 * count // 5], order[2 * count // 5 :]
    judge = trained(images[used], truth[used], 2, epochs, seed, tell)
    right = (probabilities(judge, images[kept]).argmax(1) == truth[kept]).double()
    return mean_row("real_or_generated_accuracy", right, "share", group)


def trained(images: Tensor, labels: Tensor, classes: int, epochs: int, seed: int, tell: Tell = silent) -> nn.Module:
    """Train a small convolutional classifier, by Adam at 1e-3 in batches of 100. [N, C, H, W] in [0, 1], int64 [N]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("classifier", seed, classes).initial_seed())
        classifier = _network(images.shape[1:], classes)
        optimiser = torch.optim.Adam(classifier.parameters(), lr=1e-3)
        for epoch in range(1, epochs + 1):
            order = torch.randperm(len(images))
            for chosen in torch.split(order, 100):
                optimiser.zero_grad()
                F.cross_entropy(classifier(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            tell(f"classifier of {classes} classes: epoch {epoch} of {epochs}")
    return classifier.eval()


@torch.no_grad()
def probabilities(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return class probabilities. [N, C, H, W] -> float64 [N, classes]."""
    return torch.cat([classifier(chunk).double().softmax(1) for chunk in torch.split(images, EVALUATION_BATCH)])


def _network(shape: torch.Size, classes: int) -> nn.Module:
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, classes),
    )
