"""Checkpoints: one safetensors file for each epoch, written whole or not at all, and checked when read.

A file holds the weights, the optimiser's state and, as metadata, the epoch, the seed, the spec and its signature, the
metrics of every epoch so far, and a SHA-256 over all of it. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from repro.errors import ReproError
from repro.spec import Experiment

KEPT = 2
_MODEL, _OPTIMISER = "model/", "optim/"


class CheckpointError(ReproError):
    """A checkpoint file cannot be used: it is damaged, or of another experiment."""


@dataclass(frozen=True)
class State:
    """The state of a run after `epoch` epochs. `history` holds the metrics of each of them."""

    epoch: int
    seed: int
    spec: dict[str, Any]
    signature: str
    history: list[dict[str, float]]
    tensors: dict[str, Tensor]


def snapshot(
    model: nn.Module, optimiser: dict[str, Tensor], spec: Experiment, seed: int, history: list[dict[str, float]]
) -> State:
    """Return the state after the epochs in `history`; it shares memory with the model and the optimiser."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    tensors |= {_OPTIMISER + name: tensor for name, tensor in optimiser.items()}
    return State(len(history), seed, spec.to_dict(), spec.signature, history, tensors)


def restore(state: State, model: nn.Module) -> dict[str, Tensor]:
    """Put a state's weights back into a model of the same spec; return the optimiser's state."""
    parts = [
        {name.removeprefix(prefix): tensor for name, tensor in state.tensors.items() if name.startswith(prefix)}
        for prefix in (_MODEL, _OPTIMISER)
    ]
    model.load_state_dict(parts[0])
    return parts[1]


def save_state(state: State, directory: Path) -> Path:
    """Write `epoch-NNNNNN.safetensors` by atomic replace, keep the newest two, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"epoch-{state.epoch:06d}.safetensors"
    write_tensors(path, state.tensors, _metadata(state))
    for old in _files(directory)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_state(path: Path, signature: str | None = None) -> State:
    """Read a checkpoint. Raises CheckpointError if it is damaged or of another signature than the one given."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        state = State(
            epoch=int(metadata["epoch"]),
            seed=int(metadata["seed"]),
            spec=json.loads(metadata["spec"]),
            signature=metadata["signature"],
            history=json.loads(metadata["history"]),
            tensors=tensors,
        )
        checksum = metadata["sha256"]
    except (SafetensorError, OSError, KeyError, ValueError, struct.error, RecursionError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from None
    if _metadata(state)["sha256"] != checksum:
        raise CheckpointError(f"checkpoint {path} is damaged: its content does not match its checksum")
    if signature is not None and state.signature != signature:
        raise CheckpointError(f"checkpoint {path} is of spec {state.signature}, not of {signature}")
    return state


def newest(directory: Path, signature: str, seed: int) -> tuple[State | None, list[str]]:
    """Return the newest usable checkpoint of a spec and a seed in a directory, and the faults of newer ones."""
    faults: list[str] = []
    for path in reversed(_files(directory)):
        try:
            state = load_state(path, signature)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if state.seed == seed:
            return state, faults
        faults.append(f"checkpoint {path} is of seed {state.seed}, not of {seed}")
    return None, faults


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that appears complete or not at all, also after a power cut."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def digest(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _metadata(state: State) -> dict[str, str]:
    fields = {
        "epoch": str(state.epoch),
        "seed": str(state.seed),
        "spec": json.dumps(state.spec, sort_keys=True),
        "signature": state.signature,
        "history": json.dumps(state.history),
    }
    content = json.dumps(fields, sort_keys=True) + digest(state.tensors)
    return {**fields, "sha256": hashlib.sha256(content.encode()).hexdigest()}


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("epoch-*.safetensors"))
