"""Candidates: the pairs of many pictures that are alike, without comparing all with all.

A picture is alike another one if the two, at 16 pixels a side or so, correlate in one of the eight
ways to hold them. Every picture is put, in each of its eight ways, to that one of some hundred
pictures, the centres, that it correlates with most; a picture is then compared only with those that
stand at the centres nearest to it (an inverted file; Sivic and Zisserman 2003, Jegou et al. 2011).
The number of centres grows with the root of the number of pictures, and so does a picture's cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mura_tune.imaging.grey_levels import Pixels

Number = TypeVar("Number", bound=np.generic)
WAYS = 8
_FEW = 2_000  # pictures that are compared all with all: one centre
_PER_ROOT = 4  # centres for the root of the number of pictures
PROBES = 16  # centres at which a picture looks for others
_BLOCK = 1024  # rows, and columns, of correlations computed at once: 4 MB
_BAND = 8  # coefficients a side of the cosine transform that correlations are bounded by
_HELD = 4_000_000  # pairs in memory at once, unless the best of all pictures are more: 50 MB
_ROUNDING = 1e-5  # by which a product of two rows may be too small


class Candidates(NamedTuple):
    """Pairs of pictures that are alike.

    `rows` (K, 2) holds the smaller number first. `ways` (K,) is how the first is held to be most
    like the second, by the order of `orientations`; `correlations` (K,) is how much they then are.
    """

    rows: NDArray[np.int64]
    ways: NDArray[np.int64]
    correlations: NDArray[np.float32]


def orientations(pictures: NDArray[Number]) -> Iterator[NDArray[Number]]:
    """Yield the eight ways to hold pictures (…, H, W): four turns, each as it is and mirrored."""
    for quarter in range(4):
        turned = np.rot90(pictures, quarter, axes=(-2, -1))
        yield turned
        yield turned[..., ::-1]


def find_candidates(small_nss: Pixels, needed: float, most: int) -> Candidates:
    """Return the pairs of pictures (N, S, S) that correlate by `needed` or more in one way.

    Up to _FEW pictures all such pairs are found; among more, a pair whose pictures are both far
    from all centres may be missed (`benchmarks/near_copies.py` counts how many are). Where there
    are very many, a pair stays that is one of the `most` best of one of its pictures.
    """
    count, side, _ = small_nss.shape
    flat = small_nss.reshape(count, side * side)
    limit = max(_HELD, 2 * most * count)
    held, waiting = 0, [(np.empty(0, np.int64), np.empty(0, np.float32))]
    for block in _pairs_alike(flat, needed):
        waiting.append(block)
        held += len(block[0])
        if held > limit:
            waiting = [_best(waiting, count, most)]
            held = len(waiting[0][0])
    pairs, _ = _best(waiting, count, most)
    return _checked(flat, np.stack(np.divmod(pairs, count), axis=1), needed)


def rank_in_lists(rows: NDArray[np.int64], correlations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the ranks (K, 2) of pairs (K, 2) among all pairs of either picture, 0 for the best."""
    ends = rows.T.ravel()
    order = np.lexsort((-np.tile(correlations, 2), ends))
    ranks = np.empty(len(ends), np.int64)
    ranks[order] = np.arange(len(ends)) - np.searchsorted(ends[order], ends[order])
    return ranks.reshape(2, -1).T


def _pairs_alike(
    flat: Pixels, needed: float
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield pairs whose correlation may be `needed`, as first * N + second, and its bounds."""
    perms, basis = _permutations(flat.shape[1]), _cosines(flat.shape[1])
    for queries, entries in place_pictures(flat):
        for start in range(0, len(queries), _BLOCK):
            asked = queries[start : start + _BLOCK]
            ones = _bounds(flat[asked], basis)
            for first in range(0, len(entries), _BLOCK):
                block = entries[first : first + _BLOCK]
                held = np.take_along_axis(flat[block // WAYS], perms[block % WAYS], 1)
                like = (ones @ _bounds(held, basis).T).ravel()
                near = np.flatnonzero(like >= needed - _ROUNDING)
                a, b = asked[near // len(block)], block[near % len(block)] // WAYS
                other = a != b
                pairs = np.minimum(a, b) * len(flat) + np.maximum(a, b)
                yield pairs[other], like[near[other]]


def _best(
    blocks: list[tuple[NDArray[np.int64], NDArray[np.float32]]], count: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each pair once, with its largest bound, if it is one of the `most` best of a picture."""
    pairs = np.concatenate([some for some, _ in blocks])
    bounds = np.concatenate([some for _, some in blocks])
    order = np.lexsort((-bounds, pairs))
    order = order[np.diff(pairs[order], prepend=-1) > 0]
    pairs, bounds = pairs[order], bounds[order]
    ranks = rank_in_lists(np.stack(np.divmod(pairs, count), axis=1), bounds)
    stays = ranks.min(axis=1, initial=most) < most
    return pairs[stays], bounds[stays]


def place_pictures(
    flat: Pixels,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield for each centre the pictures (N, P) that look there, and the entries that stand there.

    An entry is a picture in one way: its number is WAYS times the picture's plus the way's.
    """
    perms, basis = _permutations(flat.shape[1]), _cosines(flat.shape[1])
    count = len(flat)
    if count <= _FEW:
        yield np.arange(count), np.arange(count * WAYS)
        return
    centres = round(_PER_ROOT * math.sqrt(count))
    probes = min(PROBES, centres)
    chosen = _bounds(flat[np.arange(centres) * count // centres], basis)[:, :-1].T
    places = np.empty(count * WAYS, np.int32)
    looks = np.empty((count, probes), np.int32)
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, count))
        for way, perm in enumerate(perms):
            like = _bounds(flat[rows][:, perm], basis)[:, :-1] @ chosen
            places[rows * WAYS + way] = like.argmax(1)
            if not way:
                looks[rows] = np.argpartition(-like, probes - 1, axis=1)[:, :probes]
    order, asked = np.argsort(places, kind="stable"), np.argsort(looks, axis=None, kind="stable")
    ends = np.searchsorted(places[order], np.arange(centres + 1))
    stops = np.searchsorted(looks.ravel()[asked], np.arange(centres + 1))
    for centre in range(centres):
        yield (
            asked[stops[centre] : stops[centre + 1]] // probes,
            order[ends[centre] : ends[centre + 1]],
        )


def _checked(flat: Pixels, rows: NDArray[np.int64], needed: float) -> Candidates:
    """The pairs (K, 2) that correlate by `needed`, and the way in which they do so most."""
    perms = _permutations(flat.shape[1])
    ways = np.empty(len(rows), np.int64)
    most = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        firsts, seconds = flat[rows[block, 0]], standardise(flat[rows[block, 1]])
        like = np.stack([(standardise(firsts[:, p]) * seconds).sum(1) for p in perms])
        ways[block], most[block] = like.argmax(0), like.max(0)
    near = most >= needed
    return Candidates(rows[near], ways[near], most[near])


def standardise(pictures: Pixels) -> NDArray[np.float32]:
    """Return pictures (N, …) as rows of mean 0 and length 1; one of one grey is all 0."""
    rows = pictures.reshape(len(pictures), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    length = np.sqrt((rows**2).sum(1, keepdims=True))
    standard: NDArray[np.float32] = rows / np.where(length > 1, length, np.inf)
    return standard


def _bounds(flat: Pixels, basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows whose products are no smaller than the pictures' correlations, by Cauchy and Schwarz.

    They are the coefficients of the basis, and the length of what the basis leaves.
    """
    standard = standardise(flat)
    known = standard @ basis
    left = np.maximum((standard**2).sum(1) - (known**2).sum(1), 0)
    return np.concatenate([known, np.sqrt(left)[:, None]], axis=1)


def _permutations(size: int) -> NDArray[np.int64]:
    """Where the pixels (P,) of a square picture come from, in each way to hold it: (WAYS, P)."""
    side = math.isqrt(size)
    places = np.arange(size, dtype=np.int64).reshape(side, side)
    return np.stack([held.ravel() for held in orientations(places)])


def _cosines(size: int) -> NDArray[np.float32]:
    """The first cosines of each axis but the constant, as columns, for pictures of P pixels."""
    side = math.isqrt(size)
    waves = np.cos(np.pi * np.outer(np.arange(side) + 0.5, np.arange(min(_BAND, side))) / side)
    waves /= np.sqrt((waves**2).sum(0))
    return np.kron(waves, waves)[:, 1:].astype(np.float32)
