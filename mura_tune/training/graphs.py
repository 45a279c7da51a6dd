"""CUDA graphs: a function of tensors that is launched as one, where a GPU would wait for Python.

A training step of DenseNet-121 is some 5,700 kernels. Python launches one in 5 to 15 microseconds,
and at the batch sizes of a search the card has done it sooner. A graph holds all launches of a
step and needs one call. What runs are the same kernels, so the numbers stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # eager calls of a shape before it is captured: libraries choose their kernels in them
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Graph:
    """A captured call: where its inputs are read and its output is written."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor


class Captured:
    """`function` on one CUDA device: eager for the first calls of a shape, a graph from then on.

    Every call does the work once, whichever way it goes: what `function` does to the weights, the
    optimiser's state and running statistics is done as often as it is called. Shapes have a graph
    each and share its memory, since one call ends before the next begins. A call that cannot be
    captured (an operation that waits for the device, say) is logged once, and every call is eager
    from then on.

    Args:
        function: of tensors, to one tensor. It must work on the same tensors beside its arguments
            in every call, and read no number from the host that changes from call to call.

    Attributes:
        replays: calls that were a replay.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self._function, self._device = function, device
        self._calls: dict[tuple[object, ...], int] = {}
        self._graphs: dict[tuple[object, ...], _Graph] = {}
        stream: Any = torch.cuda.Stream  # torch leaves it untyped
        self._stream = stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._eager = False
        self.replays = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What `function` gives; the tensor is the caller's own."""
        key = tuple((t.shape, t.dtype, t.stride()) for t in inputs)
        if key not in self._graphs:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._eager or self._calls[key] <= WARM_UP or not self._capture(key, inputs):
                return self._on_side_stream(inputs)
        captured = self._graphs[key]
        for own, given in zip(captured.inputs, inputs, strict=True):
            own.copy_(given)
        captured.graph.replay()
        self.replays += 1
        return captured.output.clone()

    def _on_side_stream(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Eager, on the stream that captures: autograd binds its nodes to the first they see."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            output = self._function(*inputs)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return output

    def _capture(self, key: tuple[object, ...], inputs: tuple[Tensor, ...]) -> bool:
        """Record the launches of one call without running them; False where that fails."""
        own = tuple(t.clone() for t in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (the one that reads pixels ahead) may call CUDA meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = self._function(*own)
        except RuntimeError as error:
            self._eager = True
            _LOG.warning(
                "steps are launched one by one: no CUDA graph: %s", str(error).splitlines()[0]
            )
            return False
        self._graphs[key] = _Graph(graph, own, output)
        return True


def captured(function: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """`function` as CUDA graphs on a CUDA device; itself on any other."""
    return Captured(function, device) if device.type == "cuda" else function
