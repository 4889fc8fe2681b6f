"""The VAE as PyTorch modules, built from the layers of an experiment; and its objective."""

from repro.model.vae import VAE, Generator, build, check, count_parameters, memory

__all__ = ["VAE", "Generator", "build", "check", "count_parameters", "memory"]
