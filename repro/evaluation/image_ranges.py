"""Training images named by their indices in the file of training images, as `evaluate --only` takes them."""

import re

import torch
from torch import Tensor

from repro.data import Dataset
from repro.errors import UsageError
from repro.spec import DATASETS

Ranges = tuple[tuple[int, int], ...]
"""First and last index of each range; both belong to the range."""


def parse(text: str) -> Ranges:
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


def select(ranges: Ranges, dataset: Dataset) -> Tensor:
    """Return a mask of the training images that the ranges name. -> bool [N].

    Indices count from 0 in the file of training images. The file also has the held-out images: MNIST's are its first,
    CIFAR-10's its last. Raises UsageError with every fault.
    """
    held_out = 0 if dataset.heldout is dataset.test else len(dataset.heldout)
    first = held_out if DATASETS[dataset.name].holdout_at == "start" else 0
    last = first + len(dataset.train) - 1
    where = f"before {first}" if first else f"after {last}"
    remark = f"; those {where} are held out" if held_out else ""
    named, faults = torch.zeros(len(dataset.train), dtype=torch.bool), []
    for start, end in ranges:
        if first <= start <= end <= last:
            named[start - first : end - first + 1] = True
        else:
            faults.append(f"--only {start}-{end}: training images have indices from {first} to {last}{remark}")
    if not faults and bool(named.all()):
        faults.append("--only: names all training images, and leaves none to compare them with")
    if faults:
        raise UsageError(*faults)
    return named
