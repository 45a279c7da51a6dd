"""Classifiers: which layers give the outputs, where they start, and the multi-task head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mura_tune.errors import InputError

LARGEST_RATIO = 1.5  # times torch's own weights: above it a layer was drawn by another rule
EMBEDDING_SIZE = 16  # numbers that stand for a body part


class AreaHead(nn.Module):
    """A classifier of abnormality and body part, in the place of a backbone's own.

    The abnormality's logit rests on the pooled features beside an embedding of the part: the sum of
    learned ones, weighted by the softmax of the part's logits. That is the *predicted* part, in
    training and afterwards alike, so nothing has to know the true one.

    Args:
        features: length of what the backbone pools, C.
        outputs: 1 + K: the abnormality's logit, then one for each of K parts.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.part = nn.Linear(features, outputs - 1)
        self.embedding = nn.Parameter(
            torch.randn(outputs - 1, EMBEDDING_SIZE) / EMBEDDING_SIZE**0.5
        )
        self.abnormal = nn.Linear(features + EMBEDDING_SIZE, 1)

    def forward(self, x_nc: Tensor) -> Tensor:
        part_nk = self.part(x_nc)
        seen = part_nk.softmax(1) @ self.embedding
        return torch.cat((self.abnormal(torch.cat((x_nc, seen), 1)), part_nk), 1)


def shrink_classifier(classifier: nn.Module, outputs: int) -> None:
    """Let a fresh classifier begin near its prior: with weights as small as torch draws them.

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


Output = nn.Linear | nn.Conv2d  # DPN, DLA and some ResNetV2 classify by a convolution


def output_layers(classifier: nn.Module, outputs: int) -> list[Output]:
    """The layers that give a network's outputs (K of them), the abnormality's first.

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
