"""What a search stores, by the names that every version has read: tests write and read these."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial

from mura_tune.metrics.estimates import StudyScores
from mura_tune.recipe import Recipe
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.trial_record import TrialRecord

RECIPE, CONFIG, COMPARABLE = "mura:recipe", "mura:config", "mura:comparable"
DEV, SCORES, IDENTITY, SEARCH = "mura:dev", "mura:dev_scores", "mura:identity", "mura:search"


def facts(study: optuna.Study) -> Mapping[str, Any]:
    """The system attributes of an Optuna study."""
    return study._storage.get_study_system_attrs(study._study_id)


def store(study: optuna.Study, name: str, value: Any) -> None:
    """Set a system attribute of an Optuna study."""
    study._storage.set_study_system_attr(study._study_id, name, value)


def recipe_facts(recipe: Recipe, identity: str | None = None) -> dict[str, Any]:
    """System attributes of a trial with this recipe, queued for the search `identity`."""
    return {RECIPE: asdict(recipe)} | ({} if identity is None else {SEARCH: identity})


def packed(folds: Sequence[StudyScores]) -> list[str]:
    """The dev scores of each fold as a trial stores them."""
    return [base64.b85encode(fold.scores.astype("<f8").tobytes()).decode() for fold in folds]


def scores_of(trial: FrozenTrial) -> list[NDArray[np.float64]]:
    """The dev scores of each fold of a trial."""
    return TrialRecord(trial).dev_scores


def recipe_of(trial: FrozenTrial) -> Recipe:
    """The recipe of a trial."""
    return TrialRecord(trial).recipe


def records_of(study: optuna.Study) -> Trials:
    """The trials of an Optuna study."""
    return SearchRecord(study).trials()
