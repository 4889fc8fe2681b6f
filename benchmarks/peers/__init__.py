"""Programs that train the same network in different frameworks.

A peer may run in another Python, without this project: `serve.py` is run there and loads one of the peers. It, the
peers of other frameworks and `workload.py` import only the standard library, NumPy and their framework. A peer's module
has `VERSIONS`, of its libraries by name, and a class `Peer`:

- `Peer(request, images)` prepares the training of a `Request` on uint8 images [N, H, W, C].
- `run(steps)` trains, and returns each step's cost, nats per image, after the last step.
- `parameters` is the number of weights and biases.
- `facts`, if there are any, go with each answer.
"""
