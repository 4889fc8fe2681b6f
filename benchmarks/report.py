"""Measurements as JSON and as tables."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import psutil
from repro.benchmarks import flops
from repro.benchmarks.driver import (
    ENGINE,
    FLOOR,
    ONE_THREAD,
    OURS,
    PEERS,
    Options,
    Turns,
    available,
    measure,
    middle,
    paired,
    plan_of,
)
from repro.benchmarks.peers.plan import Plan, Request

from repro import provenance, registry
from repro.errors import UsageError

EXPERIMENTS = ("mnist_fc", "mnist_conv", "cifar_conv")
BUSY = 0.5  # load for each core used, above which the machine is doing other work
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
    faults = available(options, note)
    for plan in map(plan_of, dict.fromkeys(names)):
        request = Request(plan, warmup=options.warmup, precision=options.precision)
        done = {each: measure(replace(request, threads=each), options, faults, note) for each in threads}
        operations = flops.of_step(plan)
        found.setdefault("setups", {})[plan.experiment] = {
            "batch_size": plan.batch_size,
            "steps_per_epoch": plan.steps_per_epoch,
            "dense_flop_per_step": operations.dense,
            "conv_flop_per_step": operations.conv,
            "floor_covers": operations.covered,
            "threads": {str(each): session(plan, turns) for each, turns in done.items()},
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


def session(plan: Plan, turns: dict[str, Turns]) -> Json:
    """Return the figures of one experiment on one number of threads; medians over rounds."""
    engine, floor, operations = turns[ENGINE], turns[FLOOR], flops.of_step(plan)
    above = paired(engine.times, floor.times)
    return {
        "engine": _trained(plan, engine)
        | {key: engine.last[key] for key in ("engine", "products", "precision")}
        | {"gflop_per_second": (operations.dense + operations.conv) / middle(engine.times) / 1e9},
        "floor": {
            "step_ms": middle(floor.times) * 1e3,
            "gflop_per_second": operations.dense / middle(floor.times) / 1e9,
            "engine_over_floor": middle(above),
            "share_reached": 1 / middle(above),
        },
        "speed_up_over_one_thread": _speed_up(turns),
        **{name: _beside(plan, turns[name], engine) for name in OURS},
        "peers": {peer: _beside(plan, turns[peer], engine) for peer in PEERS},
    }


def _trained(plan: Plan, turns: Turns) -> Json:
    step = middle(turns.times)
    return {
        "images_per_second": plan.batch_size / step,
        "seconds_per_epoch": step * plan.steps_per_epoch,
        "step_ms": step * 1e3,
        "step_ms_by_round": [time * 1e3 for time in turns.times],
        "cores_busy": middle([answer.values["cpu_seconds"] / answer.seconds for answer in turns.answers]),
        "peak_rss_mib": turns.last["peak_rss_mib"],
        "versions": turns.last["versions"],
    }


def _beside(plan: Plan, turns: Turns, engine: Turns) -> Json:
    if turns.fault:
        return {"status": turns.fault.status, "message": str(turns.fault)}
    ratios = paired(turns.times, engine.times)
    ratio = {"time_over_engine": middle(ratios), "time_over_engine_range": [min(ratios), max(ratios)]}
    return {"status": "measured"} | ratio | _trained(plan, turns)


def _speed_up(turns: dict[str, Turns]) -> float | None:
    return middle(paired(turns[ONE_THREAD].times, turns[ENGINE].times)) if ONE_THREAD in turns else None


def headline(found: Json) -> str:
    """Return the machine, and a warning if it was busy."""
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
    engine = {ENGINE: result[ENGINE] | {"time_over_engine": 1.0}}
    entries = engine | {name: result[name] for name in OURS} | result["peers"]
    return [
        {
            "": name,
            "images/s": _rounded(entry.get("images_per_second"), 0),
            "s/epoch": _rounded(entry.get("seconds_per_epoch"), 2),
            "ms/step": _rounded(entry.get("step_ms"), 2),
            "peak MiB": _rounded(entry.get("peak_rss_mib"), 0),
            "cores busy": _rounded(entry.get("cores_busy"), 2),
            "time over engine": _rounded(entry.get("time_over_engine"), 2),
            "with": entry.get("message") or ", ".join(map(" ".join, entry["versions"].items())),
        }
        for name, entry in entries.items()
    ]


def _remarks(setup: Json, result: Json) -> str:
    engine, floor, operations = result["engine"], result["floor"], setup["dense_flop_per_step"]
    total = (operations + setup["conv_flop_per_step"]) / 1e9
    text = (
        f"{engine['engine']} step, {total:.3f} GFLOP of products each, {engine['gflop_per_second']:.0f} GFLOP/s\n"
        f"floor ({setup['floor_covers']}): {operations / 1e9:.3f} GFLOP by {engine['products']} at "
        f"{floor['gflop_per_second']:.0f} GFLOP/s take {floor['step_ms']:.2f} ms, {floor['share_reached']:.0%} of the "
        f"step's time; the step takes {floor['engine_over_floor']:.2f} times as long"
    )
    speed_up = result["speed_up_over_one_thread"]
    return text if speed_up is None else f"{text}\nspeed-up over one thread: {speed_up:.2f}"


def _rounded(value: float | None, digits: int) -> float | int | None:
    return value if value is None else round(value, digits) if digits else round(value)
