"""Training and test images, and where they came from.

`load` looks in a directory the user names, then in the cache, then downloads, and last takes an embedded stand-in, so
that a run works on any machine. What was used is said in `Dataset.origin` and `Dataset.status`.
"""

from repro.data.source import Choice, Dataset, Finding, load, survey

__all__ = ["Choice", "Dataset", "Finding", "load", "survey"]
