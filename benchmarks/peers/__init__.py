"""Programs that train the same network in different frameworks.

Another Python may run them, in which this project is not installed: `serve.py` is started by its path and loads one of
the peers. `plan.py`, `images.py`, `serve.py` and the peers of other frameworks import the standard library, NumPy and
their own framework only.
"""
