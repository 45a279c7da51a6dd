"""The pooled features of a network at several depths, from the pass that gives its logits, and the
plain numbers of a view before any network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mura_tune.networks.device import autocast
from mura_tune.networks.network import Model, Network, is_map, members_of
from mura_tune.networks.normalisation import MEAN, STD

Features = tuple[Tensor, ...]  # (N, C) float32 for each depth; each has its own C
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SAMPLED_SIDE = 64  # at most so many pixels a side are sorted for quantiles, evenly spaced
_SCALES, _LEAST_SIDE = 4, 8
_GRIDS = (16, 8)  # places a side
_LEAST_CONTRAST = 0.02  # below, a deviation over places is mostly noise
_FLOOR = 0.002  # half a grey level: what 8 bits do not tell, below a logarithm


def answer_with_features(net: Model, x_nchw: Tensor) -> tuple[Tensor, Features]:
    """The logits (N, K) that `net` gives in evaluation mode, and its pooled features.

    A depth is the last of successive steps whose outputs have one shape. Its features are the mean
    and the standard deviation of each channel over the places of the map, or over the tokens.
    Depths of an ensemble's members stand one member after the other. There is no depth where a
    network gives neither maps nor tokens.
    """
    pairs = [_answer_member(member, x_nchw) for member in members_of(net)]
    logits = [own for own, _ in pairs]
    joined = logits[0] if isinstance(net, Network) else torch.stack(logits).mean(0)
    return joined, tuple(one for _, features in pairs for one in features)


def _answer_member(net: Network, x_nchw: Tensor) -> tuple[Tensor, Features]:
    """The same of one network; with flips at test time the means of both passes."""
    logits, features = _answer_once(net, x_nchw)
    if not net.flip_test:
        return logits, features
    mirrored, others = _answer_once(net, x_nchw.flip(-1))
    means = tuple((one + other) / 2 for one, other in zip(features, others, strict=True))
    return (logits + mirrored) / 2, means


def _answer_once(net: Network, x: Tensor) -> tuple[Tensor, Features]:
    """The same of views as they are."""
    steps = net.steps()
    if steps is None:  # the two halves of timm's own `forward`
        last = net.body.forward_features(x)
        if getattr(net.body, "output_fmt", "NCHW") == "NHWC":  # Swin and its like
            pooled = _pool(last.permute(0, 3, 1, 2))
        else:
            pooled = _pool(last)
        return net.body.forward_head(last), pooled
    features: Features = ()
    with autocast(x.device):
        for number, step in enumerate(steps):
            after = step(x)
            if number and after.shape != x.shape:
                features += _pool(x)
            x = after
    return net.finish([], x), features


def _pool(features: object) -> Features:
    """Mean and deviation of a map (N, C, H, W) or of tokens (N, L, C), as one (N, 2 C); none of
    anything else."""
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        return ()
    values_ncl = features.flatten(2) if is_map(features) else features.transpose(1, 2)
    values_ncl = values_ncl.float()
    mean_nc = values_ncl.mean(2)
    variance_nc = values_ncl.square().mean(2) - mean_nc**2  # five times as fast as torch.std
    return (torch.cat((mean_nc, variance_nc.clamp_min(0).sqrt()), 1),)


@torch.inference_mode()
def describe_pictures(x_nchw: Tensor) -> NDArray[np.float32]:
    """Plain statistics of views, (N, C), on the networks' input scale (N, 1, S, S).

    They are quantiles and the deviation of the grey levels from 0 to 1; how grey level and gradient
    go together from place to place; then the logarithms of the mean and of the root mean square of
    the gradient and of the Laplacian at S, S / 2, S / 4 and S / 8 pixels a side, as far as 8 are
    left. C is 26 from 64 pixels on.
    """
    x_nchw = x_nchw.float()
    step = -(-x_nchw.shape[-1] // _SAMPLED_SIDE)
    levels_np = x_nchw[..., ::step, ::step].flatten(1).sort(1).values * STD + MEAN
    ranks = [round(share * (levels_np.shape[1] - 1)) for share in _QUANTILES]
    slopes = x_nchw.diff(dim=-1), x_nchw.diff(dim=-2)
    numbers = [levels_np[:, ranks], levels_np.std(1, keepdim=True), _relate(x_nchw, *slopes)]
    for scale in range(_SCALES):
        if scale:
            x_nchw = F.avg_pool2d(x_nchw, 2)
            slopes = x_nchw.diff(dim=-1), x_nchw.diff(dim=-2)
        if x_nchw.shape[-1] < _LEAST_SIDE:
            break
        across, down = slopes
        laplacian = across[..., 1:-1, :].diff(dim=-1).add_(down[..., 1:-1].diff(dim=-2))
        numbers += [_describe_sizes([across, down], STD), _describe_sizes([laplacian], STD / 4)]
    described: NDArray[np.float32] = torch.cat(numbers, 1).cpu().numpy()
    return described


def _relate(x_nchw: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """How far the grey level of a place and the logarithm of its gradient go together, over each
    grid of places, (N, 2): near 1 in a radiograph, whose background is dark and smooth."""
    slope_nchw = across.abs()[..., :-1, :].add_(down.abs()[..., :-1])
    places = [F.adaptive_avg_pool2d(one, _GRIDS[0]) for one in (x_nchw, slope_nchw)]
    correlations = []
    for grid in _GRIDS:
        level, slope = (F.adaptive_avg_pool2d(one, grid).flatten(1) * STD for one in places)
        pairs = [one - one.mean(1, keepdim=True) for one in (level, (slope + 2 * _FLOOR).log())]
        product = pairs[0] * pairs[1]
        for one in pairs:
            product = product / (one.square().mean(1, keepdim=True).sqrt() + _LEAST_CONTRAST)
        correlations.append(product.mean(1))
    return torch.stack(correlations, 1)


def _describe_sizes(values_nchw: Sequence[Tensor], unit: float) -> Tensor:
    """The logarithms of the mean size of a view's values and of their root mean square, (N, 2).

    Args:
        unit: of the values, in grey levels from 0 to 1.
    """
    count = sum(values[0].numel() for values in values_nchw)
    parts = [values.flatten(1) for values in values_nchw]
    sums = [torch.linalg.vector_norm(part, 1, dim=1) for part in parts]
    roots = [torch.linalg.vector_norm(part, 2, dim=1) for part in parts]
    mean = torch.stack(sums).sum(0) / count
    root = (torch.stack(roots).square().sum(0) / count).sqrt()
    return (torch.stack((mean, root), 1) * unit + _FLOOR).log()
