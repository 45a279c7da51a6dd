"""The pooled features of a network at several depths, from the pass that gives its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from mura_tune.networks.device import autocast
from mura_tune.networks.network import Model, Network, is_map, members_of

Features = tuple[Tensor, ...]  # (N, C) float32 for each depth; each has its own C


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
