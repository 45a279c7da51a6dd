"""What a search found: the winner, the baseline it had to beat, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.database.refusals import legible
from mura_tune.database.storage import load_study, using
from mura_tune.database.urls import database
from mura_tune.errors import InputError
from mura_tune.metrics.comparison import average_confirmed, compare_confirmed, compare_folds
from mura_tune.metrics.estimates import Estimate, Measure
from mura_tune.recipe import Recipe
from mura_tune.search.search_record import SearchRecord, Trials, reads_search
from mura_tune.search.slots import confirm_slots, fills, searched
from mura_tune.search.trial_record import BASELINE, TrialRecord
from mura_tune.text import CONFIRM_SUFFIX
from mura_tune.training.tasks import task_of

LEAST_SEEDS = 2  # of a confirmation: one does not say how seeds vary


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial: its score on dev, and `estimate`, which has the interval around it.

    Attributes:
        source: of a warm start.
        confirmed: the mean score over new seeds, which did not pick the trial; None without them.
    """

    number: int
    score: float
    estimate: Estimate
    params: dict[str, Any]
    recipe: Recipe
    source: str | None = None
    confirmed: Estimate | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields; the interval stands as its two ends, beside the studies it is of."""
        plain = asdict(self)
        estimate = plain.pop("estimate")
        interval = [estimate["low"], estimate["high"]]
        return plain | {"interval": interval, "studies": estimate["studies"]}


@dataclass(frozen=True)
class Confirmation:
    """A candidate trained again with new seeds: the score of each, and their mean.

    The score that made it a candidate is not among them: it was picked for being high. With
    `budget.confirm.resplit` most patients who judge a new seed did not pick it either.
    """

    trial: int
    scores: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class HistoryPoint:
    """A trial in the picture of a search; a pruned one has its last score."""

    number: int
    state: str
    score: float | None


@dataclass(frozen=True)
class SearchResult:
    """The winner of a search, the recipe it had to beat, and counts by state.

    Attributes:
        search: the search's name.
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

    search: str
    area: str
    monitor: str
    best: FinishedTrial
    baseline: FinishedTrial | None
    confirmed: tuple[Confirmation, ...]
    difference: Estimate | None
    rarer: int  # dev patients of the rarer class
    span: tuple[float, float]  # of the finished trials' scores
    counts: dict[str, int]
    history: tuple[HistoryPoint, ...]
    config: SearchConfig
    dataset: str
    split_hash: str
    starts: dict[str, str]  # sha256 of the weights that trials start from, by `starts.start_name`
    pending: tuple[int, ...] = ()
    unconfirmed: dict[int, str] = field(default_factory=dict)
    foreign: tuple[int, ...] = ()

    @property
    def over_new_seeds(self) -> bool:
        """Whether winner and baseline are compared by the seeds of their confirmations."""
        confirmed = {candidate.trial for candidate in self.confirmed}
        return self.baseline is not None and confirmed >= {self.best.number, self.baseline.number}

    def decided(self) -> SearchResult:
        """Itself, if there is a winner.

        Raises:
            InputError: the confirmation has begun and is not done.
        """
        if self.pending:
            raise InputError(
                f"search {self.search}: no winner yet, its confirmation is not done "
                f"({numbered('trial', self.pending)} to go); the same 'mura tune' goes on with it, "
                "and with --set budget.confirm.top=0 it does without"
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """What `mura best --json` prints; `study` is what earlier versions called the search."""
        trials = {"best": self.best, "baseline": self.baseline}
        return {
            "study": self.search,
            **asdict(self),
            **{role: trial.to_json() if trial else None for role, trial in trials.items()},
            "config": config.config_to_dict(self.config),
        }


@dataclass(frozen=True, eq=False)
class WinnerChoice:
    """Which trial of a search wins, from what is stored: no interval is computed.

    Attributes:
        runs: the confirming trials of each candidate that has all of them, in the order of seeds.
        pending: as `SearchResult` has it, like the rest.
    """

    winner: TrialRecord
    finished: dict[int, TrialRecord]
    runs: dict[int, list[TrialRecord]]
    pending: tuple[int, ...]
    unconfirmed: dict[int, str]
    config: SearchConfig

    @property
    def confirmed(self) -> tuple[Confirmation, ...]:
        """The candidates with all their new seeds, best mean first."""
        scores = {number: tuple(run.score for run in runs) for number, runs in self.runs.items()}
        return tuple(
            Confirmation(number, scores[number], float(np.mean(scores[number])))
            for number in rank_by_mean(scores)
        )


def rank_by_mean(scores: Mapping[int, Sequence[float]]) -> list[int]:
    """Candidates by the mean of their scores over new seeds, the best first; of equals the one
    with the lower number."""
    return sorted(scores, key=lambda number: (-float(np.mean(scores[number])), number))


@reads_search
def choose_winner(search: SearchRecord, confirmation: SearchRecord | None = None) -> WinnerChoice:
    """The winner: by its confirmation where that is done, else by score.

    Raises:
        InputError: no trial has finished, or something else made the search.
    """
    trials, name = search.trials(), search.name
    finished = {t.number: t for t in trials if t.is_finished}
    if not finished and (search.is_ours or not trials):
        raise InputError(
            f"search {name}: no finished trial among {len(trials)}; run 'mura tune {name}'"
        )
    if not search.is_ours:
        raise InputError(
            f"search {name}: another program, or an early version of this one, made "
            "it; tune again in a database of its own with --storage FILE"
        )
    resolved, identity = search.config, search.identity
    reruns = confirmation.trials() if confirmation else []
    pending, unconfirmed = _open_ends(resolved, trials, reruns, identity)
    runs = _complete_runs(resolved, finished, reruns, identity)
    winner = max(finished.values(), key=lambda t: (t.score, -t.number))
    choice = WinnerChoice(winner, finished, runs, pending, unconfirmed, resolved)
    if pending or not runs:
        return choice
    return replace(choice, winner=finished[choice.confirmed[0].trial])


def _complete_runs(
    search_config: SearchConfig,
    finished: Mapping[int, TrialRecord],
    reruns: Sequence[TrialRecord],
    identity: str | None,
) -> dict[int, list[TrialRecord]]:
    """The confirming trials of each trial that has one with every new seed, in their order."""
    confirm = search_config.budget.confirm
    by_seed: dict[int, dict[int, TrialRecord]] = {}
    for run in reruns:
        trial = None if run.confirmed_trial is None else finished.get(run.confirmed_trial)
        if trial is None or not run.is_finished or not run.confirms(trial, identity):
            continue
        if (run.own_dev is not None) == confirm.resplit:
            seed = (run.recipe.seed - trial.recipe.seed) % 2**32
            by_seed.setdefault(trial.number, {})[seed] = run
    seeds = range(1, confirm.seeds + 1)
    return {
        number: [runs[seed] for seed in seeds]
        for number, runs in by_seed.items()
        if all(seed in runs for seed in seeds)
    }


@reads_search
def read_result(search: SearchRecord, confirmation: SearchRecord | None = None) -> SearchResult:
    """The best finished trial, by its confirmation where there is one.

    Raises:
        InputError: no trial has finished, or something else made the search.
    """
    choice = choose_winner(search, confirmation)
    trials, resolved, comparable = search.trials(), choice.config, search.comparable
    assert comparable is not None  # or `choose_winner` refuses
    task = task_of(resolved.task, resolved.recipe)
    finished, winner = choice.finished.values(), choice.winner
    baseline = next((t for t in finished if t.role == BASELINE), None)
    means, difference = _compare(search, task.measure, winner, baseline, choice.runs)
    return SearchResult(
        search=search.name,
        area=comparable["area"],
        monitor=task.monitor,
        best=_trial(winner, means),
        baseline=_trial(baseline, means) if baseline else None,
        confirmed=choice.confirmed,
        difference=difference,
        rarer=_rarer(search),
        span=(min(t.score for t in finished), max(t.score for t in finished)),
        counts=count_outcomes(trials),
        history=tuple(
            HistoryPoint(t.number, t.state.name, t.last_score) for t in trials if not t.is_foreign
        ),
        config=resolved,
        dataset=comparable["dataset"],
        split_hash=comparable["split_hash"],
        starts=comparable.get("starts", {}),
        pending=choice.pending,
        unconfirmed=choice.unconfirmed,
        foreign=tuple(t.number for t in trials if t.is_foreign),
    )


def load_result(url: str, name: str) -> SearchResult:
    """The result of a search by name, its confirmation read too.

    Raises:
        InputError: no such search, or as `read_result` raises it.
    """
    with using(url) as storage:
        search = SearchRecord(load_study(storage, name, url))
        return read_result(search, load_confirmation(storage, name))


def load_confirmation(storage: optuna.storages.BaseStorage, name: str) -> SearchRecord | None:
    """The confirmation of search `name`, if it exists."""
    try:
        return SearchRecord(optuna.load_study(study_name=name + CONFIRM_SUFFIX, storage=storage))
    except KeyError:
        return None


def finished_searches(url: str) -> list[str]:
    """Names of the searches with a finished trial. Raises InputError where there is none."""
    with using(url) as storage, legible(url):
        names = [
            summary.study_name
            for summary in optuna.get_all_study_summaries(storage)
            if summary.best_trial is not None and not summary.study_name.endswith(CONFIRM_SUFFIX)
        ]
        names = [name for name in names if _has_finished(storage, name)]
    if not names:
        raise InputError(f"{database(url)}: no search with a finished trial; run 'mura tune' first")
    return sorted(names)


def count_outcomes(trials: Sequence[TrialRecord]) -> dict[str, int]:
    """Trials by how they ended; those that were cut off have been run again since, or will be."""
    counter = Counter(map(outcome_of, trials))
    return {word: counter[word] for word in (*_STATES.values(), CUT_OFF, FOREIGN)}


def outcome_of(trial: TrialRecord) -> str:
    """How a trial ended, or that it has not, in a word."""
    if trial.is_foreign:
        return FOREIGN
    return CUT_OFF if trial.was_cut_off else _STATES[trial.state.name]


def numbered(noun: str, of: Sequence[int]) -> str:
    """Numbers of things after their noun: trial 3; trials 3, 5."""
    plural = "" if len(of) == 1 else "s"
    return f"{noun}{plural} {', '.join(map(str, of))}"


def _has_finished(storage: optuna.storages.BaseStorage, name: str) -> bool:
    """Whether a trial of the search has finished, other programs' left aside."""
    search = SearchRecord(optuna.load_study(study_name=name, storage=storage))
    return any(trial.is_finished for trial in search.trials())


_STATES = {
    "COMPLETE": "finished",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}
CUT_OFF, FOREIGN = "cut off", "foreign"


def _open_ends(
    search_config: SearchConfig,
    trials: Trials,
    reruns: Sequence[TrialRecord],
    identity: str | None,
) -> tuple[tuple[int, ...], dict[int, str]]:
    """Candidates whose confirmation is not done though it has begun, and those that failed in it.

    Args:
        reruns: the trials of the confirmation.
    """
    if not searched(search_config, trials):
        return (), {}
    begun = False
    pending: list[int] = []
    failed: dict[int, str] = {}
    for slot in confirm_slots(search_config, trials, identity):
        assert slot.confirmed_trial is not None
        number = slot.confirmed_trial
        runs = [t for t in reruns if fills(t, slot)]
        begun = begun or bool(runs)
        if any(t.state == TrialState.COMPLETE for t in runs):
            continue
        own = [t for t in runs if t.failed_by_itself]
        if own:
            failed[number] = str(own[-1].reason)
        else:
            pending.append(number)
    to_go = tuple(dict.fromkeys(n for n in pending if n not in failed))
    return to_go if begun else (), failed


def _compare(
    search: SearchRecord,
    measure: Measure,
    winner: TrialRecord,
    baseline: TrialRecord | None,
    reruns: dict[int, list[TrialRecord]],
) -> tuple[dict[int, Estimate], Estimate | None]:
    """The means over new seeds of winner and baseline, and the winner's score minus the baseline's.

    The difference is of their scores in the search where one of them has no new seeds.
    """
    pair = [winner, *([baseline] if baseline and baseline.number != winner.number else [])]
    runs = {number: [search.scored(run) for run in of] for number, of in reruns.items()}
    seeds = min((len(of) for of in runs.values()), default=0)
    means = {
        trial.number: average_confirmed(runs, trial.number, measure=measure)
        for trial in pair
        if trial.number in runs and seeds >= LEAST_SEEDS
    }
    if len(pair) == 1:
        return means, None
    if len(means) == len(pair):
        numbers = [trial.number for trial in pair]
        return means, compare_confirmed(runs, *numbers, measure=measure)
    both = all(trial.number in runs for trial in pair)
    ours, theirs = (runs[t.number] if both else [search.scored(t)] for t in pair)
    return means, compare_folds(ours, theirs, measure=measure)


def _rarer(search: SearchRecord) -> int:
    """Dev patients of the class that has fewest of them, over all folds."""
    patients: Counter[int] = Counter()
    for fold in search.dev_folds:
        pairs = set(zip(fold.patients.tolist(), fold.labels.tolist(), strict=True))
        patients.update(label for _, label in pairs)
    return min(patients.values())


def _trial(trial: TrialRecord, means: Mapping[int, Estimate]) -> FinishedTrial:
    return FinishedTrial(
        number=trial.number,
        score=trial.score,
        estimate=trial.dev,
        params=trial.params,
        recipe=trial.recipe,
        source=trial.warm_start,
        confirmed=means.get(trial.number),
    )
