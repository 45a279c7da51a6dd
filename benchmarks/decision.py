"""Are probabilities, thresholds and the band of doubt better than those of before, on new studies?

Run: .venv/bin/python benchmarks/decision.py [--quick] [--out FILE] [--answers FILE.npz]. Two small
networks are trained on phantom wrists, and answer other phantom wrists (`pool`). A decision is
chosen on a few patients of the pool and judged on all of its other patients, 200 times for each
number of patients. `before` is what releases of schema 2 chose, by the functions below: two
numbers fitted through the mean of the views' sigmoids, the threshold with the largest
Youden index, the highest threshold with a sensitivity of .90 on dev, the largest band by dev's own
error. `now` is `choose_decision`. Both are chosen on the same patients; +- is the standard error of
a mean over the draws. With --answers the networks' answers are stored, and read where they are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import SMALL_CNN, arguments, opened

from mura_tune import config
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.evaluation.decision import choose_decision, fit_logistic
from mura_tune.metrics.comparison import compare_aucs
from mura_tune.metrics.estimates import (
    Floats,
    Names,
    StudyScores,
    average_views,
    score_studies,
    sigmoid,
)
from mura_tune.metrics.operating_points import answer_surest, threshold_metrics, youden_threshold
from mura_tune.metrics.ranking import threshold_counts
from mura_tune.networks.factory import build_network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import apply_values
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK

AREA, SIZE, CPU = "XR_WRIST", 96, torch.device("cpu")
OWN, POOL = (300, 0), (1000, 11)  # patients in train and phantoms' seed; a quarter more in valid
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "ten epochs": {"finetune.epochs": 10},
    "four epochs, class weight 3": {"finetune.epochs": 4, "class_weight": 3.0, "seed": 1},
}
PATIENTS, DRAWS = (20, 50, 120, 340), 200
ERROR, SENSITIVITY = 0.10, 0.90


@dataclass(frozen=True)
class Views:
    """A table with a row a view, (N,) each."""

    logits: Floats
    labels: Any
    studies: Names
    patients: Names

    def of(self, rows: Any) -> Views:
        return Views(self.logits[rows], self.labels[rows], self.studies[rows], self.patients[rows])

    def columns(self) -> tuple[Any, Names, Names]:
        return self.labels, self.studies, self.patients


@dataclass(frozen=True)
class Choice:
    """A decision, and the rest of the pool by it: each study's probability."""

    rest: StudyScores
    points: Mapping[str, float]
    promised: bool
    low: float
    high: float


# ---- the networks' answers ----


def answer_pool(quick: bool) -> dict[str, Views]:
    """The logits of each network for the views of the pool."""
    values = {
        **SMALL_CNN,
        "size": SIZE,
    }
    found = {}
    with tempfile.TemporaryDirectory() as name:
        own, pool = (
            draw(Path(name, f"phantoms-{seed}"), patients // 20 if quick else patients, seed)
            for patients, seed in (OWN, POOL)
        )
        train, dev = (load_split(own, split, CPU) for split in ("train", "dev"))
        others = [load_split(pool, split, CPU) for split in ("train", "dev", "test")]
        for title, more in NETWORKS.items():
            recipe = apply_values(config.load_config(AREA).recipe, {**values, **more}, "benchmark")
            net = build_network("cnn", seed=recipe.seed)
            fit(net, train, dev, recipe, ABNORMALITY_TASK)
            found[title] = Views(
                torch.cat([predict(net, split) for split in others])[:, 0].double().numpy(),
                *(
                    np.concatenate([np.asarray(getattr(split, column)) for split in others])
                    for column in ("labels", "studies", "patients")
                ),
            )
    return found


def draw(root: Path, patients: int, seed: int) -> Prepared:
    write_phantoms(root, areas=(AREA,), patients=patients, seed=seed, size=256)
    split = config.load_config(AREA).split
    return prepare(open_dataset(root), AREA, SIZE, split, root.with_name(f"{root.name}-cache"))


def stored_answers(file: Path | None, quick: bool) -> dict[str, Views]:
    """`answer_pool`, or what an earlier run of it left in a file."""
    if file and file.exists():
        with np.load(file) as stored:
            columns = [
                [stored[f"{number} {column}"] for column in ("logits", "labels")]
                + [stored[f"{number} {c}"].astype(object) for c in ("studies", "patients")]
                for number in range(len(NETWORKS))
            ]
        return {title: Views(*own) for title, own in zip(NETWORKS, columns, strict=True)}
    found = answer_pool(quick)
    if file:
        arrays: dict[str, Any] = {}
        for number, views in enumerate(found.values()):
            arrays[f"{number} logits"], arrays[f"{number} labels"] = views.logits, views.labels
            arrays[f"{number} studies"] = views.studies.astype(str)
            arrays[f"{number} patients"] = views.patients.astype(str)
        np.savez(file, **arrays)
    return found


# ---- what releases of schema 2 chose ----


def choose_before(dev: Views, rest: Views) -> Choice:
    slope, intercept = fit_mean_of_sigmoids(dev)

    def score(views: Views) -> StudyScores:
        return score_studies(slope * views.logits + intercept, *views.columns())

    studies = score(dev)
    youden = youden_threshold(studies)
    thresholds, hits, _ = threshold_counts(studies)
    sensitive = float(thresholds[hits >= SENSITIVITY * hits[0]][-1])
    distance = np.abs(logit(studies.scores) - logit(np.array(youden)))
    wrong = (studies.scores >= youden) != (studies.labels == 1)
    order, n = answer_surest(distance, wrong, error=ERROR, most=0.5)
    low = high = youden
    if n < len(order):
        reach = float(distance[order][n - 1] + distance[order][n]) / 2
        low, high = sigmoid(
            np.array([logit(np.array(youden)) - reach, logit(np.array(youden)) + reach])
        )
    points = {"recommended": youden, "max_youden": youden, "sensitivity_90": sensitive}
    promised = bool(wrong[order][:n].mean() <= ERROR)
    return Choice(score(rest), points, promised, float(low), float(high))


def fit_mean_of_sigmoids(dev: Views) -> tuple[float, float]:
    """The slope and intercept with the least cross-entropy of the mean of the views' sigmoids, with
    softened labels, on a grid that closes in."""
    names, inverse = np.unique(dev.studies, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(names)))
    views = np.diff(np.append(starts, len(inverse)))
    labels = dev.labels[order][starts]
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(dev.logits.mean()), max(float(dev.logits.std()), 1e-6)
    z_n = (dev.logits[order] - middle) / spread

    def loss(slope: Floats, level: Floats) -> Floats:
        p_gv = sigmoid(slope[:, None] * z_n + level[:, None])
        p = np.clip(np.add.reduceat(p_gv, starts, axis=1) / views, 1e-12, 1 - 1e-12)
        return np.asarray(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean(1))

    centre, reach = np.array([0.0, 0.0]), np.array([np.log(20.0), 6.0])
    for _ in range(14):
        slopes, levels = np.meshgrid(
            *(np.linspace(c - r, c + r, 13) for c, r in zip(centre, reach, strict=True))
        )
        slopes = np.minimum(slopes, np.log(spread / 0.05))
        at = int(np.argmin(loss(np.exp(slopes.ravel()), levels.ravel())))
        centre, reach = np.array([slopes.ravel()[at], levels.ravel()[at]]), reach / 3
    slope = float(np.exp(centre[0])) / spread
    return slope, float(centre[1]) - slope * middle


def choose_now(dev: Views, rest: Views) -> Choice:
    decision = choose_decision(average_views(dev.logits, *dev.columns()))
    scores = average_views(decision.calibration.logits(rest.logits), *rest.columns()).scores()
    band = decision.band
    promised = band.bound is not None and band.bound <= ERROR
    points = {**decision.points, "recommended": decision.threshold}
    return Choice(scores, points, promised, band.low, band.high)


# ---- how a choice does on the rest of the pool ----


def judge(choice: Choice, least: float) -> dict[str, float]:
    """Numbers of a choice; `least` is the log-loss that the rest of the pool allows."""
    p, y = np.clip(choice.rest.scores, 1e-9, 1 - 1e-9), choice.rest.labels
    alike = np.ones((1, len(y)))
    numbers = {
        "slope": fit_logistic(logit(p), y.astype(float), 0.0)[0],
        "excess": log_loss(p, y) - least,
    }
    for name in ("recommended", "max_youden", "sensitivity_90"):
        rates = threshold_metrics(p >= choice.points[name], y, alike)
        sensitivity, specificity = float(rates["sensitivity"][0]), float(rates["specificity"][0])
        numbers[f"{name} Youden"] = sensitivity + specificity - 1
        numbers[f"{name} kappa"] = float(rates["kappa"][0])
        numbers[f"{name} Se"], numbers[f"{name} Sp"] = sensitivity, specificity
    inside = (p >= choice.low) & (p < choice.high)
    wrong = (p >= choice.points["recommended"]) != (y == 1)
    numbers["abstained"] = float(inside.mean())
    numbers["error"] = float(wrong[~inside].mean()) if not inside.all() else 0.0
    numbers["promised"] = float(choice.promised)
    return numbers


def log_loss(p: Floats, y: Any) -> float:
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))


def logit(p: Floats) -> Floats:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p)))


WAYS: Mapping[str, Callable[[Views, Views], Choice]] = {"before": choose_before, "now": choose_now}


def simulate(pool: Views, patients: int, draws: int) -> dict[str, dict[str, Floats]]:
    """The numbers of `judge` by way, then by name, (draws,)."""
    everyone, rng = np.unique(pool.patients), np.random.default_rng(patients)
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    while len(rows["now"]) < draws:
        mine = np.isin(pool.patients, rng.choice(everyone, patients, replace=False))
        dev, rest = pool.of(mine), pool.of(~mine)
        if len(np.unique(dev.labels)) < 2:
            continue
        table = average_views(rest.logits, *rest.columns())
        slope, intercept = fit_logistic(table.logits, table.labels.astype(float), 0.0)
        least = log_loss(sigmoid(slope * table.logits + intercept), table.labels)
        for way, choose in WAYS.items():
            rows[way].append(judge(choose(dev, rest), least))
    return {
        way: {name: np.array([row[name] for row in own]) for name in own[0]}
        for way, own in rows.items()
    }


def mean(values: Floats, digits: int = 3) -> str:
    """A mean with its standard error; a dash where there is none."""
    if len(values) < 2:
        return "-"
    error = float(values.std(ddof=1)) / len(values) ** 0.5
    return f"{values.mean():.{digits}f} +-{error:.{digits}f}"


def table_rows(found: Mapping[str, Mapping[str, Floats]]) -> Iterator[tuple[str, str, str]]:
    """What is printed of one number of patients: a title, before, and now."""

    def row(title: str, number: Callable[[Mapping[str, Floats]], str]) -> tuple[str, str, str]:
        return title, number(found["before"]), number(found["now"])

    def difference(name: str) -> tuple[str, str, str]:
        title = f"  now - before, {name}"
        return title, "", mean(found["now"][name] - found["before"][name])

    yield row("calibration slope (1 is right)", lambda w: mean(w["slope"]))
    yield row("log-loss above the least there is", lambda w: mean(w["excess"], 4))
    yield difference("excess")
    yield row("recommended: Youden index", lambda w: mean(w["recommended Youden"]))
    yield difference("recommended Youden")
    yield row("recommended: kappa", lambda w: mean(w["recommended kappa"]))
    yield row(
        "  tenth percentile of kappa",
        lambda w: f"{np.quantile(w['recommended kappa'], 0.1):.3f}",
    )
    yield row("max_youden: Youden index", lambda w: mean(w["max_youden Youden"]))
    yield row("sensitivity_90: sensitivity", lambda w: mean(w["sensitivity_90 Se"]))
    yield row(
        "  share of draws below .90",
        lambda w: f"{(w['sensitivity_90 Se'] < SENSITIVITY).mean():.2f}",
    )
    yield row("  specificity", lambda w: mean(w["sensitivity_90 Sp"]))
    yield row("band: share of draws that promise .10", lambda w: f"{w['promised'].mean():.2f}")
    yield row(
        "  of these, error on new studies above .10",
        lambda w: (
            f"{(w['error'][w['promised'] == 1] > ERROR).mean():.2f}" if w["promised"].any() else "-"
        ),
    )
    yield row("  of these, share abstained", lambda w: mean(w["abstained"][w["promised"] == 1], 2))
    yield row("  of these, error of the answers", lambda w: mean(w["error"][w["promised"] == 1]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--answers", type=Path, help="store the networks' answers here, or read")
    given = opened(parser)
    draws, sizes = (5, (20,)) if given.quick else (DRAWS, PATIENTS)
    for title, pool in stored_answers(given.answers, given.quick).items():
        by_logit = average_views(pool.logits, *pool.columns())
        by_mean = score_studies(pool.logits, *pool.columns())
        gain = compare_aucs([by_logit.scores()], [by_mean])
        print(
            f"\n{title}: a pool of {len(by_mean.labels)} studies of "
            f"{by_mean.count_patients()} patients, {by_mean.labels.mean():.1%} abnormal; AUC by "
            f"the mean logit minus by the mean probability: {gain.signed()}"
        )
        print(f"{'patients':>8}  {'':<44} {'before':<16} now")
        for patients in sizes:
            for row, before, now in table_rows(simulate(pool, patients, draws)):
                print(f"{patients:>8}  {row:<44} {before:<16} {now}")
            print()


if __name__ == "__main__":
    main()
