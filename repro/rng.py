"""Random numbers. Every one of a run comes from a stream that depends only on seed, purpose and epoch."""

import hashlib

import torch


def stream(purpose: str, seed: int, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose of one epoch of one seed. It does not depend on other streams."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
