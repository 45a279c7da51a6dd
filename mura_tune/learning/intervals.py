"""A 95 % interval from resampled values that keeps its promise with few patients, too."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TAIL = 0.025
Z = 1.959964  # the standard normal's 97.5 % point


def interval(
    value: float, draws_b: NDArray[np.float64], freedom: float, *, floor: float = 0.0
) -> tuple[float, float]:
    """The interval of a figure between `floor` and 1, on the logit scale.

    logit(value) +- t x (standard deviation of the draws) / (slope of the logit). The logit keeps it
    inside the scale and skewed as it should be: percentiles of the draws fall short with few
    patients, this does not (`benchmarks/coverage.py`). For an AUC: Pepe 2003, section 5.2.5;
    for shares in clusters: Korn and Graubard 1998; with `floor=-1` it is Fisher's z for kappa.

    Args:
        freedom: degrees of freedom of t: patients that the figure rests on, less one.

    Returns:
        Equal ends where the draws do not spread, which is no certainty: the caller has to find
        another bound. NaN where `value` is not defined; all of the scale below one degree.
    """
    if not math.isfinite(value):
        return math.nan, math.nan
    if freedom < 1:
        return floor, 1.0
    draws_b = draws_b[np.isfinite(draws_b)]  # a draw without one of the classes has no value
    spread = float(draws_b.std(ddof=1)) if len(draws_b) > 1 else 0.0
    width = 1 - floor
    u = (value - floor) / width
    if spread < 1e-12 or not 0 < u < 1:  # rounding makes equal draws differ by 1e-17
        return value, value
    reach = t_quantile(freedom) * spread / width / (u * (1 - u))
    middle = math.log(u / (1 - u))
    return floor + width * _expit(middle - reach), floor + width * _expit(middle + reach)


def exact(share: float, patients: int, tail: float = TAIL) -> tuple[float, float]:
    """The interval of a share of 0 or 1 among `patients` (Clopper and Pearson 1934), where
    resampling sees no spread and would claim certainty; (0, 1) for any other share."""
    if patients < 1 or share not in (0.0, 1.0):
        return 0.0, 1.0
    bound = tail ** (1 / patients)
    return (bound, 1.0) if share == 1 else (0.0, 1 - bound)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` independent cases (Wilson 1927)."""
    z2 = Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return middle - reach, middle + reach


def pooled(first: int, second: int) -> float:
    """Degrees of freedom of a figure that rests on two classes of so many patients, whose scores
    vary alike (Welch 1947): near the sum for equal classes, near the rarer one's for others."""
    if min(first, second) < 2:
        return 0.0
    a, b = 1 / first, 1 / second
    return (a + b) ** 2 / (a**2 / (first - 1) + b**2 / (second - 1))


def t_quantile(freedom: float) -> float:
    """Student's t at 97.5 %, by Abramowitz and Stegun 26.7.5: within .01 from 3 degrees on, below
    that of the whole number under it."""
    if freedom < 3:
        return (12.7062, 4.3027)[int(freedom) - 1]
    z, v = Z, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))
