"""Heads: the multi-task head, the layers that give a network's outputs, and their first weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mura_tune.errors import InputError

LARGEST_RATIO = 1.5  # times torch's own weights: above it a layer was drawn by another rule
SCRATCH_SCALE = 0.05  # times torch's own weights: small beside the prior, and no dead start
EMBEDDING_SIZE = 16  # numbers that stand for an area


class AreaHead(nn.Module):
    """A classifier of abnormality and area, in the place of a backbone's own.

    The abnormality's logit rests on the pooled features beside an embedding of the area: the sum of
    learned embeddings, weighted by the softmax of the area's logits. It is the *predicted* area, in
    training and afterwards alike, so that the true one need not be known.

    Args:
        features: C, the length of the pooled features.
        outputs: 1 + K: the abnormality's logit, then one for each of K areas.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.part = nn.Linear(features, outputs - 1)  # of the area; stored weights have this name
        self.embedding = nn.Parameter(
            torch.randn(outputs - 1, EMBEDDING_SIZE) / EMBEDDING_SIZE**0.5
        )
        self.abnormal = nn.Linear(features + EMBEDDING_SIZE, 1)

    def forward(self, x_nc: Tensor) -> Tensor:
        area_nk = self.part(x_nc)
        embedded = area_nk.softmax(1) @ self.embedding
        return torch.cat((self.abnormal(torch.cat((x_nc, embedded), 1)), area_nk), 1)


def shrink_classifier(classifier: nn.Module, outputs: int) -> None:
    """Scale a fresh classifier down to weights as small as torch draws them, near its prior.

    Torch draws weights from U(-1, 1) / sqrt(inputs), so that logits are about as large as features.
    A library may draw far larger ones: timm's EfficientNets take those of one logit from U(-1, 1),
    which gives logits of +-10. Such a layer is scaled down, and its biases are zeroed; a layer that
    is small already stays as it was drawn, to the bit. Weights of zero would start at the prior
    exactly, but a network without weights from elsewhere then learns later: its first stages get no
    gradient before the head has left zero.

    Raises:
        InputError: a classifier without layers of so many outputs.
    """
    with torch.no_grad():
        for layer in output_layers(classifier, outputs):
            usual = (3 * layer.weight[0].numel()) ** -0.5  # the deviation of torch's own draw
            drawn = float(layer.weight.square().mean().sqrt())
            if drawn <= LARGEST_RATIO * usual:
                continue
            layer.weight.mul_(usual / drawn)
            if layer.bias is not None:
                layer.bias.zero_()


def calm_classifier(classifier: nn.Module, outputs: int, *, seed: int | None) -> None:
    """Give a classifier weights so small that its first answers are its biases, which become 0.

    Weights of zero answer so exactly, and suit a backbone that has learned elsewhere. A backbone
    from scratch gets no gradient before the head has left zero: its head is drawn from
    U(-1, 1) / sqrt(inputs), as torch draws, times `SCRATCH_SCALE`.

    Args:
        outputs: K, of the network.
        seed: of the draw; None for weights of zero.

    Raises:
        InputError: a classifier without layers of so many outputs, or one without biases.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in output_layers(classifier, outputs):
            layer.weight.zero_()
            if generator is not None:
                limit = SCRATCH_SCALE * layer.weight[0].numel() ** -0.5
                layer.weight.uniform_(-limit, limit, generator=generator)
            if layer.bias is None:
                kind = type(classifier).__name__
                raise InputError(f"{kind} has no bias to start at the prior; choose another arch")
            layer.bias.zero_()


def set_output_biases(classifier: nn.Module, values_k: Tensor) -> None:
    """Set the biases of a classifier's K outputs, the abnormality's first.

    Raises:
        InputError: a classifier without layers of so many outputs.
    """
    layers = output_layers(classifier, len(values_k))
    if isinstance(classifier, AreaHead):
        sizes = [layer.out_features for layer in (classifier.abnormal, classifier.part)]
        parts: tuple[Tensor, ...] = torch.split(values_k, sizes)
    else:  # several layers are averaged: each has all outputs
        parts = (values_k,) * len(layers)
    with torch.no_grad():
        for layer, values in zip(layers, parts, strict=True):
            assert layer.bias is not None  # `calm_classifier` has refused such a layer
            layer.bias.copy_(values)


Output = nn.Linear | nn.Conv2d  # DPN, DLA and some ResNetV2 classify by a convolution


def output_layers(classifier: nn.Module, outputs: int) -> list[Output]:
    """Return the layers that give a network's K outputs, the abnormality's first.

    Most classifiers are one layer. MetaFormer's is an MLP, whose last layer it is; CrossViT has two
    whose outputs are averaged; the multi-task head has one for each task.

    Raises:
        InputError: no layer has so many outputs.
    """
    if isinstance(classifier, AreaHead):
        return [classifier.abnormal, classifier.part]
    layers: list[Output] = [
        module
        for module in classifier.modules()
        if (isinstance(module, nn.Linear) and module.out_features == outputs)
        or (isinstance(module, nn.Conv2d) and module.out_channels == outputs)
    ]
    if not layers:
        raise InputError(f"{type(classifier).__name__} has no linear layer of {outputs} outputs")
    return layers


@dataclass(frozen=True, eq=False)
class HeadLayer:
    """A linear layer of a head, and the columns of the logits that it gives: first, last + 1."""

    module: Output
    columns: tuple[int, int]


def layers_to_solve(classifier: nn.Module, outputs: int) -> tuple[HeadLayer, ...]:
    """Return the linear layers that give a network's K outputs, in the order of their solution.

    Each is a convex problem while the rest of the classifier stands. Of an MLP it is the last
    layer. The multi-task head's area comes first, since the abnormality rests on it.

    Raises:
        InputError: outputs that are no layer's own, such as CrossViT's mean of two.
    """
    if isinstance(classifier, AreaHead):
        return (HeadLayer(classifier.part, (1, outputs)), HeadLayer(classifier.abnormal, (0, 1)))
    layers = output_layers(classifier, outputs)
    if len(layers) != 1:
        raise InputError(
            f"head.solver: lbfgs: {type(classifier).__name__} has {len(layers)} layers of "
            f"{outputs} outputs, and one is solved; write head.solver: steps"
        )
    return (HeadLayer(layers[0], (0, outputs)),)
