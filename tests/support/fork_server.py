"""Run commands in forks of a process that has imported everything, some of them killed at a chosen change of a file.

It is started as a program with `kill_at.c` preloaded; it reads one request a line and answers with one line, see
`killing`.
"""

import ctypes
import fcntl
import gc
import json
import os
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

CONTEXT = get_context("forkserver")  # multiprocessing's own server, which the children of the commands are forks of


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Fork for each of the commands; wait until they and their children are gone."""
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
            printed = output.read().decode()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _hold(state, fcntl.LOCK_EX).close()  # until the last of its children is gone
        ended.append({"code": code, "printed": printed, "instants": struct.unpack("4l", state.read_bytes())[0]})
    import_again(state.with_suffix(".modules"))
    return ended


def import_again(names: Path) -> None:
    """Import what the last command and its children have imported, so that the next ones need not."""
    before = len(sys.modules)
    import_all(names.read_text(encoding="utf-8").split() if names.exists() else ())
    names.unlink(missing_ok=True)
    if len(sys.modules) > before:
        serve_children()


def import_all(names: Iterable[str]) -> None:
    for name in names:
        if name not in sys.modules and not name.startswith(("_repro", "__")):
            with suppress(Exception):  # not every module can be imported by its name
                __import__(name)


def serve_children() -> None:
    """Start multiprocessing's server again, with all modules that this process has."""
    forkserver._forkserver._stop()
    Path(os.environ["TO_IMPORT"]).write_text("\n".join(sys.modules), encoding="utf-8")
    CONTEXT.set_forkserver_preload(["fork_server"])  # this module
    forkserver.ensure_running()


def note_modules(state: str, before: set[str]) -> None:
    with Path(state).with_suffix(".modules").open("a", encoding="utf-8") as names:
        names.writelines(f"{name}\n" for name in sys.modules if name not in before)  # in the order of their imports


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
        from repro.runs import parallel  # noqa: PLC0415

        forkserver._forkserver.ensure_running = lambda: None  # it does, though not as a child of this process
        parallel.get_context = lambda _: CONTEXT
        parallel._child_main = partial(grandchild, os.getpid(), str(Path.cwd()), dict(os.environ))
        command()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        note_modules(request["state"], before)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def grandchild(group: int, folder: str, variables: dict[str, str], *arguments: Any) -> None:
    """Do what a child process of a command does, in the command's process group and folder."""
    from repro.runs.parallel import _child_main  # noqa: PLC0415 - in a process where it is the original

    held = _hold(Path(variables["KILL_AT_STATE"]), fcntl.LOCK_SH)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    with suppress(PermissionError):  # the command was killed; this process is about to notice
        os.setpgid(0, group)
    ctypes.CDLL(None).arm(os.environb[b"KILL_AT_STATE"], os.environb[b"KILL_AT_FOLDER"])
    before = set(sys.modules)
    try:
        _child_main(*arguments)
    finally:
        note_modules(variables["KILL_AT_STATE"], before)
        held.close()


def _hold(state: Path, how: int) -> Any:
    file = state.with_suffix(".lock").open("w")
    fcntl.flock(file, how)
    return file


if __name__ == "fork_server":  # in multiprocessing's server
    import_all(Path(os.environ["TO_IMPORT"]).read_text(encoding="utf-8").split())

if __name__ == "__main__":
    import repro.runs.bundle
    import repro.sweep.run  # noqa: F401 - for the commands

    serve_children()
    main()
