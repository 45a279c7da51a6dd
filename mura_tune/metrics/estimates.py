"""An estimate: a number with its 95 % interval, from resampling whole patients.

A table of scores (`StudyScores`, `ViewScores`) is what a network says of studies or of views. A
`Measure` takes one number of such a table, and its interval from the patient-cluster bootstrap:
patients are drawn with replacement, since studies and views of one patient resemble each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Names = NDArray[np.object_]  # strings that their table has, so that a row costs a pointer
DRAWS = 2000  # of the bootstrap
AT_ONCE = 125_000  # weights of draws that a number is taken of at once: 1 MB, and a few copies
TAIL = 0.025  # of the distribution on either side of a 95 % interval
NEAREST = 1e-9  # that a probability may be to 0 and 1 for `logit`
Z = 1.959964  # the standard normal's 97.5 % point
# By tail: the quantile of the standard normal, of t with 1 and with 2 degrees of freedom.
_T_QUANTILES = {TAIL: (Z, 12.7062, 4.3027), TAIL / 2: (2.241403, 25.4517, 6.2053)}


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and the studies and patients it was measured on.

    A value that is not defined there (the precision of no call at all) is NaN. `images` is set
    where a row was an image. A number with an interval travels in no other form: `to_json` and
    `from_json` are each other's inverse, and the text that people read of it is made here alone.
    """

    value: float
    low: float
    high: float
    studies: int
    patients: int
    images: int | None = None

    def __str__(self) -> str:
        """The value, its interval and n: `0.912 [0.824, 0.958] (n = 47 studies)`."""
        rows = f"{self.images} images of " if self.images else ""
        return f"{self.brief()} (n = {rows}{self.studies} studies)"

    def brief(self) -> str:
        """The value and its interval: `0.912 [0.824, 0.958]`."""
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:.3f} {self.interval()}"

    def signed(self) -> str:
        """A difference and its interval: `+0.012 [-0.010, +0.033]`."""
        return f"{self.value:+.3f} {interval_text(self.low, self.high, signed=True)}"

    def html(self) -> str:
        """The value and its interval as HTML, the interval in italics."""
        if math.isnan(self.value):
            return "<i>undefined</i>"
        return f"{self.value:.3f} <i>{self.interval()}</i>"

    def interval(self) -> str:
        """The interval alone: `[0.824, 0.958]`."""
        return interval_text(self.low, self.high)

    def range(self) -> str:
        """The interval alone, in words: `0.824 to 0.958`."""
        return range_text(self.low, self.high)

    def rounded(self, digits: int) -> Estimate:
        """The same estimate, its value and ends rounded to so many digits."""
        value, low, high = (round(number, digits) for number in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)

    def to_json(self) -> dict[str, Any]:
        """The fields; null stands for NaN, and `images` is left out where no row is an image."""
        plain = {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }
        return plain if self.images else {k: v for k, v in plain.items() if k != "images"}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Estimate:
        """The estimate that `to_json` wrote.

        `studies` and `patients` are 0 where an earlier version did not store them.

        Raises:
            KeyError: there is no value, or an end of its interval is missing.
        """
        value, low, high = (
            math.nan if stored[key] is None else float(stored[key])
            for key in ("value", "low", "high")
        )
        studies, patients = (stored.get(key, 0) for key in ("studies", "patients"))
        return cls(value, low, high, studies, patients, stored.get("images"))


def interval_text(low: float, high: float, *, signed: bool = False) -> str:
    """An interval as text: `[0.824, 0.958]`, or `[-0.010, +0.033]` with signs."""
    digits = "+.3f" if signed else ".3f"
    return f"[{low:{digits}}, {high:{digits}}]"


def range_text(low: float, high: float) -> str:
    """A range in words: `0.824 to 0.958`."""
    return f"{low:.3f} to {high:.3f}"


@dataclass(frozen=True, eq=False)
class StudyScores:
    """A table with a row a study, (M,) each: its name, its patient, its label (0 or 1, or the
    number of its area) and its score in [0, 1]."""

    names: Names
    patients: Names
    labels: NDArray[np.int64]
    scores: Floats

    def estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        """A value of this table with the ends of its interval, and the table's n."""
        low, high = ends
        return Estimate(value, low, high, len(self.labels), self.count_patients())

    def take(self, rows: NDArray[Any]) -> StudyScores:
        """The table of some rows, by a mask (M,) or by their numbers."""
        columns = (self.names, self.patients, self.labels, self.scores)
        return StudyScores(*(column[rows] for column in columns))

    def count_patients(self, label: int | None = None) -> int:
        """How many patients there are; with a label, how many have a study of that label."""
        chosen = self.patients if label is None else self.patients[self.labels == label]
        return len(np.unique(chosen))

    @property
    def rarer_patients(self) -> int:
        """Patients with a study of the class that has fewer of them."""
        return min(self.count_patients(0), self.count_patients(1))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of a number that rests on both classes."""
        both = pooled_freedom(self.count_patients(0), self.count_patients(1))
        return min(both, self.count_patients() - 1)


@dataclass(frozen=True, eq=False)
class ViewScores(StudyScores):
    """A table with a row a view: `names` and `labels` are its study's, `scores` its own."""

    def estimate(self, value: float, ends: tuple[float, float]) -> Estimate:
        """The same as for studies; `images` of the estimate counts the rows."""
        low, high = ends
        studies, images = len(np.unique(self.names)), len(self.labels)
        return Estimate(value, low, high, studies, self.count_patients(), images)


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Probabilities in float64, so that large logits keep their order."""
    clipped = np.clip(np.asarray(logits, dtype=np.float64), -700, 700)
    return np.asarray(1 / (1 + np.exp(-clipped)))


def logit(probabilities: NDArray[Any] | float) -> Floats:
    """The inverse of `sigmoid`, of probabilities kept NEAREST away from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), NEAREST, 1 - NEAREST)
    return np.asarray(np.log(p / (1 - p)))


def score_studies(
    logits_n: NDArray[Any],
    labels_n: NDArray[Any],
    studies_n: Names,
    patients_n: Names,
) -> StudyScores:
    """The studies of N views, in the order of their names.

    A study's score is the mean probability of its views (Rajpurkar et al. 2018, section 3.1).
    """
    return StudyScores(*_average_by_study(sigmoid(logits_n), labels_n, studies_n, patients_n))


@dataclass(frozen=True, eq=False)
class StudyLogits:
    """A table with a row a study, (M,) each: its name, its patient, its label (0 or 1) and the mean
    logit of its views."""

    names: Names
    patients: Names
    labels: NDArray[np.int64]
    logits: Floats

    def take(self, rows: NDArray[Any]) -> StudyLogits:
        """The table of some rows, by a mask (M,) or by their numbers."""
        columns = (self.names, self.patients, self.labels, self.logits)
        return StudyLogits(*(column[rows] for column in columns))

    def scores(self) -> StudyScores:
        """The same studies, with the sigmoid of the logit as their score."""
        return StudyScores(self.names, self.patients, self.labels, sigmoid(self.logits))


def average_views(
    logits_n: NDArray[Any],
    labels_n: NDArray[Any],
    studies_n: Names,
    patients_n: Names,
) -> StudyLogits:
    """The studies of N views, in the order of their names, each with its views' mean logit."""
    values = np.asarray(logits_n, dtype=np.float64)
    return StudyLogits(*_average_by_study(values, labels_n, studies_n, patients_n))


def _average_by_study(
    values_n: Floats, labels_n: NDArray[Any], studies_n: Names, patients_n: Names
) -> tuple[Names, Names, NDArray[np.int64], Floats]:
    """Names of the studies of N views, in their order, patients, labels and mean values, (M,)."""
    names, first, inverse = np.unique(studies_n, return_index=True, return_inverse=True)
    means = np.bincount(inverse, weights=values_n, minlength=len(names)) / np.bincount(inverse)
    return names, patients_n[first], np.asarray(labels_n, dtype=np.int64)[first], means


@dataclass(frozen=True)
class Measure:
    """What a task is judged by: one number of a table of studies, between 0 and 1.

    Attributes:
        values: the number under each row of integer weights (B, M) on the studies, (B,).
        freedom: degrees of freedom of its interval.
        rests_on: patients that its exact bound rests on, where resampling sees no spread.
    """

    name: str
    values: Callable[[StudyScores, Floats], Floats]
    freedom: Callable[[StudyScores], float]
    rests_on: Callable[[StudyScores], int]

    def score(self, studies: StudyScores) -> float:
        """The number alone."""
        return float(self.values(studies, np.ones((1, len(studies.labels))))[0])

    def estimate(self, studies: StudyScores, *, draws: int = DRAWS, seed: int = 0) -> Estimate:
        """The number with its interval from resampling whole patients."""
        value = self.score(studies)
        drawn = resample(lambda w: self.values(studies, w), studies.patients, draws, seed)
        low, high = logit_interval(value, drawn, self.freedom(studies))
        if low == high:  # as sure as there are patients, no surer
            low, high = exact_interval(value, self.rests_on(studies))
        return studies.estimate(value, (low, high))


# ---- the bootstrap ----


def resample(values: Callable[[Floats], Floats], patients: Names, draws: int, seed: int) -> Floats:
    """A number in each draw of the patient-cluster bootstrap, (draws,).

    Args:
        values: the number under each row of weights (B, M), (B,): how often each of the M rows of
            a table counts in each of B draws.
        patients: each row's, (M,).
    """
    return np.concatenate([values(weights) for weights in patient_weights(patients, draws, seed)])


def resample_all(
    values: Callable[[Floats], Mapping[str, Floats]], patients: Names, draws: int, seed: int
) -> dict[str, Floats]:
    """`resample` of several numbers of the same draws, by name."""
    blocks = [values(weights) for weights in patient_weights(patients, draws, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def patient_weights(patients: Names, draws: int, seed: int) -> Iterator[Floats]:
    """How often each row counts in each draw, AT_ONCE at a time: (B, M) and in all `draws` rows."""
    names, inverse = np.unique(patients, return_inverse=True)
    drawn = _draw_patients(len(names), draws, seed)
    for block in _blocks(draws, len(inverse)):
        yield drawn[block, inverse].astype(np.float64)


@functools.lru_cache(maxsize=2)  # every number of a table is drawn from the same patients
def _draw_patients(patients: int, draws: int, seed: int) -> NDArray[np.uint8]:
    """How often each patient is drawn, (draws, patients): once on average, and 256 times with a
    probability below 1e-500 where there are so many."""
    rng, alike = np.random.default_rng(seed), np.full(patients, 1 / patients)
    drawn = np.empty((draws, patients), np.uint8)
    for block in _blocks(draws, patients):
        drawn[block] = rng.multinomial(patients, alike, size=len(drawn[block]))
    drawn.flags.writeable = False
    return drawn


def _blocks(draws: int, rows: int) -> Iterator[slice]:
    """As many draws at a time as AT_ONCE allows for so many rows."""
    step = max(1, AT_ONCE // rows)
    return (slice(start, start + step) for start in range(0, draws, step))


# ---- from draws to an interval ----


def logit_interval(
    value: float, draws_b: Floats, freedom: float, *, floor: float = 0.0
) -> tuple[float, float]:
    """The 95 % interval of a number between `floor` and 1, on the logit scale.

    logit(value) +- t x (standard deviation of the draws) / (slope of the logit). The logit keeps it
    inside the scale and skewed as it should be. Percentiles of the draws cover too little with few
    patients; this interval does not (`benchmarks/coverage.py`). For an AUC: Pepe 2003, section
    5.2.5; for shares in clusters: Korn and Graubard 1998; with `floor=-1` it is Fisher's z for
    kappa.

    Args:
        freedom: degrees of freedom of t: patients that the number rests on, less one.

    Returns:
        Equal ends where the draws do not spread, which is no certainty: the caller has to take
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
    return logit_ends(value, t_quantile(freedom) * spread, floor=floor)


def logit_ends(value: float, reach: float, *, floor: float = 0.0) -> tuple[float, float]:
    """The ends of an interval that reaches so far from `value`, between `floor` and 1, drawn on the
    logit scale."""
    width = 1 - floor
    u = (value - floor) / width
    reach = reach / width / (u * (1 - u))
    middle = math.log(u / (1 - u))
    return floor + width * _expit(middle - reach), floor + width * _expit(middle + reach)


def share_interval(share: float, draws_b: Floats, patients: int) -> tuple[float, float]:
    """The 95 % interval of a share, or of a mean between 0 and 1, that rests on `patients`.

    It is the logit interval, and the exact one where the draws do not spread.
    """
    low, high = logit_interval(share, draws_b, patients - 1)
    return (low, high) if low != high else exact_interval(share, patients)


def exact_interval(share: float, patients: int, tail: float = TAIL) -> tuple[float, float]:
    """The interval of a share of 0 or 1 among `patients` (Clopper and Pearson 1934).

    Resampling sees no spread there, and would claim certainty. The interval of any other share
    is (0, 1).
    """
    if patients < 1 or share not in (0.0, 1.0):
        return 0.0, 1.0
    bound = tail ** (1 / patients)
    return (bound, 1.0) if share == 1 else (0.0, 1 - bound)


def upper_bound(cases: int, n: int, tail: float) -> float:
    """The one-sided upper bound of a share of which `cases` of `n` were seen (Clopper and Pearson
    1934): with a larger share, so few would be seen with a probability below `tail`."""
    if cases >= n:
        return 1.0
    low, high = cases / n, 1.0
    for _ in range(50):  # halves a width of 1 to the precision of a number
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_at_most(cases, n, middle) > tail else (low, middle)
    return high


def binomial_at_most(cases: int, n: int, share: float) -> float:
    """The probability that `cases` or fewer of n occur, each with a probability of `share`, which
    is between 0 and 1 and neither."""
    k = np.arange(cases + 1)
    ratios = np.log((n - k[:-1]) / (k[:-1] + 1) * share / (1 - share))  # of neighbours
    logs = n * math.log1p(-share) + np.concatenate(([0.0], np.cumsum(ratios)))
    return float(np.exp(logs).sum())


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` independent cases (Wilson 1927)."""
    z2 = Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return middle - reach, middle + reach


def describe_error(error: float, n: int) -> str:
    """An error as a share of `n` answers, with its interval, as if they were independent."""
    ends = interval_text(*wilson_interval(error, n))
    return f"{error * n:.0f} of {n} are answered wrong, {error:.3f} {ends}"


def pooled_freedom(first: int, second: int) -> float:
    """Degrees of freedom of a number that rests on two classes of so many patients, whose scores
    vary alike (Welch 1947): near the sum for equal classes, near the rarer class's for others."""
    if min(first, second) < 2:
        return 0.0
    a, b = 1 / first, 1 / second
    return (a + b) ** 2 / (a**2 / (first - 1) + b**2 / (second - 1))


def t_quantile(freedom: float, tail: float = TAIL) -> float:
    """Student's t with `tail` above it, TAIL or half of that, by Abramowitz and Stegun 26.7.5:
    within .013 from 3 degrees on; below that the larger one of the whole number under it."""
    z, *few = _T_QUANTILES[tail]
    if freedom < 3:
        return few[int(freedom) - 1]
    v = freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))
