"""Do 95 % intervals hold the truth 95 times in 100, when a patient has several studies and images?

Draws 400 test sets of two sizes from a known
population and counts how often each interval holds its value; 400 repeats know a coverage of .95
within +-.021. `ours` is what every report shows (metrics/estimates.py), `percentile` the middle of
the same patient-cluster draws, `naive` the bootstrap of images as if each were a patient of
its own. A score is 1.6 x label + a patient's part + a study's part + a view's part, so that
what belongs to one patient resembles itself.

With `--folds` it asks the same of the mean AUC over three patient folds of 20, 50 or 195 patients
each, where the true AUC is about .85, .95 or .99 in every fold: `ours` is
`metrics.comparison.average_folds`.
"""

import functools
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from measure import arguments, opened

from mura_tune.metrics.comparison import average_folds, compare_aucs
from mura_tune.metrics.estimates import (
    DRAWS,
    Estimate,
    Floats,
    StudyScores,
    ViewScores,
    resample,
    resample_all,
)
from mura_tune.metrics.operating_points import estimate_at_threshold, threshold_metrics
from mura_tune.metrics.ranking import AUC, auc, estimate_auc, weighted_auc

REPEATS, SIZES, POPULATION = 400, (50, 170), 400_000  # MURA's valid areas have 129 to 207 patients
EFFECT, SPREAD, CUT = 1.6, 0.6, 0.8  # of the label; of a patient, a study and a view each
FOLDS, FOLD_SIZES = 3, (20, 50, 195)  # patients a fold; humerus and forearm have 195 and 288
FOLD_DRAWS = 500  # a standard error within 3 %, in a quarter of the time
FOLD_EFFECTS = (1.39, 2.2, 3.13)  # of the label: AUCs of .85, .95 and .99


@dataclass(frozen=True)
class Sample:
    """One test set: its studies, its images, and a second model's scores for the studies."""

    studies: StudyScores
    views: ViewScores
    second: StudyScores


def sample(rng: np.random.Generator, patients: int, effect: float = EFFECT) -> Sample:
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
    image = (effect * labels + hard)[study] + SPREAD * rng.normal(size=len(study))
    names, whose = np.arange(n).astype(object), patient.astype(object)
    first = StudyScores(names, whose, labels, np.bincount(study, image) / views)
    return Sample(
        studies=first,
        views=ViewScores(names[study], whose[study], labels[study], image),
        second=replace(first, scores=effect * 0.8 * labels + hard + SPREAD * rng.normal(size=n)),
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
            drawn_from["naive"] = np.arange(len(rows.labels)).astype(object)
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


def folds_of(rng: np.random.Generator, patients: int, effect: float) -> list[StudyScores]:
    """Folds of so many patients, each with both classes; no patient is in two of them."""
    folds: list[StudyScores] = []
    while len(folds) < FOLDS:
        one = sample(rng, patients, effect).studies
        if one.rarer_patients:
            folds.append(replace(one, patients=one.patients + len(folds) * patients))
    return folds


def cover_folds(repeats: int) -> None:
    """Print how often the interval of a mean over folds holds the AUC that every fold has."""
    print(f"\n{FOLDS} folds, {repeats} repeats, {FOLD_DRAWS} draws each")
    print(f"{'patients a fold':<17}{'true AUC':<10}{'interval':<12}{'coverage':>8}{'width':>8}")
    for patients in FOLD_SIZES:
        for effect in FOLD_EFFECTS:
            population = sample(np.random.default_rng(0), POPULATION, effect).studies
            known = auc(population.scores, population.labels)
            held: dict[str, list[bool]] = defaultdict(list)
            width: dict[str, list[float]] = defaultdict(list)
            for repeat in range(repeats):
                folds = folds_of(np.random.default_rng((patients, repeat)), patients, effect)
                ours = average_folds(folds, draws=FOLD_DRAWS, seed=repeat)
                drawn = [
                    resample(
                        functools.partial(AUC.values, fold),
                        fold.patients,
                        FOLD_DRAWS,
                        repeat + number,
                    )
                    for number, fold in enumerate(folds)
                ]
                ends = np.nanpercentile(np.mean(drawn, axis=0), [2.5, 97.5])
                for method, (low, high) in (("ours", (ours.low, ours.high)), ("percentile", ends)):
                    held[method].append(low <= known <= high)
                    width[method].append(high - low)
            for method, hits in sorted(held.items(), reverse=True):
                of = f"{patients:<17}{known:<10.3f}{method:<12}"
                print(f"{of}{np.mean(hits):>8.3f}{np.mean(width[method]):>8.3f}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--folds", action="store_true", help="the mean AUC over patient folds")
    given = opened(parser)
    repeats = 10 if given.quick else REPEATS
    if given.folds:
        cover_folds(repeats)
        return
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
