"""What a study found: the best trial, the baseline beside it, and how the rest ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mura_tune import config, recipe
from mura_tune.config import StudyConfig
from mura_tune.errors import InputError
from mura_tune.recipe import Recipe
from mura_tune.tuning.storage import database, open_storage

CUT = ("killed", "interrupted")  # reasons that give a trial's values to another


@dataclass(frozen=True)
class Trial:
    """A finished trial: its score is dev study AUC, `interval` the 95 % interval around it."""

    number: int
    score: float
    interval: tuple[float, float]
    studies: int
    params: dict[str, Any]
    recipe: Recipe


@dataclass(frozen=True)
class Best:
    """The winner of a study, the recipe it had to beat, and counts by state."""

    study: str
    area: str
    best: Trial
    baseline: Trial | None
    worst: float
    counts: dict[str, int]
    config: StudyConfig
    dataset: str
    split_hash: str

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {"config": config.to_dict(self.config)}


def best(study: optuna.Study) -> Best:
    """The best finished trial. Raises InputError where none has finished."""
    trials = study.get_trials(deepcopy=False)
    finished = [t for t in trials if t.state == TrialState.COMPLETE]
    name = study.study_name
    if not finished:
        raise InputError(
            f"study {name}: no finished trial among {len(trials)}; run 'make tune AREA={name}'"
        )
    comparable = study.user_attrs["comparable"]
    winner = max(finished, key=lambda t: (t.value, -t.number))
    baseline = [t for t in finished if t.user_attrs.get("slot") == 0]
    return Best(
        study=name,
        area=comparable["area"],
        best=_trial(winner, name),
        baseline=_trial(baseline[0], name) if baseline else None,
        worst=min(t.value for t in finished if t.value is not None),
        counts=counts(trials),
        config=config.from_dict(study.user_attrs["config"], f"study {name}"),
        dataset=comparable["dataset"],
        split_hash=comparable["split_hash"],
    )


def finished_studies(url: str) -> list[str]:
    """Names of the studies with a finished trial. Raises InputError where there is none."""
    storage = open_storage(url)
    names = [
        summary.study_name
        for summary in optuna.get_all_study_summaries(storage)
        if summary.best_trial is not None
    ]
    if not names:
        raise InputError(f"{database(url)}: no study with a finished trial; run 'make tune' first")
    return sorted(names)


def describe(found: Best) -> str:
    """The winner and what it had to beat, for people."""
    ended = ", ".join(f"{n} {word}" for word, n in found.counts.items() if n)
    lines = [f"study {found.study}: {ended}", f"best      {_line(found.best)}"]
    if found.baseline:
        lines.append(f"baseline  {_line(found.baseline)}")
    lines.append(
        f"          finished trials range from {found.worst:.3f} to {found.best.score:.3f}"
    )
    return "\n".join(lines)


def shown_params(params: dict[str, Any]) -> str:
    """A trial's values in a line, to three digits."""
    return "  ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def _line(trial: Trial) -> str:
    low, high = trial.interval
    score = f"dev study AUC {trial.score:.3f} [{low:.3f}, {high:.3f}] (n = {trial.studies})"
    return f"trial {trial.number}: {score}  {shown_params(trial.params)}"


def counts(trials: list[FrozenTrial]) -> dict[str, int]:
    """Trials by how they ended; those that were cut off have been run again since, or will be."""
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running",
             "WAITING": "waiting"}  # fmt: skip
    ended = (
        "cut off" if t.user_attrs.get("reason") in CUT else words[t.state.name] for t in trials
    )
    counter = Counter(ended)
    return {word: counter[word] for word in (*words.values(), "cut off")}


def _trial(trial: FrozenTrial, study: str) -> Trial:
    interval = trial.user_attrs["dev_auc"]
    assert trial.value is not None  # finished
    return Trial(
        number=trial.number,
        score=trial.value,
        interval=(interval["low"], interval["high"]),
        studies=interval["studies"],
        params=trial.params,
        recipe=recipe.from_dict(trial.user_attrs["recipe"], f"study {study} trial {trial.number}"),
    )
