"""What a study found: the winner, the baseline it had to beat, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.database.outages import legible, of_study
from mura_tune.database.storage import load_study, open_storage
from mura_tune.database.urls import database
from mura_tune.errors import InputError
from mura_tune.metrics.comparison import compare_folds
from mura_tune.metrics.estimates import Estimate, Measure, StudyScores
from mura_tune.names import CONFIRM_SUFFIX
from mura_tune.recipe import Recipe
from mura_tune.search.records import (
    COMPARABLE,
    CONFIG,
    DEV,
    confirms,
    dev_score_of,
    facts,
    identity_of,
    is_foreign,
    recipe_of,
    scores_of,
)
from mura_tune.search.slots import (
    BASELINE,
    confirm_slots,
    failed_by_itself,
    fills,
    searched,
    was_cut,
)
from mura_tune.training.tasks import task_of


@dataclass(frozen=True)
class Trial:
    """A finished trial: its score on dev, and `estimate`, which has the interval around it."""

    number: int
    score: float
    estimate: Estimate
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
            seeds where both have them; None without a baseline, or where it won itself.
        pending: candidates whose confirmation has begun and is not done, so that nobody has won;
            `best` is then the best by score.
        unconfirmed: why a candidate has no confirmation, by number: it failed by itself.
        foreign: numbers of trials that another program added. They do not count.
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
    config: SearchConfig
    dataset: str
    split_hash: str
    starts: dict[str, str]  # sha256 of the weights at each path that trials start from
    pending: tuple[int, ...] = ()
    unconfirmed: dict[int, str] = field(default_factory=dict)
    foreign: tuple[int, ...] = ()

    @property
    def over_new_seeds(self) -> bool:
        """Whether winner and baseline are compared by the seeds of their confirmations."""
        confirmed = {one.trial for one in self.confirmed}
        return self.baseline is not None and confirmed >= {self.best.number, self.baseline.number}

    def decided(self) -> Best:
        """Itself, if there is a winner.

        Raises:
            InputError: the confirmation has begun and is not done.
        """
        if self.pending:
            raise InputError(
                f"study {self.study}: no winner yet, its confirmation is not done "
                f"({numbers('trial', self.pending)} to go); the same 'mura tune' goes on with it, "
                "and with --set budget.confirm.top=0 it does without"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {"config": config.config_to_dict(self.config)}


@dataclass(frozen=True, eq=False)
class Choice:
    """Which trial of a search wins, from what is stored: no interval is computed.

    Attributes:
        runs: the confirmations of each candidate that has all of them; the rest as `Best` has it.
    """

    winner: FrozenTrial
    finished: dict[int, FrozenTrial]
    runs: dict[int, list[FrozenTrial]]
    pending: tuple[int, ...]
    unconfirmed: dict[int, str]
    config: SearchConfig

    @property
    def confirmed(self) -> tuple[Confirmed, ...]:
        """The candidates with all their new seeds, best mean first."""
        scores = {number: tuple(map(_value, runs)) for number, runs in self.runs.items()}
        means = [Confirmed(number, each, float(np.mean(each))) for number, each in scores.items()]
        return tuple(sorted(means, key=lambda one: (-one.mean, one.trial)))


@of_study
def choose(study: optuna.Study, confirming: optuna.Study | None = None) -> Choice:
    """The winner: by its confirmation where that is done, else by score.

    Raises:
        InputError: no trial has finished, or something else made the study.
    """
    trials = study.get_trials(deepcopy=False)
    finished = {t.number: t for t in trials if t.state == TrialState.COMPLETE and not is_foreign(t)}
    name, stored = study.study_name, facts(study)
    if not finished and (COMPARABLE in stored or not trials):
        raise InputError(
            f"study {name}: no finished trial among {len(trials)}; run 'make tune AREA={name}'"
        )
    if COMPARABLE not in stored:
        raise InputError(
            f"study {name}: another program, or an early version of this one, made "
            "it; tune again in a database of its own with --storage FILE"
        )
    resolved = config.config_from_dict(stored[CONFIG], f"study {name}")
    again = confirming.get_trials(deepcopy=False) if confirming else []
    identity = identity_of(study)
    pending, unconfirmed = _open_ends(resolved, trials, again, identity)
    runs: dict[int, list[FrozenTrial]] = {}
    for run in again:
        trial = finished.get(run.user_attrs.get("of", -1))
        whole = run.state == TrialState.COMPLETE and not is_foreign(run)
        if trial and whole and confirms(run, trial, identity):
            runs.setdefault(trial.number, []).append(run)
    seeds = resolved.budget.confirm.seeds
    runs = {number: done for number, done in runs.items() if len(done) >= seeds}
    winner = max(finished.values(), key=lambda t: (_value(t), -t.number))
    choice = Choice(winner, finished, runs, pending, unconfirmed, resolved)
    if pending or not runs:
        return choice
    return replace(choice, winner=finished[choice.confirmed[0].trial])


@of_study
def best(study: optuna.Study, confirming: optuna.Study | None = None) -> Best:
    """The best finished trial, by its confirmation where there is one.

    Raises:
        InputError: no trial has finished, or something else made the study.
    """
    chosen = choose(study, confirming)
    trials, name = study.get_trials(deepcopy=False), study.study_name
    comparable, resolved = facts(study)[COMPARABLE], chosen.config
    task = task_of(resolved.task, resolved.recipe.monitor)
    finished, winner = chosen.finished.values(), chosen.winner
    baseline = next((t for t in finished if t.user_attrs.get("role") == BASELINE), None)
    ours = [t for t in trials if not is_foreign(t)]
    return Best(
        study=name,
        area=comparable["area"],
        monitor=task.monitor,
        best=_trial(winner, name),
        baseline=_trial(baseline, name) if baseline else None,
        confirmed=chosen.confirmed,
        difference=_difference(study, task.measure, winner, baseline, chosen.runs),
        rarer=_rarer(study),
        span=(min(map(_value, finished)), max(map(_value, finished))),
        counts=counts(trials),
        history=tuple(Point(t.number, t.state.name, _last(t)) for t in ours),
        config=resolved,
        dataset=comparable["dataset"],
        split_hash=comparable["split_hash"],
        starts=comparable.get("starts", {}),
        pending=chosen.pending,
        unconfirmed=chosen.unconfirmed,
        foreign=tuple(t.number for t in trials if is_foreign(t)),
    )


def best_in(url: str, name: str) -> Best:
    """`best` of a study by name, with its confirmation. Raises InputError as `best` does."""
    storage = open_storage(url)
    study = load_study(storage, name, url)
    return best(study, confirmation(storage, name))


def confirmation(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study | None:
    """The study that confirms study `name`, if it exists."""
    try:
        return optuna.load_study(study_name=name + CONFIRM_SUFFIX, storage=storage)
    except KeyError:
        return None


def finished_studies(url: str) -> list[str]:
    """Names of the studies with a finished trial. Raises InputError where there is none."""
    storage = open_storage(url)
    with legible(url):
        names = [
            summary.study_name
            for summary in optuna.get_all_study_summaries(storage)
            if summary.best_trial is not None and not summary.study_name.endswith(CONFIRM_SUFFIX)
        ]
        names = [name for name in names if _has_finished(storage, name)]
    if not names:
        raise InputError(f"{database(url)}: no study with a finished trial; run 'make tune' first")
    return sorted(names)


def counts(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Trials by how they ended; those that were cut off have been run again since, or will be."""
    counter = Counter(map(state_of, trials))
    return {word: counter[word] for word in (*_STATES.values(), CUT_OFF, FOREIGN)}


def state_of(trial: FrozenTrial) -> str:
    """How a trial ended, or that it has not, in a word."""
    if is_foreign(trial):
        return FOREIGN
    return CUT_OFF if was_cut(trial) else _STATES[trial.state.name]


def numbers(noun: str, of: Sequence[int]) -> str:
    """Numbers of things after their noun: trial 3; trials 3, 5."""
    plural = "" if len(of) == 1 else "s"
    return f"{noun}{plural} {', '.join(map(str, of))}"


def _has_finished(storage: optuna.storages.BaseStorage, name: str) -> bool:
    """Whether a trial of the search has finished, other programs' left aside."""
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return any(t.state == TrialState.COMPLETE and not is_foreign(t) for t in trials)


_STATES = {
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
CUT_OFF, FOREIGN = "cut off", "foreign"


def _open_ends(
    study: SearchConfig,
    trials: Sequence[FrozenTrial],
    again: Sequence[FrozenTrial],
    identity: str | None,
) -> tuple[tuple[int, ...], dict[int, str]]:
    """Candidates whose confirmation is not done though it has begun, and those that failed in it.

    Args:
        again: the trials of the confirmation.
    """
    if not searched(study, trials):
        return (), {}
    begun = False
    pending: list[int] = []
    failed: dict[int, str] = {}
    for slot in confirm_slots(study, trials, identity):
        number = int(slot.attrs["of"])
        runs = [t for t in again if fills(t, slot)]
        begun = begun or bool(runs)
        if any(t.state == TrialState.COMPLETE for t in runs):
            continue
        own = [t for t in runs if failed_by_itself(t)]
        if own:
            failed[number] = str(own[-1].user_attrs.get("reason"))
        else:
            pending.append(number)
    to_go = tuple(dict.fromkeys(n for n in pending if n not in failed))
    return to_go if begun else (), failed


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
    return compare_folds(ours, theirs, measure=measure)


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


def _scored(study: optuna.Study, trial: FrozenTrial) -> list[StudyScores]:
    """The dev studies of each fold with this trial's scores."""
    return [
        StudyScores(
            names=np.array([str(i) for i in range(len(scores))]),
            patients=np.array(part["patients"]),
            labels=np.array(part["labels"], dtype=np.int64),
            scores=scores,
        )
        for part, scores in zip(_dev(study), scores_of(trial), strict=True)
    ]


def _trial(trial: FrozenTrial, study: str) -> Trial:
    return Trial(
        number=trial.number,
        score=_value(trial),
        estimate=dev_score_of(trial),
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
