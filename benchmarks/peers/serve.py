"""Run one peer: check that it can be imported, or train as many steps as standard input asks for.

    cd path/to/benchmarks
    PYTHON -m peers.serve keras_tf --check
    PYTHON -m peers.serve keras_tf < requests

The first line of standard input is a `workload.Request` as JSON. Each later line is a number of steps to train. The
answer to each is a line of JSON. The process ends with its input, and stays warm until then.
"""

import importlib
import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3


def main(name: str, check: bool) -> None:
    request = "" if check else sys.stdin.readline()
    if request and hasattr(os, "sched_setaffinity"):  # before imports: libraries size thread pools by what they find
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: json.loads(request)["threads"]])
    try:
        workload, module = (importlib.import_module(f".{each}", __package__) for each in ("workload", name))
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_INSTALLED)
    if check:
        answer({"versions": module.VERSIONS})
    else:
        serve(workload.from_json(request), workload, module)


def serve(request: Any, workload: Any, module: Any) -> None:
    peer = module.Peer(request, workload.synthetic_images(request.workload, request.seed))
    if request.warmup:
        peer.run(request.warmup)
    facts = {"versions": module.VERSIONS, "parameters": peer.parameters} | getattr(peer, "facts", {})
    for line in sys.stdin:
        steps = int(line.strip())
        wall, processor = time.perf_counter(), time.process_time()
        costs = peer.run(steps)
        taken = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        trained = {"cost": math.fsum(costs) / len(costs), "peak_rss_mib": peak_memory()}
        answer(facts | {"steps": steps} | taken | trained)


def peak_memory() -> float:
    """Return the largest resident set that this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it forked
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def answer(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], check="--check" in sys.argv[2:])
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
