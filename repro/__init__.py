"""repro: reruns published variational-autoencoder results, tracks every run and compares it with what was reported.

The names below are the Python interface, docs/python.md. They are imported when they are first used, so that
`import repro` and the command line do not wait for PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.api import (
        Data,
        Epoch,
        Model,
        build,
        experiment,
        load_data,
        load_run,
        picture,
        plot_costs,
        train,
    )

__all__ = [
    "Data", "Epoch", "Model", "build", "experiment", "load_data", "load_run", "picture", "plot_costs", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("repro.api"), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("repro-vae")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
