"""What studies and trials store out of the dashboard's sight: recipes, dev scores, the split."""

from __future__ import annotations

import base64
import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from mura_tune import recipe as recipes
from mura_tune.database.outages import of_study
from mura_tune.errors import InputError
from mura_tune.metrics.estimates import Estimate, StudyScores
from mura_tune.recipe import Recipe

# System attributes: as user attributes they would be lines of thousands of characters on its page.
RECIPE = "mura:recipe"
CONFIG = "mura:config"  # of a study, as `config.to_dict` has it
COMPARABLE = "mura:comparable"  # what must stay as it is for its trials to be comparable
DEV = "mura:dev"  # labels and patients of the dev studies of each fold
SCORES = "mura:dev_scores"  # study probabilities of each fold, float64 in base85
IDENTITY = "mura:identity"  # of a search, drawn when it starts: its name may be another's later
SEARCH = "mura:search"  # of a confirmation's trial: the identity of the search that it confirms


def facts(study: optuna.Study) -> Mapping[str, Any]:
    """What is stored with a study, by the names above."""
    attrs: Mapping[str, Any] = study._storage.get_study_system_attrs(study._study_id)
    return attrs


@of_study
def comparable_of(study: optuna.Study) -> Mapping[str, Any] | None:
    """What must stay as it is for the trials of a study to be comparable; None before its start."""
    comparable: Mapping[str, Any] | None = facts(study).get(COMPARABLE)
    if comparable is None:
        return None
    mappings = {key: dict(comparable[key]) for key in ("recipe", "space")}  # or it is damaged
    return {**comparable, **mappings}


def keep_fact(study: optuna.Study, key: str, value: Any) -> None:
    """Store something with a study."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def identity_of(study: optuna.Study) -> str | None:
    """What tells a search from another of its name; None where an early version started it."""
    identity: str | None = facts(study).get(IDENTITY)
    return identity


def identify(study: optuna.Study) -> None:
    """Give a search an identity, if it has none. Under the study's lock."""
    if identity_of(study) is None:
        keep_fact(study, IDENTITY, uuid.uuid4().hex)


def keep_recipe(trial: optuna.Trial, recipe: Recipe) -> None:
    """Store what the trial trains."""
    _set(trial, RECIPE, asdict(recipe))


def keep_scores(trial: optuna.Trial, runs: Sequence[StudyScores]) -> None:
    """Store the scores of the dev studies of each fold, in the order of their names."""
    _set(trial, SCORES, packed(runs))


def recipe_of(trial: optuna.Trial | FrozenTrial, study: str = "study") -> Recipe:
    """The recipe that a trial trained, or was given to train.

    Raises:
        InputError: it has none: another program, or an early version of this one, made it.
    """
    if not has_recipe(trial):
        raise InputError(
            f"{study} trial {trial.number} has no recipe: something else made it; "
            "start a study of its own with --study NAME"
        )
    return _parsed(json.dumps(_attrs(trial)[RECIPE]), f"{study} trial {trial.number}")


@functools.lru_cache(maxsize=4096)  # a worker looks at the same trials after each of its own
def _parsed(text: str, source: str) -> Recipe:
    return recipes.recipe_from_dict(json.loads(text), source)


def has_recipe(trial: optuna.Trial | FrozenTrial) -> bool:
    """Whether its recipe was fixed before it began: a confirmation's is."""
    return RECIPE in _attrs(trial)


def is_foreign(trial: FrozenTrial) -> bool:
    """Whether another program added a finished or pruned trial: it has no recipe, or no scores."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        return False
    scored = trial.state == TrialState.PRUNED or (SCORES in trial.system_attrs and has_score(trial))
    return not (has_recipe(trial) and scored)


def is_rerun(
    run: FrozenTrial, recipe: Recipe, identity: str | None, since: datetime | None
) -> bool:
    """Whether a trial runs this recipe, seed and all, for this search.

    A name says too little: a search may have been deleted, and its confirmation left behind. So a
    run names its search. One of an earlier version does not; it began after the searched trial.

    Args:
        identity: of the search.
        since: when the searched trial began.
    """
    if not has_recipe(run) or recipe_of(run) != recipe:
        return False
    if (named := run.system_attrs.get(SEARCH)) is not None:
        return bool(named == identity)
    return run.datetime_start is None or since is None or run.datetime_start >= since


def confirms(run: FrozenTrial, trial: FrozenTrial, identity: str | None) -> bool:
    """Whether a trial of a confirmation runs a searched trial again, with any seed."""
    if run.user_attrs.get("of") != trial.number or not has_recipe(run):
        return False
    again = replace(recipe_of(trial), seed=recipe_of(run).seed)
    return is_rerun(run, again, identity, trial.datetime_start)


def scores_of(trial: FrozenTrial) -> list[NDArray[np.float64]]:
    """The dev scores of each fold, to the bit: a rounding would make ties."""
    texts = trial.system_attrs[SCORES]
    return [np.frombuffer(base64.b85decode(text), dtype="<f8") for text in texts]


def has_score(trial: optuna.Trial | FrozenTrial) -> bool:
    """Whether it has come to a dev score."""
    return "dev_score" in trial.user_attrs or "dev_auc" in trial.user_attrs


def dev_score_of(trial: optuna.Trial | FrozenTrial) -> Estimate:
    """A finished trial's dev score with its interval."""
    attrs = trial.user_attrs  # the second name is from before there were other scores than AUC
    return Estimate.from_json(attrs["dev_score"] if "dev_score" in attrs else attrs["dev_auc"])


def dev_auc_of(trial: optuna.Trial | FrozenTrial) -> Estimate:
    """A finished trial's dev AUC with its interval, whatever decides."""
    stored = trial.user_attrs.get("dev_auc")
    return Estimate.from_json(stored) if stored else dev_score_of(trial)


def dev_part_of(trial: optuna.Trial | FrozenTrial) -> Estimate:
    """A finished multi-task trial's share of dev studies whose body part it recognised."""
    return Estimate.from_json(trial.user_attrs["dev_part"])


def packed(runs: Sequence[StudyScores]) -> list[str]:
    """The scores of each fold as text."""
    return [base64.b85encode(run.scores.astype("<f8").tobytes()).decode() for run in runs]


def as_attrs(recipe: Recipe, identity: str | None = None) -> Mapping[str, Any]:
    """System attributes of a trial that is queued with a fixed recipe, for a search."""
    attrs: dict[str, Any] = {RECIPE: asdict(recipe)}
    return attrs if identity is None else {**attrs, SEARCH: identity}


def _attrs(trial: optuna.Trial | FrozenTrial) -> Mapping[str, Any]:
    if isinstance(trial, FrozenTrial):
        return trial.system_attrs
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def _set(trial: optuna.Trial, key: str, value: Any) -> None:
    trial.storage.set_trial_system_attr(trial._trial_id, key, value)
