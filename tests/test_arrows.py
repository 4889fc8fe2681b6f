"""The house's arrows: which room may import which. See CONTRIBUTING.md."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = {"errors", "spec", "objective", "rng", "model", "engine", "training", "evaluation"}
EVERYWHERE = {"errors", "text", "names"}
MAY_IMPORT = {
    "text": set(),
    "terminal": set(),
    "errors": set(),
    "names": set(),
    "spec": {"errors"},
    "registry": {"errors", "spec"},
    "overrides": {"errors", "spec", "registry"},
    "rng": set(),
    "objective": set(),
    "model": {"errors", "spec", "rng"},
    "data": {"errors", "spec"},
    "engine": {"spec", "objective", "model"},
    "training": {"spec", "data", "rng", "engine", "model"},
    "measurement": set(),
    "evaluation": {"spec", "data", "rng", "objective", "engine", "model", "training", "images", "measurement"},
    "signals": set(),
    "provenance": {"errors"},
    "images": {"errors", "spec"},
    "tracking": {"errors", "spec", "data", "measurement"},
    "runs": {
        "spec", "registry", "overrides", "data", "rng", "model", "engine", "training", "evaluation", "tracking",
        "images", "provenance", "signals", "terminal",
    },
    "experiments": {"spec", "registry"},
    "analysis": {"errors", "spec", "registry", "images", "tracking"},
}  # fmt: skip
INSIDE_ANALYSIS = {
    "tables": set(),
    "verdicts": {"tables"},
    "curves": {"tables", "verdicts"},
    "sweeps": {"tables"},
    "claims": {"tables", "verdicts", "curves"},
    "variants": {"tables", "curves", "claims"},
    "plots": {"curves"},
    "report": {"tables", "verdicts", "curves", "sweeps", "claims", "variants", "plots"},
}
COMPOSERS = {"sweep", "cli", "__main__", "__init__"}


def rooms_imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "repro":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def files_by_room() -> list[tuple[str, Path]]:
    rooms = []
    for top in ("repro", "experiments", "analysis"):
        for file in sorted((ROOT / top).rglob("*.py")):
            relative = file.relative_to(ROOT / top)
            rooms.append((relative.parts[0].removesuffix(".py") if top == "repro" else top, file))
    return rooms


@pytest.mark.parametrize(("room", "file"), files_by_room(), ids=lambda value: getattr(value, "name", value))
def test_no_import_goes_against_the_arrows(room: str, file: Path) -> None:
    if room in COMPOSERS:
        assert "analysis" not in rooms_imported(file) or room == "cli"
        return
    assert room in MAY_IMPORT, f"{room} is a new room: say in this file, and in CONTRIBUTING.md, what it may import"
    wrong = rooms_imported(file) - MAY_IMPORT[room] - EVERYWHERE - {room}
    assert not wrong, f"{file.name} imports {sorted(wrong)}; {room} may import only {sorted(MAY_IMPORT[room])}"


def test_inside_the_analysis_no_import_goes_against_the_arrows() -> None:
    folder = ROOT / "analysis"
    for file in sorted(folder.rglob("*.py")):
        module = file.relative_to(folder).parts[0].removesuffix(".py")
        text = file.read_text(encoding="utf-8")
        wrong = set(re.findall(r"from repro\.analysis\.(\w+)", text)) - {module}
        wrong |= {name for names in re.findall(r"from repro\.analysis import (.+)", text) for name in names.split(", ")}
        assert wrong <= INSIDE_ANALYSIS.get(module, set()), file


def test_the_core_imports_without_mlflow_and_optuna() -> None:
    code = (
        "import sys\n"
        "for name in ('mlflow', 'optuna'): sys.modules[name] = None\n"
        f"import {', '.join(f'repro.{room}' for room in sorted(CORE))}, repro.registry, repro.data\n"
        "assert repro.registry.names()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
