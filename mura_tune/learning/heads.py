"""The multi-task head: the body part that the network sees helps to judge what is abnormal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EMBEDDING = 16  # numbers that stand for a body part


class PartHead(nn.Module):
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
        self.embedding = nn.Parameter(torch.randn(outputs - 1, EMBEDDING) / EMBEDDING**0.5)
        self.abnormal = nn.Linear(features + EMBEDDING, 1)

    def forward(self, x_nc: Tensor) -> Tensor:
        part_nk = self.part(x_nc)
        seen = part_nk.softmax(1) @ self.embedding
        return torch.cat((self.abnormal(torch.cat((x_nc, seen), 1)), part_nk), 1)
