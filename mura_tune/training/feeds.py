"""Where a phase's batches come from: pixels, or what the frozen stages made of them before."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mura_tune.networks.device import evaluation_batch, precision
from mura_tune.networks.network import Network, Step, run_steps
from mura_tune.recipe import Recipe
from mura_tune.training.augment import VIEWS_VERSION
from mura_tune.training.batches import (
    Split,
    cut_into_batches,
    epoch_order,
    plain_batches,
    training_batches,
)
from mura_tune.training.feature_cache import FeatureCache

SHARED_DEPTHS = (0, 1)  # deeper ones save half as much for 20 GB an area


@dataclass(frozen=True, eq=False)
class Feed:
    """What one phase trains on.

    Attributes:
        forward: the batches' x to logits (N, K), float32; the network or its second half.
        train: the batches (x, rows (B,) of train) of an epoch, counted from 1 over all phases.
        dev: dev's x in its order, not augmented.
        still: train's x in its order, not augmented.
    """

    forward: Callable[[Tensor], Tensor]
    train: Callable[[int], Iterable[tuple[Tensor, Tensor]]]
    dev: Callable[[], Iterable[Tensor]]
    still: Callable[[], Iterable[Tensor]]


# From a network set to its phase's depth, train, dev, the recipe and the phase's index.
Source = Callable[[Network, Split, Split, Recipe, int], Feed]


def pixel_feed(net: Network, train: Split, dev: Split, recipe: Recipe, phase: int) -> Feed:
    """Every image warped and passed through the whole network, in every epoch."""
    device = next(net.parameters()).device
    return Feed(
        forward=net,
        train=lambda epoch: training_batches(
            train,
            size=recipe.batch,
            seed=recipe.seed,
            epoch=epoch,
            strength=recipe.augment,
            device=device,
            sampling=recipe.sampling,
        ),
        dev=lambda: plain_batches(dev, evaluation_batch(device), device),
        still=lambda: plain_batches(train, evaluation_batch(device), device),
    )


@dataclass(frozen=True, eq=False)
class NetworkHalves:
    """A network cut where training begins: `rest(frozen(x))` is its output.

    Attributes:
        frozen: x (N, 1, S, S) to features, without gradients.
        rest: features to logits (N, K), float32.
        digest: of the weights and statistics that `frozen` uses.
    """

    frozen: Step
    rest: Step
    digest: str


def halve_network(net: Network) -> NetworkHalves | None:
    """`net` cut at its present depth, at depth 0 after the pooling. None if all of it trains, if
    nobody told its steps, or if dropout follows its pooling."""
    steps = net.steps()
    trained = {id(p) for p in net.parameters() if p.requires_grad}

    def trains(step: Step) -> bool:
        return isinstance(step, nn.Module) and any(id(p) in trained for p in step.parameters())

    drops: object = getattr(net.body, "drop_rate", None)
    if steps is None or drops:
        return None
    cut = next((i for i, step in enumerate(steps) if trains(step)), len(steps))
    if cut == 0:
        return None
    return NetworkHalves(
        frozen=torch.no_grad()(functools.partial(run_steps, steps[:cut])),
        rest=functools.partial(net.finish, steps[cut:]),
        digest=_digest(net.body, trained),
    )


@dataclass(frozen=True, eq=False)
class FeatureSource:
    """The source that computes the frozen stages' features once and keeps them in `store`.

    Each batch holds what `pixel_feed` would give the first trained stage, to the bit: a view is a
    function of (seed, epoch, image, strength), and frozen stages run in eval mode. Depths that
    are not in `depths`, networks that `halve_network` cannot cut, and recipes with
    `consistency`, `mixup` or `flip_test` get a `pixel_feed`.
    """

    store: FeatureCache
    depths: tuple[int, ...] = SHARED_DEPTHS

    def __call__(self, net: Network, train: Split, dev: Split, recipe: Recipe, phase: int) -> Feed:
        plain = pixel_feed(net, train, dev, recipe, phase)
        depth = recipe.phases[phase].depth
        # Stages that an earlier phase trained are this trial's own: nobody could share them.
        moved = any(before.depth > depth for before in recipe.phases[:phase])
        # Consistency compares with views turned anew, mixup mixes pixels: neither could be kept.
        # Of mirror images nothing is.
        anew = recipe.consistency > 0 or recipe.mixup > 0 or recipe.flip_test
        whole = depth not in self.depths or moved or anew
        cut = None if whole else halve_network(net)
        if cut is None:
            return plain
        device = next(net.parameters()).device
        about = {
            "arch": recipe.arch,
            "depth": depth,
            "weights": cut.digest,
            "views": VIEWS_VERSION,
            "precision": str(precision(device)).removeprefix("torch."),
            "device": _device_name(device),
            "torch": torch.__version__,
            "timm": timm.__version__,
        }
        at_once = evaluation_batch(device)
        of_train = about | {
            "pixels": train.fingerprint,
            "batch": recipe.batch,
            "seed": recipe.seed,
            "strength": recipe.augment,
            "sampling": recipe.sampling,
        }

        def features(batches: Iterable[Tensor]) -> Iterator[Tensor]:
            return (cut.frozen(x) for x in batches)

        def train_batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            rows = epoch_order(train, sampling=recipe.sampling, seed=recipe.seed, epoch=epoch).rows
            sizes = [len(batch) for batch in cut_into_batches(rows, recipe.batch)]
            order = torch.from_numpy(rows).to(device)
            stored = self.store.batches(
                of_train | {"epoch": epoch, "rows": _sha256(rows)},
                sizes,
                device,
                lambda: features(x for x, _ in plain.train(epoch)),
            )
            return zip(stored, torch.split(order, sizes), strict=True)

        def plain_batches_of(
            split: Split, pixels: Callable[[], Iterable[Tensor]]
        ) -> Iterator[Tensor]:
            sizes = [min(at_once, len(split) - i) for i in range(0, len(split), at_once)]
            of_split = about | {"pixels": split.fingerprint, "batch": at_once}
            return self.store.batches(of_split, sizes, device, lambda: features(pixels()))

        return Feed(
            forward=cut.rest,
            train=train_batches,
            dev=lambda: plain_batches_of(dev, plain.dev),
            still=lambda: plain_batches_of(train, plain.still),
        )


def _digest(body: nn.Module, trained: set[int]) -> str:
    """sha256 of the parameters and buffers of every module that does not train."""
    digest = hashlib.sha256()
    for prefix, module in body.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if any(id(p) in trained for p in own.values()):
            continue
        for name, value in [*own.items(), *module.named_buffers(recurse=False)]:
            digest.update(f"{prefix}.{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sha256(rows: NDArray[np.int64]) -> str:
    """Of an epoch's order: what is drawn depends on labels and studies beside the pixels."""
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _device_name(device: torch.device) -> str:
    """Another kind of device rounds otherwise."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
