"""Where a result comes from: commit, versions, machine and command."""

import io
import os
import platform
import shlex
import subprocess
import sys
import tarfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from repro.text import without_password

SOURCE = ("repro", "experiments", "analysis", "benchmarks", "pyproject.toml", "constraints.txt")
"""Paths of the source code in a checkout."""
PACKAGES = ("torch", "torchvision", "mlflow", "optuna", "numpy")


def describe(gpu: str) -> dict[str, str]:
    """Return tags with the commit, the versions, the hardware and the command of this process."""
    tags = {
        "repro.command": command(),
        "repro.python": platform.python_version(),
        "repro.platform": platform.platform(),
        "repro.cpu": cpu(),
        "repro.cores": str(cores()),
        "repro.memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}",
        "repro.gpu": gpu,
        "mlflow.source.name": "python -m repro",
        "mlflow.source.type": "LOCAL",
    }
    return tags | {f"repro.version.{package}": version(package) for package in PACKAGES} | git()


def command() -> str:
    """Return the command line of this process, without passwords."""
    return shlex.join(["python", "-m", "repro", *map(without_password, sys.argv[1:])])


def git() -> dict[str, str]:
    """Return tags with the commit of this checkout and whether it has changes, or `unknown` outside of a checkout."""
    root, commit, dirty = Path(__file__).resolve().parents[1], "unknown", "unknown"
    if (root / ".git").exists():  # not that of a repository around an installed package
        with suppress(OSError, subprocess.SubprocessError):
            commit, dirty = _git(root, "rev-parse", "HEAD"), str(bool(_git(root, "status", "--porcelain"))).lower()
    return {"mlflow.source.git.commit": commit, "repro.git.dirty": dirty}


def last_commit(file: Path) -> dict[str, str]:
    """Return tags with the last commit that changed a file, and its date (ISO 8601).

    They are `unknown` outside of a checkout, and `uncommitted` if the file has changed since.
    """
    tags = ("repro.plan.commit", "repro.plan.date")
    try:
        if _git(file.parent, "status", "--porcelain", "--", file.name):
            return dict.fromkeys(tags, "uncommitted")
        found = _git(file.parent, "log", "-1", "--format=%H %cI", "--", file.name).split()
    except (OSError, subprocess.SubprocessError):
        found = []
    return dict(zip(tags, found, strict=True)) if found else dict.fromkeys(tags, "unknown")


def source(commit: str) -> dict[str, bytes]:
    """Return the source files of a commit by path; none if the commit is not in this checkout."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "archive", "--format=tar", commit, "--", *SOURCE]
    try:
        archive = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        found = {member.name: files.extractfile(member) for member in files if member.isfile()}
        return {name: content.read() for name, content in found.items() if content}


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine()


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
