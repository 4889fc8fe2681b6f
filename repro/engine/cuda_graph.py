"""Training on a GPU: the images and an epoch's noise are on the device, and a CUDA graph replays the step.

The host waits for the device once an epoch, when the costs are read. Everything except the capture also runs on a CPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from repro.engine.plain import PlainStep
from repro.engine.step import Settings
from repro.model import VAE
from repro.spec import Experiment

CHUNK = 50  # steps between two checks for interrupts
WARM_UPS = 3  # steps before a capture, in which libraries choose kernels and allocate memory


class EpochBuffers:
    """An epoch's images, order, noise and costs at fixed addresses, and the position in the epoch.

    Images uint8 [N, H, W, C] (shared), order int64 [N], noise [L, N, D], costs float64 [steps, 2], position int64 [1].
    """

    def __init__(self, images: Tensor, order: Tensor, noise: Tensor, batch_size: int) -> None:
        device = images.device
        self.images, self.order, self.noise = images, order.clone(), noise.clone()
        self.steps = len(images) // batch_size
        self.costs = torch.zeros((self.steps, 2), dtype=torch.float64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.within = torch.arange(batch_size, device=device)
        self.batch_size = batch_size

    def begin(self, order: Tensor, noise: Tensor) -> None:
        """Copy an epoch's order and noise, and go to its first step."""
        self.order.copy_(order)
        self.noise.copy_(noise)
        self.position.zero_()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images and noise at the position, selected on the device. -> uint8 [B, H, W, C], [L, B, D]."""
        rows = self.position * self.batch_size + self.within
        return self.images.index_select(0, self.order.index_select(0, rows)), self.noise.index_select(1, rows)

    def record(self, costs: tuple[Tensor, Tensor]) -> None:
        """Store the costs at the position and go to the next."""
        self.costs.index_copy_(0, self.position, torch.stack(costs).double()[None])
        self.position += 1


class GraphStep(PlainStep):
    """The plain step, captured once and then replayed without the host."""

    capturable = True

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        super().__init__(experiment, model, settings)
        self.settings = replace(self.settings, engine="fast")
        self.buffers: EpochBuffers | None = None
        self.next_step: Callable[[], None] = self._next_step

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        # the device may still be computing the costs that are yielded
        if self.buffers is None or self.buffers.images is not images:
            self.buffers = EpochBuffers(images, order, noise, self.batch_size)
            self.next_step = self._captured()
        buffers = self.buffers
        buffers.begin(order, noise)
        for first in range(0, buffers.steps, CHUNK):
            last = min(first + CHUNK, buffers.steps)
            for _ in range(first, last):
                self.next_step()
            yield buffers.costs[first:last]

    def _next_step(self) -> None:
        """Train at the position: what is captured. Without TF32, and without sums in a varying order."""
        assert self.buffers is not None
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            self.buffers.record(self.step(*self.buffers.batch()))

    def _captured(self) -> Callable[[], None]:
        """Return a replay of `_next_step`, or itself if it cannot be captured. Model and state stay as they are."""
        assert self.buffers is not None
        trained = [*self.parameters.values(), *self.state().values()]
        before = [tensor.detach().clone() for tensor in trained]
        try:
            return capture(self._next_step, self.buffers.position)
        except RuntimeError:
            return self._next_step
        finally:
            with torch.no_grad():
                for tensor, value in zip(trained, before, strict=True):
                    tensor.copy_(value)


def capture(next_step: Callable[[], None], position: Tensor) -> Callable[[], None]:
    """Return `next_step` as a CUDA graph, after warm-up calls at position 0. Raises RuntimeError without CUDA."""
    if position.device.type != "cuda":
        raise RuntimeError("only work on a GPU can be captured")
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            position.zero_()
            next_step()
    torch.cuda.current_stream().wait_stream(aside)
    position.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        next_step()
    replay: Callable[[], None] = graph.replay
    return replay
