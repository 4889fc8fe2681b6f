"""Run commands in forks of a process that has imported everything, some of them killed at a chosen change of a file.

It is started as a program with `kill_at.c` preloaded; it reads one request a line and answers with one line, see
`killing`.
"""

import ctypes
import gc
import json
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Fork for each of the commands; wait until all their processes are gone."""
    state = Path(request["state"])
    state.write_bytes(struct.pack("4l", 0, request["limit"], request["failing"], request["error"]))
    gc.freeze()  # the children's collectors need not look at what was imported
    running = []
    for arguments in request["commands"]:
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            child(arguments, request, theirs)
        os.close(theirs)
        running.append((pid, ours))
    ended = []
    for pid, pipe in running:
        with open(pipe, "rb") as output:  # noqa: PTH123 - it is a descriptor
            printed = output.read().decode()  # until the last of its processes is gone
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        ended.append({"code": code, "printed": printed, "instants": struct.unpack("4l", state.read_bytes())[0]})
    import_again(state.with_suffix(".modules"))
    return ended


def import_again(names: Path) -> None:
    """Import what the last command has imported, so that the next one need not."""
    for name in names.read_text(encoding="utf-8").split() if names.exists() else ():
        if name not in sys.modules and not name.startswith(("_repro", "__")):
            with suppress(Exception):  # not every module can be imported by its name
                __import__(name)
    names.unlink(missing_ok=True)


def child(arguments: list[str], request: dict[str, Any], output: int) -> None:
    """Run the command in a process group of its own, and end with its exit code."""
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    os.chdir(request["folder"])
    for name in request["without"]:
        os.environ.pop(name, None)
    os.environ |= {"KILL_AT_STATE": request["state"], "KILL_AT_FOLDER": str(Path.cwd())}  # for its children
    sys.argv = ["repro", *arguments]
    before, code = set(sys.modules), 1
    ctypes.CDLL(None).arm(os.environb[b"KILL_AT_STATE"], os.environb[b"KILL_AT_FOLDER"])
    try:
        from repro.__main__ import main as command  # noqa: PLC0415 - as the command does

        command()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        names = Path(request["state"]).with_suffix(".modules")
        names.write_text("\n".join(sys.modules.keys() - before), encoding="utf-8")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    import repro.runs.bundle
    import repro.sweep.run  # noqa: F401 - for the children

    main()
