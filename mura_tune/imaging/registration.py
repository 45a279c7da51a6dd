"""Registration: aligns pictures by the affine map in which they agree best, and measures how well.

The map comes from least squares over all pixels, with gain and offset of the greys as two more
unknowns (Lucas and Kanade 1981; Baker and Matthews 2004, section 3). It starts near the truth or
not at all: shifts of a tenth of a side are found, other turns than by a few degrees are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
_ITERATIONS = 10
_FAR = 1 / 8  # of half a side: how far one step moves a pixel at most
_COVER = 0.5  # share of a picture that the other has to cover
_RIDGE = 1e-5  # per pixel: keeps the equations solvable where a picture has no edges


def identity_maps(count: int) -> Float32Array:
    """Maps (N, 2, 3) that leave every point where it is; both sides of a picture are -1 to 1."""
    return np.tile(np.eye(2, 3, dtype=np.float32), (count, 1, 1))


def align(ones_nss: Float32Array, others_nss: Float32Array, maps: Float32Array) -> Float32Array:
    """Better maps (N, 2, 3): where each point of `ones` (N, S, S) lies in `others` (N, S, S)."""
    count, side, _ = ones_nss.shape
    ones, others = _standard(ones_nss), _standard(others_nss)
    grid = _grid(side)
    target = ones.reshape(count, -1, 1)
    ridge = _RIDGE * side * side * np.eye(8)
    for _ in range(_ITERATIONS):
        grey, across, down, inside = _sampled(others, maps, grid)
        slopes = [slope * along for slope in (across, down) for along in grid]
        columns = np.stack([*slopes, grey, np.ones_like(grey)], axis=1) * inside[:, None]
        squares = (columns @ columns.transpose(0, 2, 1)).astype(np.float64) + ridge
        solution = np.linalg.solve(squares, (columns @ target).astype(np.float64))[:, :, 0]
        gain = np.maximum(solution[:, 6], 0.2)[:, None, None]  # a negative is not the same picture
        step = solution[:, :6].reshape(count, 2, 3) / gain
        maps = maps + np.clip(step, -_FAR, _FAR).astype(np.float32)
    return maps


def measure_agreement(
    ones_nss: Float32Array, others_nss: Float32Array, maps: Float32Array, share: int = 8
) -> Float32Array:
    """Correlation (N,) of what is finer than a `share`th of a side, where `maps` lay them.

    0 where one covers less than half of the other.
    """
    side = ones_nss.shape[1]
    grey, _, _, inside = _sampled(_standard(others_nss), maps, _grid(side))
    mask = inside.reshape(ones_nss.shape)
    ones = _fine(_standard(ones_nss), share) * mask
    others = _fine(grey.reshape(ones_nss.shape), share) * mask
    covered = mask.mean((1, 2))
    products = [_centred(a, mask) for a in (ones, others)]
    between = (products[0] * products[1]).sum((1, 2))
    lengths = np.sqrt(np.prod([(p**2).sum((1, 2)) for p in products], axis=0))
    agreement: Float32Array = np.where(covered < _COVER, 0, between / np.maximum(lengths, 1e-6))
    return agreement.astype(np.float32)


def _grid(side: int) -> Float32Array:
    """Where the pixels' centres are: (3, S * S) as x, y, 1."""
    centres = ((2 * np.arange(side, dtype=np.float32) + 1) / side) - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    return np.stack([x.ravel(), y.ravel(), np.ones(side * side, np.float32)])


def _sampled(
    pictures_nss: Float32Array, maps: Float32Array, grid: Float32Array
) -> tuple[Float32Array, ...]:
    """At each mapped point (N, P): the grey, its slopes to the right and down, and if it is inside.

    Slopes are per unit of the map, which is half a side.
    """
    count, side, _ = pictures_nss.shape
    at = ((maps @ grid + 1) * side - 1) / 2
    inside = ((at >= 0) & (at <= side - 1)).all(axis=1).astype(np.float32)
    at = np.clip(at, 0, side - 1)
    corner = np.minimum(at.astype(np.int32), side - 2)
    right, low = (at - corner).astype(np.float32).transpose(1, 0, 2)
    first = corner[:, 1] * side + corner[:, 0]
    first += np.arange(0, count * side * side, side * side, dtype=np.int32)[:, None]
    flat = pictures_nss.reshape(-1)
    a, b, c, d = (flat[k:].take(first) for k in (0, 1, side, side + 1))
    upper, lower = a + (b - a) * right, c + (d - c) * right
    across = ((b - a) * (1 - low) + (d - c) * low) * (side / 2)
    down = (lower - upper) * (side / 2)
    return upper + (lower - upper) * low, across, down, inside


def _standard(pictures_nss: Float32Array) -> Float32Array:
    """Of mean 0 and deviation 1 each."""
    centred = pictures_nss - pictures_nss.mean((1, 2), keepdims=True)
    deviation = centred.std((1, 2), keepdims=True)
    standard: Float32Array = centred / np.maximum(deviation, 1e-6)
    return standard


def _fine(pictures_nss: Float32Array, share: int) -> Float32Array:
    """Each picture without its blurred self (means over squares of a `share`th of a side)."""
    side = pictures_nss.shape[1]
    width = side // share + 1 - (side // share) % 2  # odd
    padded = np.pad(pictures_nss, ((0, 0), *[(width // 2, width // 2)] * 2), mode="edge")
    sums = np.pad(padded, ((0, 0), (1, 0), (1, 0))).astype(np.float64).cumsum(1).cumsum(2)
    corners = sums[:, width:, width:] - sums[:, :-width, width:] - sums[:, width:, :-width]
    blurred = (corners + sums[:, :-width, :-width]) / width**2
    fine: Float32Array = (pictures_nss - blurred).astype(np.float32)
    return fine


def _centred(pictures_nss: Float32Array, mask: Float32Array) -> Float32Array:
    mean = pictures_nss.sum((1, 2)) / np.maximum(mask.sum((1, 2)), 1)
    centred: Float32Array = (pictures_nss - mean[:, None, None]) * mask
    return centred
