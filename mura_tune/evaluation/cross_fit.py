"""A decision for the studies of another place, and what it is worth there.

A network keeps its weights; its calibration, operating points and band of doubt are chosen again on
local studies. What that is worth is measured by cross-fitting: the patients are dealt to folds, and
each study is answered by a decision that was chosen without its patient's fold. Figures of the
decision on the very studies that chose it would flatter it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mura_tune.evaluation.decision import (
    Calibration,
    Decision,
    choose_decision,
    fit_calibration,
)
from mura_tune.metrics.calibration_error import estimate_brier, estimate_log_loss
from mura_tune.metrics.estimates import Names, StudyLogits, StudyScores
from mura_tune.metrics.operating_points import estimate_at_threshold, prevalence_threshold
from mura_tune.metrics.recalibration import estimate_recalibration
from mura_tune.release_format.entries import SIGMOID_OF_MEAN
from mura_tune.release_format.recalibration import LocalFiguresEntry

_FOLDS = 10
# Holds the slope near the parent's, as if it were known to lie within a standard deviation of 0.25
# of it. Of the ridges in benchmarks/recalibrate.py the best compromise.
LOCAL_RIDGE = 16.0
FEW_PATIENTS = 50  # below, probabilities often come out worse (benchmarks/recalibrate.py)


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Local studies, each answered by a decision that was chosen without its patient's fold.

    Attributes:
        studies: with their probabilities, M of them.
        called: which are called abnormal at the recommended operating point of their fold, (M,).
        folds: how many there are.
    """

    studies: StudyScores
    called: NDArray[np.bool_]
    folds: int


def recalibrate(parent: Calibration, local: StudyLogits) -> Decision:
    """Choose the decision of a release again, on local studies.

    Platt's scaling is fitted to the mean of the logits that `parent` calibrated, with a ridge that
    holds the slope near the parent's: the level of probabilities moves freely, their slope as far
    as the studies are many.

    Args:
        parent: the calibration that the release has.
        local: with the mean logits of their views, as the network gives them.

    Raises:
        InputError: a logit is not finite.
    """
    chosen = choose_decision(_calibrate(parent, local), ridge=LOCAL_RIDGE, split="local")
    return replace(chosen, calibration=_chain(parent, chosen.calibration))


def fit_locally(parent: Calibration, local: StudyLogits) -> Calibration:
    """The calibration of `recalibrate` alone, for logits of the network."""
    return _chain(parent, fit_calibration(_calibrate(parent, local), LOCAL_RIDGE))


def cross_fit(parent: Calibration, local: StudyLogits, *, seed: int = 0) -> CrossFit:
    """Answer each local study by a decision that was chosen without its patient's fold.

    Patients with an abnormal study and the others are dealt apart, so that folds have alike shares.
    """
    folds_m = fold_patients(local.patients, local.labels, seed)
    scores = np.full(len(folds_m), np.nan)
    called = np.zeros(len(folds_m), dtype=bool)
    for fold in np.unique(folds_m):
        own = folds_m == fold
        rest = local.take(~own)
        calibration = fit_locally(parent, rest)
        scores[own] = replace(local, logits=calibration.logits(local.logits)).scores().scores[own]
        threshold = prevalence_threshold(rest.scores())  # of labels alone
        called[own] = scores[own] >= threshold
    studies = StudyScores(local.names, local.patients, local.labels, scores)
    return CrossFit(studies, called, len(np.unique(folds_m)))


def fold_patients(patients_m: Names, labels_m: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The number of the fold of each study's patient, (M,): ten of them, or as many as there are
    patients."""
    names, inverse = np.unique(patients_m, return_inverse=True)
    abnormal = np.bincount(inverse, weights=labels_m) > 0
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(abnormal[order], kind="stable")]
    folds = np.empty(len(names), dtype=np.int64)
    folds[order] = np.arange(len(names)) % _FOLDS
    return np.asarray(folds[inverse])


def measure_locally(
    studies: StudyScores, called_m: NDArray[np.bool_], threshold: float
) -> LocalFiguresEntry:
    """What probabilities and calls of local studies are worth, with 95 % intervals by patient."""
    calls = replace(studies, scores=called_m.astype(np.float64))
    at_point = estimate_at_threshold(calls, 0.5)
    return LocalFiguresEntry(
        threshold=threshold,
        **estimate_recalibration(studies),
        brier=estimate_brier(studies),
        log_loss=estimate_log_loss(studies),
        sensitivity=at_point["sensitivity"],
        specificity=at_point["specificity"],
    )


def _calibrate(calibration: Calibration, local: StudyLogits) -> StudyLogits:
    return replace(local, logits=calibration.logits(local.logits))


def _chain(first: Calibration, second: Calibration) -> Calibration:
    """The calibration that gives what `second` gives of the logits that `first` gives."""
    return Calibration(
        temperature=first.temperature * second.temperature,
        offset=first.offset + first.temperature * second.offset,
        aggregation=SIGMOID_OF_MEAN,
    )
