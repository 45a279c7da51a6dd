"""Distances are Mahalanobis', their bound is exceeded as rarely as it says."""

import numpy as np
import pytest

from mura_tune.metrics import distances
from mura_tune.metrics.distances import (
    SHRINKAGE,
    FeatureDistribution,
    choose_bound,
    fit_distribution,
    join_distances,
    largest_by_study,
)


def rows(n: int, c: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, c)) @ rng.normal(size=(c, c)) + 3).astype(np.float32)


@pytest.mark.parametrize(("n", "c"), [(200, 20), (15, 20)])
def test_distances_are_those_of_the_shrunk_covariance(n: int, c: int) -> None:
    train, new = rows(n, c), rows(7, c, seed=1)
    covariance = np.cov(train.T.astype(np.float64))
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / c * np.eye(c)
    apart = new.astype(np.float64) - train.mean(0, dtype=np.float64)
    direct = np.sqrt(np.einsum("ni,ij,nj->n", apart, np.linalg.inv(shrunk), apart))
    np.testing.assert_allclose(fit_distribution(train).measure(new), direct, rtol=1e-4)


def test_few_directions_take_the_mean_of_the_other_variances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distances, "DIRECTIONS", 2)
    train = rows(300, 5)
    fitted = fit_distribution(train)
    values = np.sort(np.linalg.eigvalsh(np.cov(train.T.astype(np.float64))))
    even = SHRINKAGE * values.mean()
    np.testing.assert_allclose(fitted.variances, 0.9 * values[:-3:-1] + even, rtol=1e-5)
    assert fitted.rest == pytest.approx(0.9 * values[:3].mean() + even, rel=1e-5)
    at_mean = fitted.measure(train.mean(0, keepdims=True))
    assert at_mean[0] < 1e-3


def test_features_that_never_change_are_left_by_any_change() -> None:
    fitted = fit_distribution(np.full((20, 4), 2, np.float32))
    assert fitted.measure(np.full((1, 4), 2, np.float32))[0] == 0
    assert 1e3 < fitted.measure(np.full((1, 4), 3, np.float32))[0] < np.inf


@pytest.mark.parametrize("rest", [0.0, -1.0, float("nan")])
def test_a_variance_is_above_zero(rest: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        FeatureDistribution(
            np.zeros(3, np.float32), np.eye(2, 3, dtype=np.float32), np.ones(2, np.float32), rest
        )


def test_a_study_is_as_far_as_its_farthest_view() -> None:
    joined = join_distances(np.array([[3.0, 8.0], [0.0, 2.0], [6.0, 0.0]]), np.array([3.0, 2.0]))
    np.testing.assert_allclose(joined, np.sqrt([(1 + 16) / 2, 1 / 2, 2]))
    np.testing.assert_allclose(largest_by_study(joined, np.array([0, 1, 1])), joined[[0, 2]])


@pytest.mark.parametrize("m", [10, 39, 200])
def test_a_bound_is_exceeded_as_rarely_as_it_says(m: int) -> None:
    rng = np.random.default_rng(m)
    exceeded, said = [], 0.0
    for _ in range(2000):
        bound, said = choose_bound(rng.exponential(size=m), 0.025)
        exceeded.append(rng.exponential() > bound)
    assert said == pytest.approx(max(0.025, 1 / (m + 1)), abs=1 / (m + 1))
    assert said <= 0.025 + 1e-9 or m < 39
    assert np.mean(exceeded) == pytest.approx(said, abs=3.5 * np.sqrt(said / 2000))
