"""What does a whole search claim, and what is its winner worth, when the truth is known?

A simulation of search, confirmation and verdict in a parametric world. What decides are the
package's own functions: `rank_by_mean`, `compare_confirmed`, `judge`. A study's score in a run is

    d' of (recipe, seed) x label + sqrt(a) study + sqrt(b) recipe x study
                                 + sqrt(c) run x study + sqrt(e) epoch x study

with a = 1 - b - c - e, so that its variance within a class is 1; studies of a patient share half of
each part. d' makes the recipe's AUC, and varies between seeds. A run has EPOCHS epochs of equal
worth and keeps the one with the best dev AUC. b, c, e and the seeds' SD are those of NOISE, or read
off the runs of a search whose seeds were judged on one dev split (`--stored FILE NAME`).

The baseline has AUC .87. The best recipe of the space is better by the effect. A drawn recipe falls
short of the best by SHORT x chi-square(4) / 4, with less of it once the sampler is guided.

Columns: how often the winner is said to beat the baseline, and how often falsely; how often the
difference's interval holds the true one; true AUC of the winner minus the baseline's; how often it
is above and below 0; the winner's score in the search, and its mean over new seeds, minus its true
AUC; the interval's width. Each is a mean over the searches; the standard error of a share p is
sqrt(p (1 - p) / searches).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from measure import arguments, opened
from numpy.typing import NDArray

from mura_tune.database.storage import load_study, open_storage
from mura_tune.database.urls import url_of
from mura_tune.metrics.comparison import compare_confirmed, compare_folds
from mura_tune.metrics.estimates import Estimate, StudyScores, resample_all
from mura_tune.metrics.ranking import AUC
from mura_tune.search.results import choose_winner, load_confirmation, rank_by_mean
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.verdict import Verdict, judge

Floats = NDArray[np.float64]
AUC_0, ABNORMAL, TWO_STUDIES, DEV = 0.87, 0.4, 0.1, 0.2
EPOCHS = 3
DRAWS = 100  # of the bootstrap, in place of 2,000: there are thousands of searches
SHORT = {"random": 0.055, "guided": 0.0065}
SIZES, EFFECTS = (60, 120, 400, 700), (0.0, 0.01, 0.02)
NORMAL = statistics.NormalDist()


@dataclass(frozen=True)
class Noise:
    """Shares of a study's variance, and the SD of a recipe's AUC between seeds."""

    recipe: float
    run: float
    epoch: float
    seed_sd: float


# As the audit of the statistics had them: `low` is a small CNN's on phantoms.
NOISE = {
    "low": Noise(0.05, 0.04, 0.01, 0.006),
    "mid": Noise(0.08, 0.08, 0.02, 0.0105),
    "high": Noise(0.12, 0.14, 0.04, 0.018),
}


def read_noise(file: str, name: str) -> Noise:
    """The noise of the runs that confirmed a stored search."""
    storage = open_storage(url_of(file))
    search = SearchRecord(load_study(storage, name, url_of(file)))
    reruns = choose_winner(search, load_confirmation(storage, name)).runs
    if len(reruns) < 2 or any(run.own_dev for runs in reruns.values() for run in runs):
        sys.exit(f"{name}: needs two recipes confirmed by seeds of the search's own dev split")
    tables = {n: [search.scored(run)[0] for run in runs] for n, runs in reruns.items()}
    logits = {n: [unit_logits(table) for table in of] for n, of in tables.items()}
    pairs = [(i, j) for i in logits for j in logits if i < j]
    alike = np.mean([a @ b for of in logits.values() for a, b in itertools.combinations(of, 2)])
    others = np.mean([a @ b for i, j in pairs for a in logits[i] for b in logits[j]])
    steps = [last_epochs(run.frozen.intermediate_values) for of in reruns.values() for run in of]
    table = next(iter(tables.values()))[0]
    epoch = float(np.mean([np.diff(each).var() / 2 for each in steps if len(each) > 2] or [0.0]))
    share = min(1 - float(alike), epoch / variance_of_noise(table))
    seeds = float(np.mean([seed_variance(of) for of in tables.values()]))
    return Noise(
        max(0.0, float(alike - others)), 1 - float(alike) - share, share, math.sqrt(max(0.0, seeds))
    )


def unit_logits(table: StudyScores) -> Floats:
    """The logits, of mean 0 within each class, and of length 1 in all."""
    p = np.clip(table.scores, 1e-6, 1 - 1e-6)
    logits = np.log(p / (1 - p))
    for label in (0, 1):
        logits[table.labels == label] -= logits[table.labels == label].mean()
    return np.asarray(logits / np.linalg.norm(logits))


def last_epochs(scores: Mapping[int, float]) -> list[float]:
    """Dev scores of the last half of the epochs."""
    return [scores[number] for number in sorted(scores)[len(scores) // 2 :]]


def variance_of_noise(table: StudyScores) -> float:
    """Variance of the AUC where each logit gets noise, a unit of it for their variance of 1."""
    rng, x = np.random.default_rng(0), 0.02
    logits = np.log(table.scores / (1 - table.scores))
    within = math.sqrt(np.mean([logits[table.labels == label].var() for label in (0, 1)]))
    noise = math.sqrt(x) * within * rng.standard_normal((200, len(logits)))
    return float(aucs(logits + noise, table.labels).var() / x)


def seed_variance(tables: Sequence[StudyScores]) -> float:
    """Variance of the AUC over seeds, without what the patients make of it."""
    once = np.array([AUC.score(table) for table in tables])

    def values(weights: Floats) -> dict[str, Floats]:
        return {str(k): AUC.values(table, weights) for k, table in enumerate(tables)}

    drawn = np.array([*resample_all(values, tables[0].patients, 500, 0).values()])
    return float(once.var(ddof=1) - np.nanmean((drawn - once[:, None]).var(axis=0, ddof=1)))


@dataclass(frozen=True)
class Procedure:
    """A search of so many trials, and how its best are confirmed.

    Attributes:
        resplit: seed k is judged on a dev split of its own.
        pooled: the interval is that of `compare_confirmed`; else patients alone, by percentiles.
    """

    name: str
    trials: int
    random: int
    top: int
    seeds: int
    resplit: bool
    pooled: bool


PROCEDURES = (
    Procedure("before: 40 + 3 x 2, patients alone", 40, 10, 3, 2, False, False),
    Procedure("40 + 3 x 2, patients and seeds", 40, 10, 3, 2, False, True),
    Procedure("24 + 5 x 4, patients and seeds", 24, 8, 5, 4, False, True),
    Procedure("24 + 5 x 4, each seed on its dev split", 24, 8, 5, 4, True, True),
    Procedure("28 + 4 x 4, each seed on its dev split", 28, 9, 4, 4, True, True),
    Procedure("30 + 6 x 3, each seed on its dev split", 30, 10, 6, 3, True, True),
)


@dataclass(frozen=True, eq=False)
class World:
    """The studies of an area that are not test, and how runs score them.

    Attributes:
        labels, patients: of each study, (N,).
        shared: what all runs score alike, (N,).
    """

    noise: Noise
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]
    shared: Floats
    rng: np.random.Generator

    def parts(self, rows: NDArray[np.int64], *shape: int) -> Floats:
        """Unit noise (*shape, rows), half of which studies of a patient share."""
        _, patients = np.unique(self.patients[rows], return_inverse=True)
        of_patient = self.rng.standard_normal((*shape, patients.max() + 1))[..., patients]
        own = self.rng.standard_normal((*shape, len(rows)))
        return np.asarray(math.sqrt(0.5) * (of_patient + own))

    def run(self, rows: NDArray[np.int64], d: Floats, of_recipe: Floats) -> Floats:
        """Scores (R, rows) of R runs after each's best epoch; d is each run's d', (R,)."""
        noise, labels = self.noise, self.labels[rows]
        a = 1 - noise.recipe - noise.run - noise.epoch
        fixed = (
            d[:, None] * labels
            + math.sqrt(a) * self.shared[rows]
            + math.sqrt(noise.recipe) * of_recipe
            + math.sqrt(noise.run) * self.parts(rows, len(d))
        )
        epochs = fixed[:, None] + math.sqrt(noise.epoch) * self.parts(rows, len(d), EPOCHS)
        best = aucs(epochs, labels).argmax(axis=1)
        return np.asarray(epochs[np.arange(len(d)), best])

    def table(self, rows: NDArray[np.int64], scores: Floats) -> StudyScores:
        names = rows.astype(str).astype(object)
        patients = self.patients[rows].astype(str).astype(object)
        return StudyScores(names, patients, self.labels[rows], scores)


def make_world(dev: int, noise: Noise, rng: np.random.Generator) -> World:
    """A world in which a dev split has about `dev` studies."""
    patients = round(dev / DEV / (1 + TWO_STUDIES))
    of = np.repeat(np.arange(patients), 1 + (rng.random(patients) < TWO_STUDIES))
    labels = (rng.random(len(of)) < ABNORMAL).astype(np.int64)
    world = World(noise, labels, of, np.zeros(0), rng)
    return dataclasses.replace(world, shared=world.parts(np.arange(len(of))))


def aucs(scores: Floats, labels: NDArray[np.int64]) -> Floats:
    """AUC along the last axis; scores are continuous, so none are tied."""
    ranks = scores.argsort(axis=-1).argsort(axis=-1) + 1
    n1 = int(labels.sum())
    n0 = len(labels) - n1
    return np.asarray((ranks[..., labels == 1].sum(axis=-1) - n1 * (n1 + 1) / 2) / (n1 * n0))


def draw_seeds(auc: Floats, noise: Noise, rng: np.random.Generator) -> Floats:
    """d' of one run of each recipe, from the recipes' AUCs."""
    middle = math.sqrt(2) * np.array([NORMAL.inv_cdf(one) for one in np.clip(auc, 0.501, 0.9999)])
    slope = np.exp(-(middle**2) / 4) / math.sqrt(4 * math.pi)  # of AUC = Phi(d' / sqrt 2)
    return np.asarray(middle + noise.seed_sd / slope * rng.standard_normal(len(auc)))


@dataclass(frozen=True)
class Outcome:
    """One search: what was said, what is so.

    Attributes:
        truth: AUC of the winner's recipe minus the baseline's.
        said: the difference, None where the baseline won.
        searched, confirmed: the winner's score, and its mean over new seeds, minus its true AUC.
    """

    verdict: Verdict
    truth: float
    said: Estimate | None
    searched: float
    confirmed: float


def simulate(procedure: Procedure, dev: int, effect: float, noise: Noise, seed: int) -> Outcome:
    """A search, its confirmation and its verdict."""
    rng = np.random.default_rng([7, dev, round(1000 * effect), seed])
    world = make_world(dev, noise, rng)
    rows = split(world, rng)
    guided = np.arange(procedure.trials) >= procedure.random
    short = np.where(guided, SHORT["guided"], SHORT["random"])
    auc = AUC_0 + effect - short * rng.chisquare(4, procedure.trials) / 4
    auc[0] = AUC_0
    of_recipe = world.parts(np.arange(len(world.labels)), procedure.trials)
    searched = world.run(rows, draw_seeds(auc, noise, rng), of_recipe[:, rows])
    first = aucs(searched, world.labels[rows])
    top = first.argsort()[::-1][: procedure.top].tolist()
    candidates = np.array([*top, *([] if 0 in top else [0])])
    runs: dict[int, list[list[StudyScores]]] = {int(number): [] for number in candidates}
    for _ in range(procedure.seeds):
        judged = split(world, rng) if procedure.resplit else rows
        d = draw_seeds(auc[candidates], noise, rng)
        scores = world.run(judged, d, of_recipe[candidates][:, judged])
        for number, one in zip(runs, scores, strict=True):
            runs[number].append([world.table(judged, one)])
    means = {n: [AUC.score(fold) for (fold,) in of] for n, of in runs.items()}
    winner = rank_by_mean(means)[0]
    truth = float(auc[winner] - AUC_0)
    confirmed = statistics.fmean(means[winner]) - float(auc[winner])
    picked = float(first[winner] - auc[winner])
    if winner == 0:
        return Outcome(Verdict.BASELINE, 0.0, None, picked, confirmed)
    if procedure.pooled:
        said = compare_confirmed(runs, winner, 0, draws=DRAWS)
    else:
        said = compare_folds(runs[winner], runs[0], draws=3 * DRAWS)
    rarer = min(int(world.labels[rows].sum()), int((1 - world.labels[rows]).sum()))
    return Outcome(judge(said, rarer), truth, said, picked, confirmed)


def split(world: World, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the studies of a dev split: each patient is in it or not."""
    chosen = rng.random(world.patients.max() + 1) < DEV
    return np.flatnonzero(chosen[world.patients])


COLUMNS = {
    "beats": 3,
    "false": 3,
    "holds": 3,
    "gain": 4,
    "better": 2,
    "worse": 2,
    "search": 3,
    "mean": 3,
    "width": 3,
}  # digits after the point


def describe(outcomes: Sequence[Outcome]) -> str:
    """The columns, of one procedure in one cell."""
    beats = [o.verdict is Verdict.BEATS for o in outcomes]
    truth = np.array([o.truth for o in outcomes])
    said = [(o.said, o.truth) for o in outcomes if o.said]
    values = (
        np.mean(beats),
        np.mean(beats & (truth <= 0)),
        np.mean([d.low <= t <= d.high for d, t in said]),
        truth.mean(),
        np.mean(truth > 0),
        np.mean(truth < 0),
        np.mean([o.searched for o in outcomes]),
        np.mean([o.confirmed for o in outcomes]),
        np.mean([d.high - d.low for d, _ in said]),
    )
    return "".join(f"{v:>9.{n}f}" for v, n in zip(values, COLUMNS.values(), strict=True))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--noise", choices=NOISE, default="mid")
    parser.add_argument("--stored", nargs=2, metavar=("FILE", "NAME"))
    parser.add_argument("--dev", type=int, nargs="+", default=SIZES, help="studies of dev")
    parser.add_argument("--effect", type=float, nargs="+", default=EFFECTS)
    parser.add_argument(
        "--procedures",
        type=int,
        nargs="+",
        default=range(1, len(PROCEDURES) + 1),
        help="which of them, counted from 1",
    )
    given = opened(parser)
    noise = read_noise(*given.stored) if given.stored else NOISE[given.noise]
    searches = 8 if given.quick else given.searches
    print(
        f"{searches} searches a cell; shares of variance: recipe {noise.recipe:.3f}, "
        f"run {noise.run:.3f}, epoch {noise.epoch:.3f}; seeds' SD of AUC {noise.seed_sd:.4f}"
    )
    print(" " * 40 + "".join(f"{name:>9}" for name in COLUMNS))
    with multiprocessing.Pool(2) as pool:
        cells = [*itertools.product(given.dev, given.effect)][: 1 if given.quick else None]
        for dev, effect in cells:
            print(f"dev of about {dev} studies, best recipe better by {effect}")
            for procedure in (PROCEDURES[number - 1] for number in given.procedures):
                asked = [(procedure, dev, effect, noise, seed) for seed in range(searches)]
                outcomes = pool.starmap(simulate, asked, chunksize=max(1, searches // 16))
                print(f"  {procedure.name:<38}{describe(outcomes)}")


if __name__ == "__main__":
    main()
