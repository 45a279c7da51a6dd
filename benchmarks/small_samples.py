"""Do intervals of Brier, calibration slope and paired AUC differences hold with few patients?

Draws test sets of 40 and 91 patients, of whom 1 in 10 has two studies, from known populations,
and counts how often each 95 % interval holds the true value; 200 repeats know a coverage of .95
within +-.03. A score is the log likelihood ratio of a latent normal variable, so it is calibrated
(`scale` 1) or too extreme (1.5). `old` intervals are those before the change: Brier by the
bootstrap alone, a slope by percentiles, a paired difference by percentiles. Two models of one AUC
that share half of their noise are compared: a `false claim` is an interval without 0.
"""

import functools
from collections import defaultdict
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from measure import arguments, opened

from mura_tune.metrics.calibration_error import estimate_brier, measure_calibration_error
from mura_tune.metrics.comparison import FEW, compare_aucs, compare_metrics
from mura_tune.metrics.estimates import Floats, StudyScores, logit_interval, resample, sigmoid
from mura_tune.metrics.ranking import weighted_auc
from mura_tune.metrics.recalibration import estimate_recalibration, fit_intercepts, fit_slopes

REPEATS, DRAWS, POPULATION = 200, 400, 200_000
CELLS = [(1.0, n, share, auc) for n in (40, 91) for share in (0.1, 0.5) for auc in (0.88, 0.99)]
CELLS += [(1.5, 40, 0.5, 0.88), (1.5, 91, 0.5, 0.99)]
PAIRED = [(40, 0.5), (91, 0.2), (91, 0.5), (160, 0.5)]


def sample(
    rng: np.random.Generator, patients: int, share: float, auc: float, scale: float
) -> list[StudyScores]:
    """A test set, and the scores of a second model of the same AUC for its studies."""
    studies = rng.choice([1, 2], patients, p=[0.9, 0.1])
    whose = np.repeat(np.arange(patients), studies)
    labels = (rng.random(patients) < share)[whose].astype(np.int64)
    gap = np.sqrt(2) * NormalDist().inv_cdf(auc)
    common = 0.5 * (rng.normal(size=patients)[whose] + rng.normal(size=len(whose)))
    tables = []
    for _ in range(2):
        own = np.sqrt(0.5) * rng.normal(size=len(whose))
        ratio = gap * (gap * (labels - 0.5) + common + own)
        scores = sigmoid(scale * (ratio + np.log(share / (1 - share))))
        names = np.arange(len(whose)).astype(object)
        tables.append(StudyScores(names, whose.astype(object), labels, scores))
    return tables


def percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_loss(loss: Floats, weights: Floats) -> Floats:
    return np.asarray(weights @ loss / weights.sum(1))


def weigh_auc(table: StudyScores, weights: Floats) -> Mapping[str, Floats]:
    return {"auc": weighted_auc(table.scores, table.labels, weights)}


def calibration_cell(scale: float, patients: int, share: float, auc: float, repeats: int) -> str:
    population, _ = sample(np.random.default_rng(0), POPULATION, share, auc, scale)
    p = np.clip(population.scores, 1e-9, 1 - 1e-9)
    logits, once = np.log(p / (1 - p)), np.ones((1, len(p)))
    truth = {
        "Brier": float(((p - population.labels) ** 2).mean()),
        "slope": float(fit_slopes(logits, population.labels, once)[0]),
        "intercept": float(fit_intercepts(logits, population.labels, once)[0]),
    }
    held: dict[tuple[str, str], list[bool]] = defaultdict(list)
    above: list[bool] = []
    for repeat in range(repeats):
        one, _ = sample(np.random.default_rng((patients, repeat)), patients, share, auc, scale)
        if one.rarer_patients < 2:
            continue
        loss = (one.scores - one.labels) ** 2
        drawn = resample(functools.partial(mean_loss, loss), one.patients, DRAWS, repeat)
        old = logit_interval(float(loss.mean()), drawn, one.count_patients() - 1)
        held["Brier", "old"].append(old[0] <= truth["Brier"] <= old[1])
        brier = estimate_brier(one, draws=DRAWS, seed=repeat)
        held["Brier", "new"].append(brier.low <= truth["Brier"] <= brier.high)
        for name, estimate in estimate_recalibration(one, draws=DRAWS, seed=repeat).items():
            if np.isfinite(estimate.value):
                held[name, "new"].append(estimate.low <= truth[name] <= estimate.high)
        z = np.clip(one.scores, 1e-9, 1 - 1e-9)
        z = np.log(z / (1 - z))
        slopes = resample(functools.partial(fit_slopes, z, one.labels), one.patients, 200, 0)
        if held["slope", "new"] and np.isfinite(slopes).any():
            low, high = percentiles(slopes)
            held["slope", "old"].append(low <= truth["slope"] <= high)
        error = measure_calibration_error(one, seed=repeat)
        assert error.expected_high is not None
        above.append(error.value > error.expected_high)
    columns = [("Brier", "old"), ("Brier", "new"), ("slope", "old"), ("slope", "new")]
    columns.append(("intercept", "new"))
    shown = "".join(f"{np.mean(held[key]):>8.3f}" for key in columns)
    return f"{scale:>5}{patients:>9}{share:>9}{auc:>6}{shown}{np.mean(above):>9.3f}"


def paired_cell(patients: int, share: float, repeats: int) -> str:
    claims: dict[str, list[bool]] = defaultdict(list)
    for repeat in range(repeats):
        rng = np.random.default_rng((patients, repeat))
        one, two = sample(rng, patients, share, 0.88, 1.0)
        if one.rarer_patients < 2:
            continue
        old = compare_aucs([one], [two], draws=DRAWS, seed=repeat)
        claims["percentile"].append(not old.low <= 0 <= old.high)
        few = one.rarer_patients
        ours, theirs = (functools.partial(weigh_auc, table) for table in (one, two))
        new = compare_metrics(one, ours, theirs, {"auc": few}.__getitem__)["auc"]
        claims["t"].append(not new.low <= 0 <= new.high)
        claims["few"].append(few < FEW)
    shown = "".join(f"{np.mean(claims[key]):>12.3f}" for key in ("percentile", "t", "few"))
    return f"{patients:>8}{share:>9}{shown}"


def main() -> None:
    quick = opened(arguments(__doc__)).quick
    repeats = 5 if quick else REPEATS
    print(f"\ncoverage, {repeats} repeats, {DRAWS} draws each; ECE: above 19 of 20 perfect models")
    print("scale patients abnormal   AUC   Brier   Brier   slope   slope intercept     ECE")
    print("                                  old     new     old     new     new   above")
    for scale, patients, share, auc in CELLS[:2] if quick else CELLS:
        print(calibration_cell(scale, patients, share, auc, repeats))
    print("\nfalse claims of a difference between two models of AUC .88 (should be .05)")
    print("patients abnormal  percentile           t  too few")
    for patients, share in PAIRED[:1] if quick else PAIRED:
        print(paired_cell(patients, share, repeats))


if __name__ == "__main__":
    main()
