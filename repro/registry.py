"""The registry under the name that experiment files import: `from repro.registry import register`."""

from repro.spec.registry import Entry, get, load, names, register

__all__ = ["Entry", "get", "load", "names", "register"]
