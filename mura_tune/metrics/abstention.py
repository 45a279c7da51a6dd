"""Risk and coverage: the errors that remain where the least sure studies are not answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mura_tune.metrics.estimates import StudyScores, logit

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class CoveragePoint:
    """Of all studies the surest are answered, a share `coverage`: so many, of which `wrong` are
    answered wrong."""

    coverage: float
    answered: int
    wrong: int


def risk_coverage(
    studies: StudyScores, threshold: float, coverages: tuple[float, ...] = COVERAGES
) -> tuple[CoveragePoint, ...]:
    """Errors at the recommended threshold where only the surest studies are answered (El-Yaniv and
    Wiener 2010). A study is surer the further its logit is from the threshold's.
    """
    counts = count_errors(studies, threshold)
    n = len(counts)
    sizes = [max(1, round(share * n)) for share in coverages]
    return tuple(
        CoveragePoint(share, size, int(counts[size - 1]))
        for share, size in zip(coverages, sizes, strict=True)
    )


def count_errors(studies: StudyScores, threshold: float) -> np.ndarray:
    """Wrong answers among the 1, 2, …, M surest studies, (M,).

    Equally sure studies are in the order that has their errors first.
    """
    distance = np.abs(logit(studies.scores) - logit(threshold))
    sureness = distance.round(9)  # equal but for rounding is equal
    wrong = (studies.scores >= threshold) != (studies.labels == 1)
    order = np.lexsort((~wrong, -sureness))
    return np.asarray(np.cumsum(wrong[order]))
