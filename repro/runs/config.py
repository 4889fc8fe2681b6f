"""RunConfig: everything that decides what one run computes, and where its data are read from."""

import logging
import sys
from dataclasses import dataclass, fields, replace
from functools import cached_property
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
from pydantic import TypeAdapter
from rich.filesize import decimal

from repro import data, model
from repro.data import Choice, Dataset
from repro.engine import Engine, Precision, Settings, resolve
from repro.errors import UsageError
from repro.spec import Experiment, checked, registry
from repro.text import plural

Device = Literal["cpu", "cuda"]
LONGEST_VALUE = 20  # characters of a value in the name of a run
HERE = "./"  # in the JSON before the path of a user's file in the current directory, which has `mlruns`
SMALL = 0.01  # numbers below are written as 3e-4


@dataclass(frozen=True)
class RunConfig:
    """One run: an experiment after overrides, its seed, its data, and how its steps are computed.

    A run's directory holds it as `run.json`; `resume` and `verify` read it there, and a child process is given it.
    """

    experiment: str  # a registered name, the absolute path of a user's file, or the name in a bundle
    spec: Experiment  # with the assignments applied
    seed: int = 0
    assignments: tuple[str, ...] = ()  # of --set and --epochs
    data: Choice = "auto"
    data_dir: Path | None = None
    fingerprint: str = ""  # of the data set; "" until it is loaded
    device: Device = "cpu"
    threads: int = 1
    precision: Precision = "float32"
    engine: Engine = "auto"
    products: str = ""  # the library of the engine's matrix products; "" where there is no choice
    trial: bool = False  # of a sweep: it does not look at the test images and draws no pictures

    @cached_property
    def entry(self) -> registry.Entry:
        """The registered experiment, or what the run recorded of one that only another machine has a file of.

        Raises UsageError if a file is not there any more.
        """
        if registry.is_file(self.experiment) or self.experiment in registry.names():
            return registry.get(self.experiment)
        return registry.Entry(self.experiment, self.spec, "", Path(self.experiment))

    @property
    def settings(self) -> Settings:
        return Settings(self.device, self.threads, self.precision, self.engine, self.products)

    def resolved(self) -> "RunConfig":
        """Return the configuration with the engine and the products that this machine uses for it."""
        settings = resolve(self.spec, self.settings)
        return replace(self, engine=settings.engine, products=settings.products)

    def changes(self, data_status: str) -> tuple[str, ...]:
        """Return in a few words each what sets the run apart from others of its experiment, such as `lr 3e-4`."""
        found = [_change(key, new) for key, (_, new) in self.entry.spec.differences(self.spec).items()]
        found += [self.precision] if self.precision != "float32" else []
        return (*found, *(["stand-in"] if data_status == "stand-in" else []))

    def load_data(self) -> Dataset:
        return load_data(self.spec, self.data, self.data_dir)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; `from_json` is the inverse, also where this directory has moved."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        file = Path(self.experiment)
        if file.is_absolute() and file.is_relative_to(Path.cwd()):
            values["experiment"] = f"{HERE}{file.relative_to(Path.cwd()).as_posix()}"
        return values | {"spec": self.spec.to_dict(), "data_dir": str(self.data_dir) if self.data_dir else None}

    @classmethod
    def from_json(cls, values: Any) -> "RunConfig":
        """Read the value of `to_json`, of this or an earlier version. Raises UsageError with every fault."""
        config = checked(lambda: TypeAdapter(cls).validate_python(values))
        name = config.experiment
        return replace(config, experiment=str(Path.cwd() / name)) if name.startswith(HERE) else config


def _change(key: str, value: str) -> str:
    """Return a changed setting in a few words; a long value, such as that of layers, is left out."""
    if key == "training.epochs":
        return plural(int(value), "epoch")
    last = "data" if key == "data.name" else key.rpartition(".")[2].replace("_", " ")
    if len(value) > LONGEST_VALUE:
        return f"other {last}"
    try:
        number = float(value)
    except ValueError:
        return f"{last} {value}"
    digits, _, exponent = f"{number:e}".partition("e")
    return f"{last} {float(digits):g}e{int(exponent)}" if 0 < abs(number) < SMALL else f"{last} {value}"


def pick_device(name: str) -> Device:
    """Return the device to compute on for `auto`, `cpu` or `cuda`. Raises UsageError if there is no GPU to use."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch sees no usable NVIDIA GPU here; use --device cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def pick_precision(precision: Precision, device: Device) -> Precision:
    """Return the precision. Raises UsageError for mixed precision on a processor without products in bfloat16."""
    if precision == "mixed":
        able = (
            torch.cuda.is_bf16_supported()
            if device == "cuda"
            else any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
        )
        if not able:
            raise UsageError(
                "--precision mixed: this processor has no products in bfloat16 (on x86, AVX-512 BF16 or AMX), so that "
                "nothing would be gained; leave --precision out"
            )
    return precision


def load_data(spec: Experiment, choice: Choice, data_dir: Path | None) -> Dataset:
    """Check that the model fits, also in memory, and that a batch does; then load the data set.

    If it is a stand-in, print on stderr where the real data were looked for. Raises UsageError and DataError.
    """
    model.check(spec.model, spec.data.shape)
    require_memory(spec)
    log, searched = logging.getLogger("repro.data"), BufferingHandler(capacity=100)
    log.addHandler(searched)
    log.setLevel(logging.INFO)
    try:
        dataset = data.load(spec.data, choice, data_dir)
    finally:
        log.removeHandler(searched)
    for record in searched.buffer if dataset.status == "stand-in" else ():
        print(f"not found: {record.getMessage()}", file=sys.stderr)
    require_a_batch(spec, len(dataset.train))
    return dataset


def require_memory(spec: Experiment) -> None:
    """Raise UsageError if a training step needs more memory than this machine has free."""
    needed, free = model.memory(spec), psutil.virtual_memory().available
    if needed > free:
        parts = f"{model.count_parameters(spec):,} parameters and batches of {spec.training.batch_size}"
        raise UsageError(
            f"the model needs {decimal(needed)} of memory at least, for {parts}, and {decimal(free)} are free: "
            "make its layers or training.batch_size smaller"
        )


def require_a_batch(spec: Experiment, images: int) -> None:
    """Raise UsageError if there are fewer training images than a batch has."""
    batch = spec.training.batch_size
    if batch > images:
        raise UsageError(f"training.batch_size={batch}: should be at most {images}, the number of training images")


def require_same_data(run_id: str, fingerprint: str, dataset: Dataset) -> None:
    """Raise UsageError if a run was trained on a data set with another fingerprint."""
    if dataset.fingerprint != fingerprint:
        raise UsageError(
            f"run {run_id} was trained on other data (fingerprint {fingerprint[:12]}, here is "
            f"{dataset.fingerprint[:12]}: {dataset.origin}); name the directory it used with --data-dir"
        )
