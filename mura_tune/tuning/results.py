"""What a study found: the winner, the baseline it had to beat, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mura_tune import config
from mura_tune.config import StudyConfig
from mura_tune.errors import InputError
from mura_tune.learning.metrics import Estimate, Measure, Studies
from mura_tune.learning.paired import fold_difference
from mura_tune.learning.tasks import task_of
from mura_tune.recipe import Recipe
from mura_tune.tuning.plans import BASELINE
from mura_tune.tuning.slots import was_cut
from mura_tune.tuning.storage import CONFIRMS, database, load_study, open_storage
from mura_tune.tuning.stored import (
    COMPARABLE,
    CONFIG,
    DEV,
    dev_score_of,
    facts,
    recipe_of,
    scores_of,
)


@dataclass(frozen=True)
class Trial:
    """A finished trial: its score on dev, `interval` the 95 % interval around it."""

    number: int
    score: float
    interval: tuple[float, float]
    studies: int
    params: dict[str, Any]
    recipe: Recipe
    source: str | None = None  # of a warm start


@dataclass(frozen=True)
class Confirmed:
    """A candidate trained again with new seeds: the score of each, and their mean.

    The score that made it a candidate is not among them: it was picked for being high.
    """

    trial: int
    scores: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Point:
    """A trial in the picture of a search; a pruned one has its last score."""

    number: int
    state: str
    score: float | None


@dataclass(frozen=True)
class Best:
    """The winner of a study, the recipe it had to beat, and counts by state.

    Attributes:
        best: the winner: by mean over new seeds where candidates were confirmed, else by score.
        baseline: the recipe as it stands, trial 0.
        confirmed: every candidate with all its new seeds, best mean first.
        monitor: what a score is, such as study AUC.
        difference: the winner's score minus the baseline's on the same dev studies, over the new
            seeds where there are some; None without a baseline, or where it won itself.
    """

    study: str
    area: str
    monitor: str
    best: Trial
    baseline: Trial | None
    confirmed: tuple[Confirmed, ...]
    difference: Estimate | None
    rarer: int  # dev patients of the rarer class
    span: tuple[float, float]  # of the finished trials' scores
    counts: dict[str, int]
    history: tuple[Point, ...]
    config: StudyConfig
    dataset: str
    split_hash: str
    starts: dict[str, str]  # sha256 of the weights at each path that trials start from

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {"config": config.to_dict(self.config)}


def best(study: optuna.Study, confirming: optuna.Study | None = None) -> Best:
    """The best finished trial, by its confirmation where there is one.

    Raises:
        InputError: no trial has finished, or something else made the study.
    """
    trials = study.get_trials(deepcopy=False)
    finished = {t.number: t for t in trials if t.state == TrialState.COMPLETE}
    name = study.study_name
    if not finished:
        raise InputError(
            f"study {name}: no finished trial among {len(trials)}; run 'make tune AREA={name}'"
        )
    stored = facts(study)
    if COMPARABLE not in stored:
        raise InputError(f"study {name}: another program, or an early version of this one, made "
                         "it; tune again in a database of its own with --storage FILE")  # fmt: skip
    comparable = stored[COMPARABLE]
    resolved = config.from_dict(stored[CONFIG], f"study {name}")
    task = task_of(resolved.task, resolved.recipe.monitor)
    again = _again(confirming, resolved.budget.confirm.seeds)
    confirmed = tuple(
        sorted(
            (
                Confirmed(n, scores, float(np.mean(scores)))
                for n, runs in again.items()
                if n in finished and (scores := tuple(_value(t) for t in runs))
            ),
            key=lambda c: (-c.mean, c.trial),
        )
    )
    winner = (
        finished[confirmed[0].trial]
        if confirmed
        else max(finished.values(), key=lambda t: (_value(t), -t.number))
    )
    baseline = next((t for t in finished.values() if t.user_attrs.get("role") == BASELINE), None)
    return Best(
        study=name,
        area=comparable["area"],
        monitor=task.monitor,
        best=_trial(winner, name),
        baseline=_trial(baseline, name) if baseline else None,
        confirmed=confirmed,
        difference=_difference(study, task.measure, winner, baseline, again),
        rarer=_rarer(study),
        span=(min(map(_value, finished.values())), max(map(_value, finished.values()))),
        counts=counts(trials),
        history=tuple(Point(t.number, t.state.name, _last(t)) for t in trials),
        config=resolved,
        dataset=comparable["dataset"],
        split_hash=comparable["split_hash"],
        starts=comparable.get("starts", {}),
    )


def best_in(url: str, name: str) -> Best:
    """`best` of a study by name, with its confirmation. Raises InputError as `best` does."""
    storage = open_storage(url)
    study = load_study(storage, name, url)
    return best(study, confirmation(storage, name))


def confirmation(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study | None:
    """The study that confirms study `name`, if it exists."""
    try:
        return optuna.load_study(study_name=name + CONFIRMS, storage=storage)
    except KeyError:
        return None


def finished_studies(url: str) -> list[str]:
    """Names of the studies with a finished trial. Raises InputError where there is none."""
    storage = open_storage(url)
    names = [
        summary.study_name
        for summary in optuna.get_all_study_summaries(storage)
        if summary.best_trial is not None and not summary.study_name.endswith(CONFIRMS)
    ]
    if not names:
        raise InputError(f"{database(url)}: no study with a finished trial; run 'make tune' first")
    return sorted(names)


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Trials by how they ended; those that were cut off have been run again since, or will be."""
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running",
             "WAITING": "waiting"}  # fmt: skip
    counter = Counter("cut off" if was_cut(t) else words[t.state.name] for t in trials)
    return {word: counter[word] for word in (*words.values(), "cut off")}


def _again(confirming: optuna.Study | None, seeds: int) -> dict[int, list[FrozenTrial]]:
    """The finished confirmations of each candidate that has as many as were asked for."""
    runs: dict[int, list[FrozenTrial]] = {}
    trials = confirming.get_trials(deepcopy=False) if confirming else []
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            runs.setdefault(trial.user_attrs["of"], []).append(trial)
    return {number: done for number, done in runs.items() if len(done) >= seeds}


def _difference(
    study: optuna.Study,
    measure: Measure,
    winner: FrozenTrial,
    baseline: FrozenTrial | None,
    again: dict[int, list[FrozenTrial]],
) -> Estimate | None:
    if baseline is None or winner.number == baseline.number:
        return None
    pair = [winner, baseline]
    both = all(t.number in again for t in pair)
    ours, theirs = (
        [_scored(study, run) for run in (again[t.number] if both else [t])] for t in pair
    )
    return fold_difference(ours, theirs, measure=measure)


def _rarer(study: optuna.Study) -> int:
    """Dev patients of the class that has fewest of them, over all folds."""
    found: dict[int, int] = {}
    for part in _dev(study):
        pairs = set(zip(part["patients"], part["labels"], strict=True))
        for _, label in pairs:
            found[label] = found.get(label, 0) + 1
    return min(found.values())


def _dev(study: optuna.Study) -> list[dict[str, list[int]]]:
    """Labels and patients of the dev studies of each fold, as `resume` stored them."""
    parts: list[dict[str, list[int]]] = facts(study)[DEV]
    return parts


def _scored(study: optuna.Study, trial: FrozenTrial) -> list[Studies]:
    """The dev studies of each fold with this trial's scores."""
    return [
        Studies(
            names=np.array([str(i) for i in range(len(scores))]),
            patients=np.array(part["patients"]),
            labels=np.array(part["labels"], dtype=np.int64),
            scores=scores,
        )
        for part, scores in zip(_dev(study), scores_of(trial), strict=True)
    ]


def _trial(trial: FrozenTrial, study: str) -> Trial:
    interval = dev_score_of(trial)
    return Trial(
        number=trial.number,
        score=_value(trial),
        interval=(interval["low"], interval["high"]),
        studies=interval["studies"],
        params=trial.params,
        recipe=recipe_of(trial, f"study {study}"),
        source=trial.user_attrs.get("from"),
    )


def _last(trial: FrozenTrial) -> float | None:
    steps = trial.intermediate_values
    return trial.value if trial.value is not None or not steps else steps[max(steps)]


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None  # finished
    return trial.value
