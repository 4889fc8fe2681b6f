"""What an experiment is: frozen, validated data, with no training code and no torch.

`experiment` has the parts of an experiment, `search_space` the ranges of a sweep, `registry` the experiments by name,
and `overrides` the changes that `--set` makes.
"""

from repro.spec.experiment import (
    DATASETS,
    VAE,
    Activation,
    Adam,
    Conv,
    Data,
    Dense,
    Experiment,
    Layer,
    MeanPool,
    Reported,
    Reshape,
    Shape,
    TConv,
    Training,
    checked,
    from_dict,
)
from repro.spec.registry import register
from repro.spec.search_space import Choice, Integers, LogUniform, Range, Space, Uniform

__all__ = [
    "DATASETS", "VAE", "Activation", "Adam", "Choice", "Conv", "Data", "Dense", "Experiment",
    "Integers", "Layer", "LogUniform", "MeanPool", "Range", "Reported", "Reshape", "Shape", "Space", "TConv",
    "Training", "Uniform", "checked", "from_dict", "register",
]  # fmt: skip
