"""Do 95 % intervals hold the truth 95 times in 100, when a patient has several studies and images?

Draws 400 test sets of two sizes from a known
population and counts how often each interval holds its value; 400 repeats know a coverage of .95
within +-.021. `ours` is what every report shows (metrics/estimates.py), `percentile` the middle of
the same patient-cluster draws, `naive` the bootstrap of images as if each were a patient of
its own. A score is 1.6 x label + a patient's part + a study's part + a view's part, so that
what belongs to one patient resembles itself.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from measure import arguments, opened

from mura_tune.metrics.comparison import compare_aucs
from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    StudyScores,
    ViewScores,
    resample_all,
)
from mura_tune.metrics.operating_points import estimate_at_threshold, threshold_metrics
from mura_tune.metrics.ranking import auc, estimate_auc, weighted_auc

REPEATS, SIZES, POPULATION = 400, (50, 170), 400_000  # MURA's valid areas have 129 to 207 patients
EFFECT, SPREAD, CUT = 1.6, 0.6, 0.8  # of the label; of a patient, a study and a view each


@dataclass(frozen=True)
class Sample:
    """One test set: its studies, its images, and a second model's scores for the studies."""

    studies: StudyScores
    views: ViewScores
    second: StudyScores


def sample(rng: np.random.Generator, patients: int) -> Sample:
    """Patients with 1 to 3 studies of 1 to 3 views; two studies of one patient often agree."""
    studies = rng.choice([1, 2, 3], patients, p=[0.7, 0.2, 0.1])
    patient = np.repeat(np.arange(patients), studies)
    n = len(patient)
    of_patient = rng.random(patients) < 0.45
    own = rng.random(n) < 0.25
    labels = np.where(own, rng.random(n) < 0.45, of_patient[patient]).astype(np.int64)
    views = rng.choice([1, 2, 3], n, p=[0.2, 0.4, 0.4])
    study = np.repeat(np.arange(n), views)
    hard = SPREAD * (rng.normal(size=patients)[patient] + rng.normal(size=n))
    image = (EFFECT * labels + hard)[study] + SPREAD * rng.normal(size=len(study))
    names, whose = np.arange(n), patient
    first = StudyScores(names, whose, labels, np.bincount(study, image) / views)
    return Sample(
        studies=first,
        views=ViewScores(study, whose[study], labels[study], image),
        second=replace(first, scores=EFFECT * 0.8 * labels + hard + SPREAD * rng.normal(size=n)),
    )


def kappa(rows: StudyScores, weights: Floats) -> Floats:
    return threshold_metrics(rows.scores >= CUT, rows.labels, weights)["kappa"]


def truth(population: Sample) -> dict[str, float]:
    found = {}
    for level, rows in (("study", population.studies), ("image", population.views)):
        found[f"{level} AUC"] = auc(rows.scores, rows.labels)
        found[f"{level} kappa"] = float(kappa(rows, np.ones((1, len(rows.labels))))[0])
    second = auc(population.second.scores, population.second.labels)
    return found | {"AUC difference": found["study AUC"] - second}


def intervals(one: Sample, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Every interval of one test set, by figure and method."""
    found = {}
    for level, rows in (("study", one.studies), ("image", one.views)):
        drawn_from = {"percentile": rows.patients}
        if level == "image":
            drawn_from["naive"] = np.arange(len(rows.labels))
        ours: dict[str, Estimate] = {
            "AUC": estimate_auc(rows, seed=seed),
            "kappa": estimate_at_threshold(rows, CUT, seed=seed)["kappa"],
        }
        for figure, estimate in ours.items():
            found[f"{level} {figure}", "ours"] = (estimate.low, estimate.high)

        def figures(weights: Floats, rows: StudyScores = rows) -> dict[str, Floats]:
            area = weighted_auc(rows.scores, rows.labels, weights)
            return {"AUC": area, "kappa": kappa(rows, weights)}

        for method, clusters in drawn_from.items():
            for figure, value in resample_all(figures, clusters, DRAWS, seed).items():
                low, high = np.nanpercentile(value, [2.5, 97.5])
                found[f"{level} {figure}", method] = (float(low), float(high))
    paired = compare_aucs([one.studies], [one.second], seed=seed)
    found["AUC difference", "percentile"] = (paired.low, paired.high)
    return found


def main() -> None:
    repeats = 10 if opened(arguments(__doc__)).quick else REPEATS
    known = truth(sample(np.random.default_rng(0), POPULATION))
    print("truth: " + ", ".join(f"{name} {value:.3f}" for name, value in known.items()))
    for patients in SIZES:
        held: dict[tuple[str, str], list[bool]] = defaultdict(list)
        width: dict[tuple[str, str], list[float]] = defaultdict(list)
        for repeat in range(repeats):
            one = sample(np.random.default_rng((patients, repeat)), patients)
            for key, (low, high) in intervals(one, repeat).items():
                held[key].append(low <= known[key[0]] <= high)
                width[key].append(high - low)
        print(f"\n{patients} patients, {repeats} repeats, {DRAWS} draws each")
        print(f"{'figure':<16}{'interval':<12}{'coverage':>8}{'width':>8}")
        for (figure, method), hits in sorted(held.items(), reverse=True):
            mean_width = np.mean(width[figure, method])
            print(f"{figure:<16}{method:<12}{np.mean(hits):>8.3f}{mean_width:>8.3f}")


if __name__ == "__main__":
    main()
