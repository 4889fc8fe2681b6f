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


class GraphStep(PlainStep):
    """The plain step, captured once and then replayed without the host.

    A graph reads and writes fixed addresses. Its buffers are those of an epoch: `images` (shared), `order`, `noise`,
    the costs of each step, float64 [steps, 2], and the number of the next step, int64 [1].
    """

    capturable = True
    order: Tensor
    noise: Tensor
    recorded: Tensor
    position: Tensor
    next_step: Callable[[], None]

    def __init__(self, experiment: Experiment, model: VAE, settings: Settings) -> None:
        super().__init__(experiment, model, settings)
        self.settings = replace(self.settings, engine="fast")
        self.images = torch.empty(0)
        self.within = torch.arange(self.batch_size, device=self.steps.device)

    def epoch(self, images: Tensor, order: Tensor, noise: Tensor) -> Iterator[Tensor]:
        # the device may still be computing the costs that are yielded
        steps = len(images) // self.batch_size
        if self.images is not images:
            self.images, self.order, self.noise = images, order.clone(), noise.clone()
            self.recorded = torch.zeros((steps, 2), dtype=torch.float64, device=images.device)
            self.position = torch.zeros(1, dtype=torch.int64, device=images.device)
            self.next_step = self._captured()
        self.order.copy_(order)
        self.noise.copy_(noise)
        self.position.zero_()
        for first in range(0, steps, CHUNK):
            last = min(first + CHUNK, steps)
            for _ in range(first, last):
                self.next_step()
            yield self.recorded[first:last]

    def _next_step(self) -> None:
        """Train at the position: what is captured. Without TF32, and without sums in a varying order."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            rows = self.position * self.batch_size + self.within
            images = self.images.index_select(0, self.order.index_select(0, rows))
            costs = self.step(images, self.noise.index_select(1, rows))
            self.recorded.index_copy_(0, self.position, torch.stack(costs).double()[None])
            self.position += 1

    def _captured(self) -> Callable[[], None]:
        """Return a replay of `_next_step`, or itself if it cannot be captured. Model and state stay as they are."""
        trained = [*self.parameters.values(), *self.state().values()]
        before = [tensor.detach().clone() for tensor in trained]
        try:
            return capture(self._next_step, self.position)
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
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types there
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
