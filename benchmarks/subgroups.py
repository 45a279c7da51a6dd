"""From how many patients on does a group's number, or a difference to the rest, say something?

Draws test sets in which a group has so many patients with an abnormal study and as many with a
normal one, and the rest 60 and 90. A patient has a second study with a probability of 0.15; a
score is the label's effect + a patient's part + a study's part. The true values come from the
normal distribution. `like`: the group is like the rest, at an AUC of .75, .88 or .95; `worse`: its
label's effect is smaller by a third; `overlap`: half of the group's patients have a study in the
rest too, as with views. Printed is how often an interval holds the true value and how wide it is,
how often a difference of a like group is called one (`false`) and that of a worse group is found
(`found`; its specificity is that of the rest). 200 repeats know a coverage of .95 within +-.031.

`ours` is metrics.groups.compare_groups: the ends of a difference made from those of its sides;
`draws` is the difference and t times the standard deviation of its draws, with the degrees of
freedom of the smaller side. `--corrections` asks the same of the difference that corrected labels
make, by the number of patients whose labels change.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from math import erf, sqrt

import numpy as np
from measure import arguments, opened

from mura_tune.evaluation.corrections import compare_labels
from mura_tune.metrics.estimates import Estimate, Floats, StudyScores, resample_all, t_quantile
from mura_tune.metrics.groups import (
    DIFFERENCE_METRICS,
    GROUP_METRICS,
    compare_groups,
    estimate_group,
    rests_on,
)
from mura_tune.metrics.operating_points import threshold_metrics, weigh_metrics
from mura_tune.metrics.ranking import weighted_auc

REPEATS, DRAWS = 200, 300  # a standard error within 4 %, in a sixth of the time
SIZES = (5, 8, 10, 15, 20, 30)
REST = (60, 90)  # patients with abnormal and with normal studies
EFFECTS = (0.954, 1.662, 2.326)  # of the label, in standard deviations: AUCs of .75, .88, .95
WORSE = 2 / 3
OF_PATIENT = sqrt(0.5)  # the patient's and the study's part of a score's standard deviation of 1
SECOND = 0.15
SHARES = (0.02, 0.05, 0.1, 0.2)  # of studies whose label was wrong
PATIENTS, POPULATION = 160, 200_000


def draw_table(
    rng: np.random.Generator, abnormal: int, normal: int, effect: float, first: int = 0
) -> StudyScores:
    """So many patients with abnormal and with normal studies, numbered from `first`."""
    patients = first + np.repeat(
        np.arange(abnormal + normal), 1 + (rng.random(abnormal + normal) < SECOND)
    )
    labels = (patients - first < abnormal).astype(np.int64)
    hard = OF_PATIENT * rng.normal(size=abnormal + normal)[patients - first]
    scores = effect * labels + hard + OF_PATIENT * rng.normal(size=len(patients))
    names = (np.arange(len(patients)) + 10_000 * first).astype(object)
    return StudyScores(names, patients.astype(object), labels, scores)


def truth(effect: float, threshold: float) -> dict[str, float]:
    def cdf(x: float) -> float:
        return (1 + erf(x / sqrt(2))) / 2

    return {
        "auc": cdf(effect / sqrt(2)),
        "sensitivity": cdf(effect - threshold),
        "specificity": cdf(threshold),
    }


def by_draws(ours: StudyScores, theirs: StudyScores, threshold: float) -> dict[str, Estimate]:
    """The difference and t times the spread of its draws."""
    first = len(ours.labels)

    def metrics(studies: StudyScores, weights: Floats) -> dict[str, Floats]:
        found = threshold_metrics(studies.scores >= threshold, studies.labels, weights)
        return found | {"auc": weighted_auc(studies.scores, studies.labels, weights)}

    def differences(weights: Floats) -> dict[str, Floats]:
        one, two = metrics(ours, weights[:, :first]), metrics(theirs, weights[:, first:])
        return {name: one[name] - two[name] for name in DIFFERENCE_METRICS}

    patients = np.concatenate([ours.patients, theirs.patients])
    once = differences(np.ones((1, len(patients))))
    found = {}
    for name, values in resample_all(differences, patients, DRAWS, 0).items():
        few = min(rests_on(ours)[name], rests_on(theirs)[name])
        reach = t_quantile(few - 1) * float(np.nanstd(values, ddof=1))
        value = float(once[name][0])
        found[name] = Estimate(value, value - reach, value + reach, 0, 0)
    return found


def overlapping(rng: np.random.Generator, size: int, effect: float) -> Iterator[StudyScores]:
    """A group, and a rest in which half of the group's patients have another study."""
    both = 2 * size
    group = draw_table(rng, size, size, effect)
    part = dict(zip(group.patients, group.scores - effect * group.labels, strict=True))
    rest = draw_table(rng, *REST, effect, first=both)
    shared = group.patients[np.unique(group.patients, return_index=True)[1]]
    shared = shared[rng.random(len(shared)) < 0.5]
    own = np.array([part[name] for name in shared])
    # what a patient's other study keeps of a known one: half of the variance, and the rest anew
    scores = effect * (shared < size) + 0.5 * own + sqrt(0.75) * rng.normal(size=len(shared))
    yield group
    yield StudyScores(
        np.concatenate([rest.names, (-1 - np.arange(len(shared))).astype(object)]),
        np.concatenate([rest.patients, shared]),
        np.concatenate([rest.labels, (shared < size).astype(np.int64)]),
        np.concatenate([rest.scores, scores]),
    )


def separate(
    rng: np.random.Generator, size: int, effect: float, own: float
) -> Iterator[StudyScores]:
    """A group whose label has the effect `own`, and a rest without its patients."""
    yield draw_table(rng, size, size, own)
    yield draw_table(rng, *REST, effect, first=2 * size)


def measure_groups(repeats: int, sizes: tuple[int, ...]) -> None:
    print(f"\n{repeats} repeats, {DRAWS} draws each; the rest has {REST[0]} and {REST[1]} patients")
    print(
        f"{'world':<9}{'AUC':<6}{'each class':<12}{'metric':<13}{'group holds':>12}{'width':>7}"
        f"{'ours holds':>12}{'width':>7}{'false':>7}{'found':>7}{'draws hold':>12}{'false':>7}"
    )
    for world in ("like", "worse", "overlap"):
        for effect in EFFECTS if world == "like" else EFFECTS[1:2]:
            for size in sizes:
                _measure_cell(world, effect, size, repeats)


def _measure_cell(world: str, effect: float, size: int, repeats: int) -> None:
    own = effect * WORSE if world == "worse" else effect
    threshold = effect / 2
    known, of_rest = truth(own, threshold), truth(effect, threshold)
    seen: dict[tuple[str, str], list[float]] = defaultdict(list)
    for repeat in range(repeats):
        rng = np.random.default_rng((size, round(1000 * effect), repeat))
        drawn = (
            overlapping(rng, size, effect)
            if world == "overlap"
            else separate(rng, size, effect, own)
        )
        group, rest = drawn
        estimates = tuple(
            estimate_group(side, threshold, least=1, draws=DRAWS, seed=repeat)
            for side in (group, rest)
        )
        ours = compare_groups(
            group, rest, (estimates[0], estimates[1]), threshold, draws=DRAWS, seed=repeat
        )
        drawn_ends = by_draws(group, rest, threshold)
        for name in DIFFERENCE_METRICS:
            value, difference = estimates[0][name], ours[name]
            assert value is not None
            assert difference is not None
            gap = known[name] - of_rest[name]
            seen[name, "group"].append(value.low <= known[name] <= value.high)
            seen[name, "width"].append(value.high - value.low)
            for method, one in (("ours", difference), ("draws", drawn_ends[name])):
                seen[name, method].append(one.low <= gap <= one.high)
                seen[name, f"{method} width"].append(one.high - one.low)
                seen[name, f"{method} claims"].append(not one.low <= 0 <= one.high)
    for name in DIFFERENCE_METRICS:
        mean = {key: np.mean(values) for (of, key), values in seen.items() if of == name}
        claims = f"{mean['ours claims']:.3f}"
        false, found = ("", claims) if world == "worse" else (claims, "")
        others = "" if world == "worse" else f"{mean['draws claims']:.3f}"
        print(
            f"{world:<9}{truth(effect, 0)['auc']:<6.2f}{size:<12}{name:<13}{mean['group']:>12.3f}"
            f"{mean['width']:>7.2f}{mean['ours']:>12.3f}{mean['ours width']:>7.2f}{false:>7}"
            f"{found:>7}{mean['draws']:>12.3f}{others:>7}"
        )


def mislabelled(
    rng: np.random.Generator, patients: int, effect: float, share: float
) -> tuple[StudyScores, StudyScores]:
    """A table with a share of wrong labels, and the same with the right ones."""
    right = draw_table(rng, round(0.4 * patients), patients - round(0.4 * patients), effect)
    wrong = rng.random(len(right.labels)) < share
    return replace(right, labels=np.where(wrong, 1 - right.labels, right.labels)), right


def measure_corrections(repeats: int) -> None:
    print(f"\ncorrected labels, {PATIENTS} patients, {repeats} repeats, {DRAWS} draws each")
    print(f"{'AUC':<6}{'share wrong':<13}{'patients':<10}{'metric':<13}{'holds':>7}{'width':>7}")
    for effect in EFFECTS:
        threshold = effect / 2
        for share in SHARES:
            population = mislabelled(np.random.default_rng(0), POPULATION, effect, share)
            once = np.ones((1, len(population[0].labels)))
            before, after = (weigh_metrics(each, threshold, once) for each in population)
            seen: dict[str, list[tuple[bool, float]]] = defaultdict(list)
            changed = []
            for repeat in range(repeats):
                rng = np.random.default_rng((round(1000 * effect), repeat))
                tables = mislabelled(rng, PATIENTS, effect, share)
                wrong = tables[0].labels != tables[1].labels
                changed.append(len(np.unique(tables[0].patients[wrong])))
                gaps = compare_labels(*tables, threshold, least=2, draws=DRAWS)
                for name in GROUP_METRICS:
                    if (gap := gaps[name]) is not None:
                        known = float(after[name][0] - before[name][0])
                        seen[name].append((gap.low <= known <= gap.high, gap.high - gap.low))
            for name, rows in seen.items():
                holds, width = np.mean(rows, axis=0)
                print(
                    f"{truth(effect, 0)['auc']:<6.2f}{share:<13}{np.mean(changed):<10.1f}"
                    f"{name:<13}{holds:>7.3f}{width:>7.2f}"
                )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--corrections", action="store_true", help="corrected labels in their place"
    )
    given = opened(parser)
    repeats = 10 if given.quick else REPEATS
    if given.corrections:
        measure_corrections(repeats)
    else:
        measure_groups(repeats, SIZES[:2] if given.quick else SIZES)


if __name__ == "__main__":
    main()
