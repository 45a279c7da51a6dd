"""What calls are worth: net benefit over thresholds, and PPV and NPV where disease is rarer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mura_tune.metrics.estimates import (
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    StudyScores,
    exact_interval,
    logit_interval,
    patient_weights,
    resample_all,
    t_quantile,
)
from mura_tune.metrics.operating_points import threshold_metrics

PREVALENCES = (0.05, 0.10, 0.20)
CURVE_THRESHOLDS = np.linspace(0.02, 0.98, 49)
CURVE_DRAWS = 500


@dataclass(frozen=True)
class NetBenefit:
    """What calling studies abnormal from a threshold on is worth, in true positives per study.

    Attributes:
        model: hits per study, less the false alarms per study times threshold / (1 - threshold).
        treat_all: the same of calling every study abnormal; calling none is worth 0.
        gain: `model` minus the better of the two, on the same patients.
    """

    model: Estimate
    treat_all: float
    gain: Estimate


def estimate_net_benefit(
    studies: StudyScores, threshold: float, *, draws: int = DRAWS, seed: int = 0
) -> NetBenefit:
    """Net benefit at a threshold that is also a probability (Vickers and Elkin 2006).

    The threshold says how many false alarms are as bad as one miss: (1 - threshold) / threshold.
    Intervals are t times the standard error of resampled patients. A threshold of 1 has none.

    Raises:
        ValueError: the threshold is 1, which no number of alarms would be worth.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"a threshold of {threshold} has no net benefit")

    def values(weights: Floats) -> dict[str, Floats]:
        model, treat_all = (column[:, 0] for column in _benefits(studies, [threshold], weights))
        return {"model": model, "treat_all": treat_all}

    once = {name: float(v[0]) for name, v in values(np.ones((1, len(studies.labels)))).items()}
    drawn = resample_all(values, studies.patients, draws, seed)
    rival = drawn["treat_all"] if once["treat_all"] > 0 else np.zeros(draws)
    gain = once["model"] - max(once["treat_all"], 0.0)
    return NetBenefit(
        model=_estimate(studies, once["model"], drawn["model"]),
        treat_all=once["treat_all"],
        gain=_estimate(studies, gain, drawn["model"] - rival),
    )


@dataclass(frozen=True, eq=False)
class DecisionCurve:
    """Net benefit over thresholds, (T,) each: the model's with a 95 % band, and treat-all's."""

    thresholds: Floats
    model: Floats
    low: Floats
    high: Floats
    treat_all: Floats


def decision_curve(
    studies: StudyScores, *, draws: int = CURVE_DRAWS, seed: int = 0
) -> DecisionCurve:
    """The decision curve at CURVE_THRESHOLDS; the band has percentiles of resampled patients."""
    model, treat_all = _benefits(studies, CURVE_THRESHOLDS, np.ones((1, len(studies.labels))))
    drawn = [
        _benefits(studies, CURVE_THRESHOLDS, weights)[0]
        for weights in patient_weights(studies.patients, draws, seed)
    ]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    return DecisionCurve(CURVE_THRESHOLDS, model[0], low, high, treat_all[0])


@dataclass(frozen=True)
class PredictiveValues:
    """PPV and NPV where a share `prevalence` is abnormal; `flags` of 100 studies are called so."""

    prevalence: float
    ppv: Estimate
    npv: Estimate
    flags: float


def predict_at_prevalences(
    studies: StudyScores,
    threshold: float,
    prevalences: Sequence[float] = PREVALENCES,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[PredictiveValues, ...]:
    """PPV and NPV at other prevalences by Bayes, from sensitivity and specificity here.

    This takes both to be the same there, which other patients may not keep.
    """
    called = studies.scores >= threshold

    def values(weights: Floats) -> Mapping[str, Floats]:
        rates = threshold_metrics(called, studies.labels, weights)
        values = {}
        for share in prevalences:
            both = predictive_values(share, rates["sensitivity"], rates["specificity"])
            values[f"ppv {share}"], values[f"npv {share}"] = both
        return values

    once = values(np.ones((1, len(called))))
    drawn = resample_all(values, studies.patients, draws, seed)
    rates = threshold_metrics(called, studies.labels, np.ones((1, len(called))))
    sensitivity, specificity = (float(rates[name][0]) for name in ("sensitivity", "specificity"))
    sides = [
        exact_interval(rate, studies.count_patients(label), TAIL / 2)
        for rate, label in ((sensitivity, 1), (specificity, 0))
    ]
    rows = []
    for share in prevalences:
        corners = [predictive_values(share, *(np.array([s[i]]) for s in sides)) for i in (0, 1)]
        estimates = []
        for number, name in enumerate((f"ppv {share}", f"npv {share}")):
            value = float(once[name][0])
            ends = logit_interval(value, drawn[name], studies.freedom)
            if ends[0] == ends[1]:  # nothing spreads: as sure as the exact bounds of both rates
                low, high = (float(corner[number][0]) for corner in corners)
                ends = low, high
            estimates.append(studies.estimate(value, ends))
        flags = 100 * (share * sensitivity + (1 - share) * (1 - specificity))
        ppv, npv = estimates
        rows.append(PredictiveValues(share, ppv, npv, flags))
    return tuple(rows)


def predictive_values(
    share: float, sensitivity: Floats, specificity: Floats
) -> tuple[Floats, Floats]:
    """PPV and NPV where a share is abnormal, by Bayes; NaN where nothing is called so."""
    with np.errstate(invalid="ignore", divide="ignore"):
        hits, alarms = share * sensitivity, (1 - share) * (1 - specificity)
        rest, misses = (1 - share) * specificity, share * (1 - sensitivity)
        return hits / (hits + alarms), rest / (rest + misses)


def _benefits(
    studies: StudyScores, thresholds: Sequence[float] | NDArray[np.float64], weights_bm: Floats
) -> tuple[Floats, Floats]:
    """The model's net benefit and that of calling every study, (B, T) each."""
    cuts = np.asarray(thresholds, dtype=np.float64)
    odds = cuts / (1 - cuts)
    called = studies.scores[:, None] >= cuts
    abnormal = (studies.labels == 1)[:, None]
    total = weights_bm.sum(1, keepdims=True)
    hits = weights_bm @ (called & abnormal) / total
    alarms = weights_bm @ (called & ~abnormal) / total
    share = weights_bm @ abnormal / total
    return hits - alarms * odds, share - (1 - share) * odds


def _estimate(studies: StudyScores, value: float, drawn: Floats) -> Estimate:
    freedom = studies.freedom
    if freedom < 1:
        return studies.estimate(np.nan, (np.nan, np.nan))
    reach = t_quantile(freedom) * float(drawn.std(ddof=1))
    return studies.estimate(value, (value - reach, value + reach))
