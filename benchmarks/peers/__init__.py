"""Programs that train the same network in different frameworks.

A peer may run in another Python, without this project: `serve.py` is started by its path and loads one of the peers.
`workload.py`, `images.py`, `serve.py` and the peers of other frameworks import only the standard library, NumPy and
their framework.
"""
