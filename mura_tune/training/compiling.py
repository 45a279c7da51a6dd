"""torch.compile: a network's pass over a batch of training, with its operations fused into fewer.

A step that is captured as a CUDA graph no longer waits for Python; what is left is memory traffic
between its kernels. Inductor fuses them: on an H100 a step of DenseNet-121 at 224 px and batch 32
takes 0.63 of the time. Compiling takes two minutes there, for each depth and shape of batch, so
that it is worth it for all trials of a search together and not for one. Networks of one kind share
what was compiled, and processes share it through a folder.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mura_tune.files import try_lock
from mura_tune.networks.network import Network, trainable_names
from mura_tune.text import printable

Forward = Callable[[Tensor], Tensor]
# From a network at its depth and the shape of a batch: what passes such batches through it.
Compiler = Callable[[Network, tuple[int, ...]], Forward]

SECONDS_PER_LAYER = 1.1  # of compiling a convolution or linear layer: 121 of them took 133 s
SAVED = 0.35  # of the time of a captured step
_KINDS = 64  # depths, shapes and architectures that one process may compile
_LOG = logging.getLogger(__name__)


def leave_uncompiled(net: Network, shape: tuple[int, ...]) -> Forward:
    """The `Compiler` that compiles nothing."""
    return net


class Inductor:
    """Compiles what is worth it; networks are left as they are where that fails, with one warning.

    While another process compiles the same, a network is left as it is too: the next one finds it.
    A network of which only the head trains is not compiled: its batches are features.

    Args:
        folder: of what was compiled, for every process that trains the same kinds of networks.
        worth: whether so many seconds of compiling are worth it.
        say: called with a line before a compilation.
    """

    def __init__(
        self, folder: Path, worth: Callable[[float], bool], say: Callable[[str], None]
    ) -> None:
        self._folder, self._worth, self._say = folder, worth, say
        self._compiled: set[str] = set()  # the kinds that this process has compiled or loaded
        self._failed = False

    def __call__(self, net: Network, shape: tuple[int, ...]) -> Forward:
        """What passes batches of `shape` (B, 1, S, S) through `net`, at the depth it has now."""
        if self._failed or set(trainable_names(net)) <= set(net.head):
            return net
        kind = _kind(net, shape)
        if kind not in self._compiled and not self._compile(net, shape, kind):
            return net
        return functools.partial(_compiled_pass(), net)

    def _compile(self, net: Network, shape: tuple[int, ...], kind: str) -> bool:
        marker = self._folder / f"{kind}.compiled"
        if marker.exists():  # to load it takes seconds: nobody waits for another process
            return self._load(net, shape, kind)
        seconds = SECONDS_PER_LAYER * sum(p.ndim > 1 for p in net.parameters())
        if not self._worth(seconds):
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{kind}.lock").open("w") as lock:
            if not try_lock(lock):
                return False
            if not marker.exists():
                self._say(
                    f"compiling {type(net.body).__name__} for batches of {shape[0]}: "
                    f"about {seconds / 60:.0f} min, once for all trials like this one"
                )
            loaded = self._load(net, shape, kind)
            if loaded:
                marker.touch()
        return loaded

    def _load(self, net: Network, shape: tuple[int, ...], kind: str) -> bool:
        """Have what passes such batches in this process: from the folder, else compiled."""
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(self._folder / "inductor"))
        try:
            _pass_once(net, shape)
        except Exception as error:
            # Triton, inductor and a C compiler fail with kinds of their own, which differ by torch;
            # a trial needs none of them, and trains on uncompiled. The log says why.
            self._failed = True
            _LOG.warning("networks are not compiled: %s", printable(error).splitlines()[0])
            return False
        self._compiled.add(kind)
        return True


@functools.cache
def _compiled_pass() -> Callable[[Network, Tensor], Tensor]:
    """One function for every network: those of one kind share what it compiles."""
    torch.compiler.config.recompile_limit = _KINDS
    return torch.compile(lambda net, x: net(x), dynamic=False)


def _pass_once(net: Network, shape: tuple[int, ...]) -> None:
    """Compile by a pass of a copy, forth and back: `net` and the generators stay as they are."""
    device = next(net.parameters()).device
    own = copy.deepcopy(net).train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.autograd.backward(_compiled_pass()(own, torch.zeros(shape, device=device)).sum())


def _kind(net: Network, shape: tuple[int, ...]) -> str:
    """Of networks and batches that one compilation serves, on this device and torch."""
    device = next(net.parameters()).device
    about = [str(device.type), torch.__version__, str(shape)]
    if device.type == "cuda":
        about.append(torch.cuda.get_device_name(device))
    about += [f"{n} {tuple(p.shape)} {p.requires_grad}" for n, p in net.named_parameters()]
    about += [f"{name} {module.training}" for name, module in net.named_modules()]
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]
