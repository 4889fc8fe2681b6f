"""The experiments in `experiments/` by name, and the user's own files by path."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from repro.errors import ReproError, UsageError
from repro.spec import ranges
from repro.spec.experiment import Experiment, checked
from repro.text import did_you_mean

Builder = Callable[[], Experiment]
NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # it becomes the name of folders, and of an experiment in MLflow


@dataclass(frozen=True)
class Entry:
    name: str
    spec: Experiment
    about: str  # the docstring of its file, or of its function for a variant
    file: Path


_builders: dict[str, Builder] = {}


def register(build: Builder) -> Builder:
    """Register the experiment that `build` returns under the name of the function. Raises UsageError."""
    name = getattr(build, "__name__", "")
    if not NAME.fullmatch(name):
        rule = "should be a function named by 1 to 100 letters, digits, '_' and '-'"
        raise UsageError(f"@register {name[:120]!r}: {rule}")
    if any(each.default is each.empty for each in inspect.signature(build).parameters.values()):
        raise UsageError(f"@register {name}: should be a function without arguments")
    _builders[name] = build
    return build


def names() -> list[str]:
    """Return the names of the project's experiments in alphabetical order."""
    package = importlib.import_module("repro.experiments")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    if not _builders:
        raise ReproError(f"no experiment is registered: {list(package.__path__)} has none; install the project again")
    return sorted(_builders)


def get(name: str) -> Entry:
    """Return the experiment called `name`, or the one that the Python file at the path `name` registers.

    Raises UsageError, with the nearest name, if there is none, and if the file cannot be used.
    """
    if is_file(name):
        return load(Path(name))
    known = names()
    if name not in known:
        raise UsageError(
            f"unknown experiment {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}. "
            "Your own is named by the path of its file, such as ./my_vae.py"
        )
    return _entry(name)


def is_file(name: str) -> bool:
    """Whether an experiment is named by the path of a file."""
    return name.endswith(".py") or "/" in name


def load(path: Path) -> Entry:
    """Run an experiment file and return the one experiment that it registers. Raises UsageError.

    The experiment does not stay registered. In a user's file that gives it the name of one of the project's, it is
    called after the file too, or after its directory: `mnist_fc.wide`. Their runs are kept apart by their names.
    """
    if not path.is_file():
        raise UsageError(f"experiment file {str(path)!r} does not exist, or is not a file")
    spec = importlib.util.spec_from_file_location(f"user_experiment_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"experiment file {str(path)!r} is not a Python file: its name must end in .py")
    taken = names() if path.resolve().parent not in _folders() else []
    known = dict(_builders)
    _builders.clear()
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # `_entry` looks it up there
        loader = spec.loader
        checked(lambda: loader.exec_module(module))
        found = list(_builders)
        if len(found) != 1:
            raise UsageError(f"experiment file {str(path)!r} must @register one experiment; it registers {len(found)}")
        entry = _entry(found[0])
        faults = ranges.faults(entry.spec, entry.spec.sweep)
        if faults:
            raise UsageError(*(f"sweep: {fault}" for fault in faults))
        return replace(entry, name=_own_name(entry.name, path.resolve())) if entry.name in taken else entry
    except UsageError as fault:
        raise UsageError(*(f"{path}: {line}" for line in fault.faults)) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the file is the user's, and may raise anything
        raise UsageError(f"experiment file {str(path)!r} fails{_line_of(error, path)}: {error!r}") from None
    finally:
        _builders.clear()
        _builders.update(known)


def _entry(name: str) -> Entry:
    build = _builders[name]
    module = sys.modules[build.__module__]
    spec = checked(build)
    if not isinstance(spec, Experiment):
        raise UsageError(f"{name}() returns {repr(spec)[:60]}, and should return an Experiment")
    about = build.__doc__ if spec.variant_of else module.__doc__
    return Entry(name, spec, (about or "").strip(), Path(str(module.__file__)))


def _folders() -> list[Path]:
    """Return where the project's own experiments are."""
    return [Path(folder).resolve() for folder in importlib.import_module("repro.experiments").__path__]


def _own_name(name: str, path: Path) -> str:
    place = path.stem if path.stem != name else path.parent.name
    return f"{name}.{re.sub(r'[^A-Za-z0-9_-]+', '-', place).strip('-')[:100] or 'own'}"


def _line_of(error: BaseException, path: Path) -> str:
    """Return ` in line N`, the line of the file where the error arose, or nothing."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path.resolve())]
    return f" in line {lines[-1]}" if lines else ""
