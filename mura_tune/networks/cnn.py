"""A small network for CPUs and small images, shaped like timm's so that nothing treats it apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

HALVING = 4  # taps of a convolution that halves the side: an even number has its middle in between


class SmallCNN(nn.Module):
    """A stem and four stages of two convolutions, pooled by mean and by maximum; from 32 px on.

    A fracture line fills a few pixels: the mean alone would drown it, the maximum keeps it. Each
    cell of the last map stands in the middle of the 122 pixels that it sees, for the last two
    stages look at no neighbours but those they halve: in views larger than that, evidence stands
    about where it lies (`benchmarks/explain.py`; where a cell saw 187 pixels it stood beside it).

    Args:
        widths: channels of the stem and of each stage; each halves the map's side.
        num_classes: K, the length of the output.
        in_chans: of a view; 3 only for checking an export.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 24, 48, 96, 128),
        num_classes: int = 1,
        in_chans: int = 1,
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        reaches = [3] * (len(pairs) - 2) + [1, 1]
        self.stem = _stage(in_chans, widths[0], 3)
        self.stages = nn.ModuleList(
            _stage(a, b, reach) for (a, b), reach in zip(pairs, reaches, strict=True)
        )
        self.num_features = 2 * widths[-1]
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x_nchw: Tensor) -> Tensor:
        """The last feature map, (N, C, H, W)."""
        x_nchw = self.stem(x_nchw)
        for stage in self.stages:
            x_nchw = stage(x_nchw)
        return x_nchw

    def forward_head(self, x_nchw: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (N, K) from the last feature map, or what the classifier takes, (N, 2 C)."""
        pooled = torch.cat((x_nchw.mean((2, 3)), x_nchw.amax((2, 3))), dim=1)
        return pooled if pre_logits else self.fc(pooled)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_nchw))

    def get_classifier(self) -> nn.Linear:
        return self.fc

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups in timm's form: the stem, then one group a stage."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}


def _stage(c_in: int, c_out: int, reach: int) -> nn.Sequential:
    """Halve the side, then look `reach` cells wide."""
    return nn.Sequential(
        _conv(c_in, c_out, HALVING, 2, 1), _conv(c_out, c_out, reach, 1, reach // 2)
    )


def _conv(c_in: int, c_out: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )
