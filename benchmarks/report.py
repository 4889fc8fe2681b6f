"""Measurements of speed as JSON and as tables."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from repro.benchmarks import driver
from repro.benchmarks.driver import Options, Turns
from repro.benchmarks.peers.workload import Request, Workload

from repro import provenance, registry
from repro.errors import UsageError

EXPERIMENTS = ("mnist_fc", "mnist_conv", "cifar_conv")
BUSY = 0.5  # load for each core used, above which the machine is busy with other work
COLUMNS: dict[str, tuple[str, int | None]] = {
    "images/s": ("images_per_second", None),
    "s/epoch": ("seconds_per_epoch", 2),
    "ms/step": ("step_ms", 2),
    "peak MiB": ("peak_rss_mib", None),
    "cores busy": ("cores_busy", 2),
    "time over engine": ("time_over_engine", 2),
}
"""By column of the printed tables: the key of its number, and its decimals."""
Json = dict[str, Any]


def bench(names: Sequence[str], threads: Sequence[int], options: Options, note: Callable[[str], None]) -> Json:
    """Measure experiments, all if none is named, each with several numbers of threads.

    Raises UsageError for what cannot be measured, ReproError if this project's own step fails.
    """
    names = [registry.get(name).name for name in names] or EXPERIMENTS
    cores = provenance.cores()
    threads = sorted(set(threads)) or list(range(1, min(cores, 2) + 1))
    wrong = [f"--threads {each}: this process may use {cores}" for each in threads if not 1 <= each <= cores]
    wrong += [f"{name}: bench has peers for {', '.join(EXPERIMENTS)} only" for name in names if name not in EXPERIMENTS]
    if options.peer_python and not os.access(options.peer_python, os.X_OK):
        wrong.append(f"--peer-python {options.peer_python}: is not a program")
    if wrong:
        raise UsageError(*wrong)
    found: Json = {"machine": machine(max(threads)), "precision": options.precision, "rounds": options.rounds}
    faults = driver.available(options, note)
    for workload in map(driver.workload_of, dict.fromkeys(names)):
        request = Request(workload, warmup=options.warmup, precision=options.precision)
        done = {each: driver.measure(replace(request, threads=each), options, faults, note) for each in threads}
        found.setdefault("setups", {})[workload.experiment] = {
            "batch_size": workload.batch_size,
            "steps_per_epoch": workload.steps_per_epoch,
            "dense_flop_per_step": workload.flop("dense"),
            "conv_flop_per_step": workload.flop("conv", "tconv"),
            "threads": {str(each): session(workload, turns) for each, turns in done.items()},
        }
    return found


def machine(threads: int) -> Json:
    """Describe the machine, and whether it was busy with other work."""
    load = os.getloadavg()
    return {
        "cpu": provenance.cpu(),
        "cores": provenance.cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "load_average": load,
        "busy": load[0] > BUSY * threads,
    }


def session(workload: Workload, turns: dict[str, Turns]) -> Json:
    """Return the figures of one experiment on one number of threads; medians over rounds."""
    engine, floor, one_thread = turns[driver.ENGINE], turns[driver.FLOOR], turns.get(driver.ONE_THREAD)
    above = _median(engine.times / floor.times)
    return {
        "engine": _trained(workload, engine)
        | {key: engine.answers[-1][key] for key in ("engine", "products", "precision")}
        | {"gflop_per_second": workload.flop("dense", "conv", "tconv") / _median(engine.times) / 1e9},
        "floor": {
            "step_ms": _median(floor.times) * 1e3,
            "gflop_per_second": workload.flop("dense", "conv", "tconv") / _median(floor.times) / 1e9,
            "engine_over_floor": above,
            "share_reached": 1 / above,
            "primitives": floor.answers[-1]["primitives"],
        },
        "speed_up_over_one_thread": _median(one_thread.times / engine.times) if one_thread else None,
        **{name: _beside(workload, turns[name], engine) for name in driver.OURS},
        "peers": {peer: _beside(workload, turns[peer], engine) for peer in driver.PEERS},
    }


def _trained(workload: Workload, turns: Turns) -> Json:
    step = _median(turns.times)
    return {
        "images_per_second": workload.batch_size / step,
        "seconds_per_epoch": step * workload.steps_per_epoch,
        "step_ms": step * 1e3,
        "step_ms_by_round": (turns.times * 1e3).tolist(),
        "cores_busy": _median(turns.each("cpu_seconds") / turns.each("seconds")),
        "peak_rss_mib": turns.answers[-1]["peak_rss_mib"],
        "versions": turns.answers[-1]["versions"],
    }


def _beside(workload: Workload, turns: Turns, engine: Turns) -> Json:
    if turns.fault:
        return {"status": turns.fault.status, "message": str(turns.fault)}
    ratios = turns.times / engine.times
    ratio = {"time_over_engine": _median(ratios), "time_over_engine_range": [float(ratios.min()), float(ratios.max())]}
    return {"status": "measured"} | ratio | _trained(workload, turns)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


def headline(found: Json) -> str:
    here = found["machine"]
    load = ", ".join(f"{each:.2f}" for each in here["load_average"])
    text = (
        f"{here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB; Python {here['python']}, "
        f"PyTorch {here['torch']}; load average {load}\n"
        f"precision {found['precision']}, medians of {found['rounds']} rounds"
    )
    warning = "\nWARNING: the machine was busy with other work at the start, so these ratios mean little"
    return text + warning if here["busy"] else text


def tables(found: Json) -> Iterator[tuple[str, list[Json], str]]:
    """Yield a title, rows and remarks for each experiment and number of threads."""
    for name, setup in found["setups"].items():
        for threads, result in setup["threads"].items():
            title = f"{name}, threads {threads}, batch {setup['batch_size']}, {setup['steps_per_epoch']} steps an epoch"
            yield title, _rows(result), _remarks(setup, result)


def _rows(result: Json) -> list[Json]:
    engine = {driver.ENGINE: result[driver.ENGINE] | {"time_over_engine": 1.0}}
    entries = engine | {name: result[name] for name in driver.OURS} | result["peers"]
    rows = []
    for name, entry in entries.items():
        numbers = {head: round(entry[key], digits) if key in entry else None for head, (key, digits) in COLUMNS.items()}
        rows.append({"": name} | numbers)
        rows[-1]["with"] = entry.get("message") or ", ".join(map(" ".join, entry["versions"].items()))
    return rows


def _remarks(setup: Json, result: Json) -> str:
    engine, floor = result["engine"], result["floor"]
    total = (setup["dense_flop_per_step"] + setup["conv_flop_per_step"]) / 1e9
    text = (
        f"{engine['engine']} step, {total:.3f} GFLOP of products each, {engine['gflop_per_second']:.0f} GFLOP/s\n"
        f"floor: these products by the fastest primitives and the memory traffic of Adam take {floor['step_ms']:.2f} "
        f"ms ({floor['gflop_per_second']:.0f} GFLOP/s), {floor['share_reached']:.0%} of the step's time; the step "
        f"takes {floor['engine_over_floor']:.2f} times as long"
    )
    speed_up = result["speed_up_over_one_thread"]
    return text if speed_up is None else f"{text}\nspeed-up over one thread: {speed_up:.2f}"
