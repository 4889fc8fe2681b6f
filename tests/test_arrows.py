"""Which package may import which. docs/architecture.md explains the arrows that are checked here."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EVERYWHERE = {"errors", "text", "names"}
MAY_IMPORT = {
    "errors": set(),
    "text": set(),
    "names": set(),
    "terminal": set(),
    "signals": set(),
    "provenance": set(),
    "rng": set(),
    "measurement": set(),
    "spec": set(),
    "registry": {"spec"},
    "experiments": {"spec", "registry"},
    "images": {"spec"},
    "data": {"spec"},
    "model": {"spec", "rng"},
    "engine": {"spec", "model"},
    "training": {"spec", "rng", "data", "model", "engine"},
    "evaluation": {"spec", "rng", "measurement", "images", "data", "model", "engine", "training"},
    "tracking": {"spec", "measurement", "data"},
    "runs": {
        "spec", "rng", "images", "provenance", "signals", "terminal",
        "data", "model", "engine", "training", "evaluation", "tracking",
    },
    "api": {
        "spec", "rng", "images", "provenance", "data", "model", "engine", "training", "evaluation", "runs",
    },
    "sweep": {"spec", "registry", "rng", "signals", "terminal", "data", "tracking", "runs"},
    "analysis": {"spec", "registry", "images", "tracking"},
    "benchmarks": {
        "spec", "registry", "rng", "provenance", "terminal",
        "model", "engine", "training", "runs", "sweep", "analysis",
    },
    "cli": {
        "spec", "registry", "measurement", "provenance", "signals", "terminal",
        "data", "model", "evaluation", "tracking", "runs", "sweep", "analysis", "benchmarks",
    },
    "__main__": {"cli"},
    "__init__": {"api"},
}  # fmt: skip
INSIDE_ANALYSIS = {
    "columns": set(),
    "tables": {"columns"},
    "verdicts": {"tables"},
    "curves": {"tables", "verdicts"},
    "sweeps": {"columns", "tables"},
    "claims": {"tables", "verdicts", "curves"},
    "machines": {"tables", "verdicts"},
    "paired": {"tables", "curves"},
    "variants": {"tables", "curves", "claims", "paired"},
    "check": {"columns", "tables", "curves", "claims", "variants"},
    "plots": {"curves"},
    "report": {"tables", "verdicts", "curves", "sweeps", "claims", "variants", "plots"},
    "__init__": set(),
}
MOST_FLOORS = 11


@cache
def imported(file: Path, package: str) -> set[str]:
    """The first names below `package` that a file imports, anywhere in it."""
    modules = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    below = [module.removeprefix(f"{package}.") for module in modules if module.startswith(f"{package}.")]
    return {module.split(".")[0] for module in below}


def files_by_room() -> list[tuple[str, Path]]:
    """Every source file with the package or root module that it belongs to."""
    found = []
    for top in ("repro", "experiments", "analysis", "benchmarks"):
        for file in sorted((ROOT / top).rglob("*.py")):
            found.append((file.relative_to(ROOT / top).parts[0].removesuffix(".py") if top == "repro" else top, file))
    return found


def imports_by_room() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for room, file in files_by_room():
        rooms.setdefault(room, set()).update(imported(file, "repro") - {room})
    return rooms


@pytest.mark.parametrize(("room", "file"), files_by_room(), ids=lambda value: getattr(value, "name", value))
def test_no_import_goes_against_the_arrows(room: str, file: Path) -> None:
    assert room in MAY_IMPORT, f"{room} is new: say here and in docs/architecture.md what it may import"
    wrong = imported(file, "repro") - MAY_IMPORT[room] - EVERYWHERE - {room}
    allowed = sorted(MAY_IMPORT[room] | EVERYWHERE)
    assert not wrong, f"{file} imports {sorted(wrong)}; {room} may import {allowed}: see docs/architecture.md"


def test_inside_the_analysis_no_import_goes_against_the_arrows() -> None:
    folder = ROOT / "analysis"
    for file in sorted(folder.rglob("*.py")):
        module = file.relative_to(folder).parts[0].removesuffix(".py")
        assert module in INSIDE_ANALYSIS, f"analysis/{module} is new: say here what it may import"
        wrong = imported(file, "repro.analysis") - INSIDE_ANALYSIS[module] - {module}
        assert not wrong, f"{file} imports {sorted(wrong)}; {module} may import {sorted(INSIDE_ANALYSIS[module])}"


def test_the_arrows_have_no_cycle_and_few_floors() -> None:
    rooms = imports_by_room()
    floors: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():  # raises CycleError
        floors[room] = 1 + max((floors[below] for below in rooms[room]), default=0)
    highest = sorted(floors, key=lambda room: floors[room])[-3:]
    assert max(floors.values()) <= MOST_FLOORS, f"{highest} stand on too many floors: see docs/architecture.md"


def test_no_file_imports_more_than_half_of_the_packages() -> None:
    for room, file in files_by_room():
        found = imported(file, "repro") - {room}
        assert len(found) <= len(MAY_IMPORT) // 2, f"{file} imports {sorted(found)}: see docs/architecture.md"


def test_the_core_imports_without_what_it_seldom_needs() -> None:
    core = "spec", "rng", "data", "model.objective", "engine", "training.trainer", "evaluation.measurements", "api"
    code = (
        "import sys\n"
        "for name in ('mlflow', 'optuna', 'sklearn', 'torchvision'): sys.modules[name] = None\n"
        f"import {', '.join(f'repro.{room}' for room in core)}\n"
        "assert repro.spec.registry.names()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
