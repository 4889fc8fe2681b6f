"""Training and test images, and where they come from.

`load` reads the data set from the directory that the user names. Without one it looks in the cache, then downloads, and
at last uses a stand-in that is always there, so that a run works on any machine. `Dataset.origin` and `Dataset.status`
say which one it used.
"""

from repro.data.load import Choice, Dataset, Finding, load, survey

__all__ = ["Choice", "Dataset", "Finding", "load", "survey"]
