"""Pictures that are alike are found without comparing all with all, in every way to hold them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mura_tune.imaging import candidates
from mura_tune.imaging.candidates import find_candidates, orientations, rank_in_lists

SIDE, NEEDED = 16, 0.95
ROUNDING = 1e-5  # of single precision


def draw_pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth pictures of few patterns: many are alike, as the views of one area are."""
    rng = np.random.default_rng(seed)
    axis = np.linspace(0, np.pi, SIDE)
    waves = np.stack([np.cos(k * axis) for k in range(5)])
    weights = rng.normal(0, 1, (12, 5, 5))[rng.integers(12, size=count)]
    weights = weights + rng.normal(0, 0.3, weights.shape)
    pictures = np.einsum("nuv,uy,vx->nyx", weights, waves, waves)
    return np.clip(128 + 18 * pictures, 0, 255).astype(np.uint8)


def compare_all(
    pictures: NDArray[np.uint8], needed: float = NEEDED
) -> dict[tuple[int, int], tuple[int, float]]:
    """Each pair that is alike, with the best way to hold its first and the correlation then."""

    def rows(some: NDArray[np.uint8]) -> NDArray[np.float64]:
        flat = some.reshape(len(some), -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    like = np.stack([rows(held) @ rows(pictures).T for held in orientations(pictures)])
    firsts, seconds = np.nonzero(np.triu(like.max(0) >= needed, 1))
    return {
        (int(a), int(b)): (int(like[:, a, b].argmax()), float(like[:, a, b].max()))
        for a, b in zip(firsts, seconds, strict=True)
    }


@pytest.mark.parametrize("few", [2_000, 10])
def test_the_pairs_are_those_of_comparing_all(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one centre all of them; with many centres nearly all, and no others."""
    monkeypatch.setattr(candidates, "_FEW", few)
    pictures = draw_pictures(600)
    for number, held in enumerate(orientations(pictures[:8])):
        pictures[500 + number] = held[number]  # a copy in each way
    alike = compare_all(pictures, NEEDED - ROUNDING)
    found = find_candidates(pictures, NEEDED, most=600)
    pairs = {(int(a), int(b)) for a, b in found.rows}
    assert len(alike) > 500
    assert pairs <= set(alike)
    clear = set(compare_all(pictures, NEEDED + ROUNDING))
    assert len(clear - pairs) <= (0 if few == 2_000 else len(clear) / 50)
    assert {(number, 500 + number) for number in range(8)} <= pairs
    for (a, b), way, correlation in zip(found.rows, found.ways, found.correlations, strict=True):
        assert (way, correlation) == (alike[a, b][0], pytest.approx(alike[a, b][1], abs=ROUNDING))


def test_a_picture_is_compared_with_few_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many centres far fewer products are computed than with one."""
    monkeypatch.setattr(candidates, "PROBES", 4)
    compared = []
    for few in (2_000, 10):
        monkeypatch.setattr(candidates, "_FEW", few)
        pictures = draw_pictures(1_000)
        places = candidates.place_pictures(pictures.reshape(len(pictures), -1))
        compared.append(sum(len(queries) * len(entries) for queries, entries in places))
    assert compared[1] < compared[0] / 10


def test_of_very_many_pairs_the_best_of_each_picture_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_HELD", 10)
    pictures = draw_pictures(300)
    every = find_candidates(pictures, NEEDED, most=300)
    best = find_candidates(pictures, NEEDED, most=1)
    assert len(best.rows) <= 300 < len(every.rows)
    first = every.rows[rank_in_lists(every.rows, every.correlations).min(axis=1) == 0]
    missed = {(int(a), int(b)) for a, b in first} - {(int(a), int(b)) for a, b in best.rows}
    assert len(missed) <= len(first) / 20  # the best by their bounds


def test_ranks_are_counted_in_the_lists_of_both_pictures() -> None:
    rows = np.array([[0, 1], [0, 2], [1, 2], [2, 3]])
    ranks = rank_in_lists(rows, np.array([0.96, 0.99, 0.97, 0.98], np.float32))
    assert ranks.tolist() == [[1, 1], [0, 0], [0, 2], [1, 0]]


def test_a_picture_of_one_grey_is_like_no_other() -> None:
    pictures = np.full((3, SIDE, SIDE), 90, np.uint8)
    assert len(find_candidates(pictures, NEEDED, most=3).rows) == 0
