"""Training and test images, and where they came from.

`load` takes the data set from the directory that the user names. Without a named directory it looks in the cache, then
downloads, and last takes an embedded stand-in, so that a run works on any machine. `Dataset.origin` and
`Dataset.status` say which was used.
"""

from repro.data.load import Choice, Dataset, Finding, load, survey

__all__ = ["Choice", "Dataset", "Finding", "load", "survey"]
