"""Every random number of a run comes from a named stream that depends on the seed, a purpose and an epoch alone."""

import hashlib

import torch


def stream(purpose: str, seed: int, epoch: int = 0) -> torch.Generator:
    """A CPU generator for one purpose of one epoch of one seed. The same three give the same numbers, in any order."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
