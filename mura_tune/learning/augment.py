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
DRAWS = 9
VIEWS = 1  # raise it whenever a change here, or in the order of batches, changes a view


def draws(seed: int, epoch: int, n: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1), (n, DRAWS): row i is the same however many rows are asked."""
    return np.random.default_rng((seed, epoch)).random((n, DRAWS), dtype=np.float32)


def augment(x_nchw: Tensor, u_nd: Tensor, strength: float) -> Tensor:
    """Images in [0, 1], (N, 1, S, S), warped and re-exposed; strength 0 returns them untouched.

    Args:
        u_nd: this batch's rows of `draws`, on the same device.
        strength: 0 to 1; scales every range. Flips are drawn at any strength above 0.
    """
    if strength == 0:
        return x_nchw
    v = (u_nd * 2 - 1) * strength
    flip = torch.where(u_nd[:, 0] < 0.5, -1.0, 1.0)
    warped = _warp(x_nchw, v, flip)
    contrast = torch.exp(v[:, 6] * LOG_CONTRAST).view(-1, 1, 1, 1)
    brightness = (v[:, 7] * BRIGHTNESS).view(-1, 1, 1, 1)
    gamma = torch.exp(v[:, 8] * LOG_GAMMA).view(-1, 1, 1, 1)
    exposed = warped.clamp_min_(1e-6).log_().mul_(gamma).exp_()  # pow takes three times as long
    return exposed.sub_(0.5).mul_(contrast).add_(0.5).add_(brightness).clamp_(0, 1)


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
        x_nchw, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros",
        align_corners=False,
    )  # fmt: skip
