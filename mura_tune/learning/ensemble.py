"""Several networks that answer as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mura_tune.learning.models import Network


class Ensemble(nn.Module):
    """Networks of one kind whose logits (N, K) are averaged."""

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return torch.stack([member(x_nchw) for member in self.members]).mean(0)


Model = Network | Ensemble


def joined(members: Sequence[Network]) -> Model:
    """One network as it is, more as an ensemble."""
    return members[0] if len(members) == 1 else Ensemble(members)


def members_of(net: Model) -> Iterator[Network]:
    """The networks behind an answer."""
    if isinstance(net, Network):
        yield net
        return
    for member in net.members:
        assert isinstance(member, Network)  # nn.ModuleList forgets what it was given
        yield member
