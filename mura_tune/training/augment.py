"""Augmentation: one batched warp and one change of intensity, on whatever device the batch is.

Each image's draws depend on (seed, epoch, its index) alone, never on the order of batches.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# What strength 1 allows, each drawn uniformly in +-range.
ROTATION = math.radians(30)
LOG_SCALE = math.log(1.25)
SHIFT = 0.12  # of half the side
SHEAR = 0.15
LOG_CONTRAST = math.log(1.6)
BRIGHTNESS = 0.2  # of the full range
LOG_GAMMA = math.log(1.5)
DRAWS_PER_VIEW = 9
_LEVELS = 256
IMAGES_IN_CACHE = 8  # images at once on a CPU: at 224 px what they pass through stays in its cache
VIEWS_VERSION = 2  # raise it whenever a change here, or in the order of batches, changes a view


def draw_uniform(seed: int, epoch: int, n: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), (n, DRAWS): row i is the same however many rows are asked."""
    return np.random.default_rng((seed, epoch)).random((n, DRAWS_PER_VIEW), dtype=np.float32)


def augment(pixels_nhw: Tensor, u_nd: Tensor, strength: float) -> Tensor:
    """uint8 (N, S, S) re-exposed and warped, as (N, 1, S, S) in [0, 1]; strength 0 only converts.

    Args:
        u_nd: this batch's rows of `draw_uniform`, on the same device.
        strength: 0 to 1; scales every range. Flips are drawn at any strength above 0.
    """
    if strength == 0:
        return pixels_nhw.float().div_(255).unsqueeze_(1)
    v = (u_nd * 2 - 1) * strength
    flip = torch.where(u_nd[:, 0] < 0.5, -1.0, 1.0)
    out = torch.empty(pixels_nhw.shape, device=v.device).unsqueeze_(1)
    at_once = len(v) if v.is_cuda else IMAGES_IN_CACHE
    slices = (torch.split(t, at_once) for t in (out, pixels_nhw, _tones(v), v, flip))
    for batch in zip(*slices, strict=True):
        _view(*batch)
    return out


def _tones(v: Tensor) -> Tensor:
    """What each of the 256 levels becomes in each image, (N, 256): gamma, contrast, brightness."""
    levels = torch.linspace(0, 1, _LEVELS, device=v.device)
    gamma, contrast = torch.exp(v[:, 8:] * LOG_GAMMA), torch.exp(v[:, 6:7] * LOG_CONTRAST)
    return ((levels**gamma - 0.5) * contrast + 0.5 + v[:, 7:8] * BRIGHTNESS).clamp_(0, 1)


def _view(out: Tensor, pixels_nhw: Tensor, tones_nl: Tensor, v: Tensor, flip: Tensor) -> None:
    """Fill `out`. Looking tones up is quicker than arithmetic; outside is what black became."""
    exposed = tones_nl.gather(1, pixels_nhw.flatten(1).long()).view_as(out)
    black = tones_nl[:, 0].view(-1, 1, 1, 1)
    torch.clamp(_warp(exposed.sub_(black), v, flip).add_(black), 0, 1, out=out)


def _warp(x_nchw: Tensor, v: Tensor, flip: Tensor) -> Tensor:
    """Sample along x' = a x + b y + c: a column term and a row term, broadcast to the grid."""
    side = x_nchw.shape[-1]
    angle, scale = v[:, 1] * ROTATION, torch.exp(v[:, 2] * LOG_SCALE)
    cos, sin, shear = torch.cos(angle) * scale, torch.sin(angle) * scale, v[:, 5] * SHEAR
    axis = (torch.arange(side, device=v.device, dtype=v.dtype) * 2 + 1) / side - 1

    # One plane a coordinate: stacking them as pairs would copy the grid once more.
    grid = torch.empty(len(v), 2, side, side, device=v.device, dtype=v.dtype)

    def fill(plane: int, a: Tensor, b: Tensor, c: Tensor) -> None:
        along_x = a[:, None, None] * axis[None, None, :] + c[:, None, None]
        torch.add(along_x, b[:, None, None] * axis[None, :, None], out=grid[:, plane])

    fill(0, cos * flip, shear * cos - sin, v[:, 3] * SHIFT)
    fill(1, sin * flip, shear * sin + cos, v[:, 4] * SHIFT)
    return F.grid_sample(
        x_nchw,
        grid.permute(0, 2, 3, 1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
