"""The VAE as PyTorch modules, built from the layers that an experiment lists."""

from repro.model.vae import VAE, Generator, build, check, count_parameters

__all__ = ["VAE", "Generator", "build", "check", "count_parameters"]
