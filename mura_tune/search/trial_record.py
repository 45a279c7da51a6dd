"""A trial as the database stores it: nothing else knows its attributes' names.

`TrialRecord` reads a trial, `TrialWriter` stores what a running trial comes to. The names of the
attributes are those of every earlier version.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from mura_tune import recipe as recipes
from mura_tune.database import optuna_private
from mura_tune.errors import InputError
from mura_tune.metrics.dev_fold import DevFold
from mura_tune.metrics.estimates import Estimate, StudyScores
from mura_tune.recipe import Recipe

# System attributes: a user attribute of thousands of characters would fill the trial's page.
_RECIPE = "mura:recipe"
_SCORES = "mura:dev_scores"  # probabilities of the dev studies of each fold, float64 in base85
_OWN_DEV = "mura:own_dev"  # the studies that judged it, where they are not those of its search
_CONFIRMED_SEARCH = "mura:search"  # of a confirming trial: the identity of the search it confirms
# User attributes: a person sees them on the dashboard.
_SLOT, _ROLE, _WORKER, _REASON = "slot", "role", "worker", "reason"
_WARM_START = "from"  # which trial of which search gave the values
_CONFIRMED_TRIAL = "of"  # of a confirming trial: the number of the trial that it runs again
_EPOCHS, _BEST_EPOCH, _SECONDS, _DIGEST = "epochs", "best_epoch", "seconds", "digest"
_ARTIFACT_SECONDS = "artifact_seconds"  # of `seconds`, what pictures, scores and note took
_DEV_SCORE, _DEV_AUC, _DEV_AREA = "dev_score", "dev_auc", "dev_part"

# Roles of trials.
BASELINE, WARM, CONFIRM = "baseline", "warm start", "confirmation"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# Reasons that say nothing about a trial's values: another trial runs them.
KILLED, INTERRUPTED, SILENT, SUPERSEDED = "killed", "interrupted", "silent", "superseded"
OUTAGE = "outage"  # the database or the disk failed, and not the trial
_CUT_OFF = (KILLED, INTERRUPTED, SILENT, SUPERSEDED, OUTAGE)
# What an earlier version stored as a trial's own failure, by the error's name.
_OUTAGES = (
    "StorageInternalError",
    "OperationalError",
    "InterfaceError",
    "DBAPIError",
    "DatabaseError",
    "PendingRollbackError",
    "OSError",
    "PermissionError",
    "FileNotFoundError",
    "FileExistsError",
    "NotADirectoryError",
    "BlockingIOError",
    "TimeoutError",
    "BrokenPipeError",
    "ConnectionResetError",
)


@dataclass(frozen=True, eq=False)
class TrialRecord:
    """A trial of a search. Reading a property raises where the database holds something else.

    Attributes:
        frozen: the trial as Optuna has it.
        search: the name of the search, for messages.
    """

    frozen: FrozenTrial
    search: str = ""

    @property
    def number(self) -> int:
        return self.frozen.number

    @property
    def key(self) -> int:
        """Of the trial in its database."""
        return optuna_private.trial_key(self.frozen)

    @property
    def state(self) -> TrialState:
        return self.frozen.state

    @property
    def params(self) -> dict[str, Any]:
        """The value of each searched field of the recipe, by its path."""
        return self.frozen.params

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What each of `params` was drawn from."""
        return self.frozen.distributions

    @property
    def started(self) -> datetime | None:
        return self.frozen.datetime_start

    @property
    def ended(self) -> datetime | None:
        return self.frozen.datetime_complete

    @property
    def score(self) -> float:
        """The dev score of a finished trial, the last one of a pruned trial."""
        assert self.frozen.value is not None
        return self.frozen.value

    @property
    def last_score(self) -> float | None:
        """The latest dev score, whatever the trial's state; None before the first one."""
        steps = self.frozen.intermediate_values
        value = self.frozen.value
        return value if value is not None or not steps else steps[max(steps)]

    @property
    def slot(self) -> int | str | None:
        """The key of the slot that the trial fills."""
        key = self._facts.get(_SLOT)
        return key if isinstance(key, int | str) else None

    @property
    def role(self) -> str | None:
        """`BASELINE`, `WARM` or `CONFIRM`; None where the sampler drew the values."""
        role: str | None = self._facts.get(_ROLE)
        return role

    @property
    def warm_start(self) -> str | None:
        """Which trial of which search gave the values."""
        source: str | None = self._facts.get(_WARM_START)
        return source

    @property
    def confirmed_trial(self) -> int | None:
        """The number of the trial that this one runs again with a new seed."""
        number: int | None = self._facts.get(_CONFIRMED_TRIAL)
        return number

    @property
    def confirmed_search(self) -> str | None:
        """The identity of the search that this trial confirms."""
        identity: str | None = self.frozen.system_attrs.get(_CONFIRMED_SEARCH)
        return identity

    @property
    def worker(self) -> str | None:
        """The name of the worker that runs or ran the trial."""
        worker: str | None = self._facts.get(_WORKER)
        return worker

    @property
    def reason(self) -> str | None:
        """Why the trial failed."""
        reason: str | None = self._facts.get(_REASON)
        return reason

    @property
    def epochs(self) -> int | None:
        """How many epochs are trained, over all folds."""
        epochs: int | None = self._facts.get(_EPOCHS)
        return epochs

    @property
    def best_epoch(self) -> int | list[int] | None:
        """The epoch that was kept; with folds, one for each."""
        epoch: int | list[int] | None = self._facts.get(_BEST_EPOCH)
        return epoch

    @property
    def seconds(self) -> float | None:
        """How long the trial took, pictures included."""
        seconds: float | None = self._facts.get(_SECONDS)
        return seconds

    @property
    def seconds_an_epoch(self) -> float | None:
        """Seconds of training over epochs; None before the first epoch or the trial's end."""
        if not self.epochs or self.seconds is None:
            return None
        return float((self.seconds - self._facts.get(_ARTIFACT_SECONDS, 0)) / self.epochs)

    @property
    def digest(self) -> str | None:
        """The digest of the recipe."""
        digest: str | None = self._facts.get(_DIGEST)
        return digest

    @property
    def has_recipe(self) -> bool:
        """Whether the trial stores a recipe; a confirming trial does before it begins."""
        return _RECIPE in self.frozen.system_attrs

    @property
    def recipe(self) -> Recipe:
        """The recipe that the trial trained, or was given to train.

        Raises:
            InputError: it has none: another program, or an early version of this one, made it.
        """
        name = f"search {self.search}" if self.search else "search"
        if not self.has_recipe:
            raise InputError(
                f"{name} trial {self.number} has no recipe: something else made it; "
                "start a search of its own with --search NAME"
            )
        text = json.dumps(self.frozen.system_attrs[_RECIPE])
        return _parsed_recipe(text, f"{name} trial {self.number}")

    @property
    def has_dev(self) -> bool:
        """Whether the trial has come to a dev score with its interval."""
        return _DEV_SCORE in self._facts or _DEV_AUC in self._facts

    @property
    def dev(self) -> Estimate:
        """The dev score of a finished trial with its interval."""
        if _DEV_SCORE in self._facts:
            return Estimate.from_json(self._facts[_DEV_SCORE])
        # No other score than AUC was there yet.
        return Estimate.from_json(self._facts[_DEV_AUC])

    @property
    def dev_auc(self) -> Estimate:
        """The dev AUC of a finished trial with its interval, whatever score decides."""
        return Estimate.from_json(self._facts[_DEV_AUC]) if self._facts.get(_DEV_AUC) else self.dev

    @property
    def other_auc(self) -> Estimate | None:
        """The dev AUC where another score decides."""
        beside = _DEV_SCORE in self._facts and self._facts.get(_DEV_AUC)
        return Estimate.from_json(self._facts[_DEV_AUC]) if beside else None

    @property
    def dev_area(self) -> Estimate | None:
        """The share of dev studies whose area a multi-task trial recognised, with its interval."""
        stored = self._facts.get(_DEV_AREA)
        return Estimate.from_json(stored) if stored else None

    @property
    def dev_scores(self) -> list[NDArray[np.float64]]:
        """The dev scores of each fold, to the bit: a rounding would make ties."""
        texts = self.frozen.system_attrs[_SCORES]
        return [np.frombuffer(base64.b85decode(text), dtype="<f8") for text in texts]

    @property
    def own_dev(self) -> list[DevFold] | None:
        """The studies of each fold that judged it; None where its search's dev studies did."""
        stored = self.frozen.system_attrs.get(_OWN_DEV)
        return None if stored is None else [DevFold.from_json(fold) for fold in stored]

    @property
    def is_done(self) -> bool:
        """Whether the trial finished or was pruned."""
        return self.state in DONE

    @property
    def is_foreign(self) -> bool:
        """Whether another program added a finished or pruned trial: no recipe, or no scores."""
        if not self.is_done:
            return False
        scored = _SCORES in self.frozen.system_attrs and self.has_dev
        return not (self.has_recipe and (scored or self.state == TrialState.PRUNED))

    @property
    def is_finished(self) -> bool:
        """Whether the trial finished, with a recipe and scores of its own."""
        return self.state == TrialState.COMPLETE and not self.is_foreign

    @property
    def was_cut_off(self) -> bool:
        """Whether a trial ended without a verdict of its own: its slot is run again, as it was."""
        if self.state != TrialState.FAIL:
            return False
        return self.reason is None or str(self.reason).partition(":")[0] in (*_CUT_OFF, *_OUTAGES)

    @property
    def failed_by_itself(self) -> bool:
        """Whether a trial came to an end that is a verdict on what it ran, and no score."""
        return self.state == TrialState.FAIL and not self.was_cut_off

    def runs(self, recipe: Recipe, identity: str | None, since: datetime | None) -> bool:
        """Whether the trial runs this recipe, seed and all, to confirm a trial of this search.

        A name says too little: a search may have been deleted, and its confirmation left behind. So
        a run names its search. One of an earlier version does not; it began after the searched
        trial.

        Args:
            identity: of the search.
            since: when the searched trial began.
        """
        if not self.has_recipe or self.recipe != recipe:
            return False
        if self.confirmed_search is not None:
            return bool(self.confirmed_search == identity)
        return self.started is None or since is None or self.started >= since

    def confirms(self, trial: TrialRecord, identity: str | None) -> bool:
        """Whether this trial runs a trial of the search `identity` again, with any seed."""
        if self.confirmed_trial != trial.number or not self.has_recipe:
            return False
        reseeded = replace(trial.recipe, seed=self.recipe.seed)
        return self.runs(reseeded, identity, trial.started)

    @property
    def _facts(self) -> Mapping[str, Any]:
        return self.frozen.user_attrs


@functools.lru_cache(maxsize=4096)  # a worker looks at the same trials after each of its own
def _parsed_recipe(text: str, source: str) -> Recipe:
    return recipes.recipe_from_dict(json.loads(text), source)


@dataclass(frozen=True, eq=False)
class TrialWriter:
    """Stores what a running trial is and what it comes to."""

    trial: optuna.Trial
    search: str = ""

    def read(self) -> TrialRecord:
        """The trial as the database has it now."""
        return TrialRecord(optuna_private.frozen(self.trial), self.search)

    def together(self) -> AbstractContextManager[None]:
        """A context in which all that is stored waits, and is stored in one transaction."""
        return optuna_private.stored_together(self.trial)

    def store_recipe(self, recipe: Recipe) -> None:
        """Store what the trial trains."""
        optuna_private.store_trial_fact(self.trial, _RECIPE, asdict(recipe))
        self.trial.set_user_attr(_DIGEST, recipe.digest)

    def store_epochs(self, epochs: int) -> None:
        """Store how many epochs are trained."""
        self.trial.set_user_attr(_EPOCHS, epochs)

    def store_estimates(
        self,
        dev: Estimate,
        best_epoch: int | list[int],
        auc: Estimate | None = None,
        area: Estimate | None = None,
    ) -> None:
        """Store the dev score that decides, and what stands beside it.

        Args:
            best_epoch: the epoch that was kept; with folds, one for each.
            auc: the dev AUC, where another score decides.
            area: the share of dev studies whose area was recognised, where that is a second task.
        """
        self.trial.set_user_attr(_BEST_EPOCH, best_epoch)
        self.trial.set_user_attr(_DEV_SCORE, asdict(dev))
        if auc is not None:
            self.trial.set_user_attr(_DEV_AUC, asdict(auc))
        if area is not None:
            self.trial.set_user_attr(_DEV_AREA, asdict(area))

    def store_scores(self, folds: Sequence[StudyScores]) -> None:
        """Store the scores of the dev studies of each fold, in the order of their names."""
        optuna_private.store_trial_fact(self.trial, _SCORES, _packed(folds))

    def store_own_dev(self, folds: Sequence[DevFold]) -> None:
        """Store which studies of each fold judge it, in the order of its scores."""
        facts = [fold.to_json() for fold in folds]
        optuna_private.store_trial_fact(self.trial, _OWN_DEV, facts)

    def store_reason(self, reason: str) -> None:
        """Store why the trial fails, unless it was lost to another worker meanwhile."""
        self._store_late(_REASON, reason)

    def store_seconds(self, seconds: float) -> None:
        """Store how long the trial took, unless it was lost to another worker meanwhile."""
        self._store_late(_SECONDS, seconds)

    def store_artifact_seconds(self, seconds: float) -> None:
        """Store how much of the trial's time its pictures, scores and note took."""
        self.trial.set_user_attr(_ARTIFACT_SECONDS, seconds)

    def _store_late(self, name: str, value: object) -> None:
        try:
            self.trial.set_user_attr(name, value)
        except UpdateFinishedTrialError:
            return


def waiting_trial(
    slot: int | str,
    values: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    *,
    role: str | None = None,
    warm_start: str | None = None,
    confirmed_trial: int | None = None,
    recipe: Recipe | None = None,
    identity: str | None = None,
) -> FrozenTrial:
    """A trial that waits for a worker.

    Args:
        recipe: what exactly the trial has to train, for a search with this `identity`.
    """
    optional = {_ROLE: role, _WARM_START: warm_start, _CONFIRMED_TRIAL: confirmed_trial}
    facts = {name: value for name, value in optional.items() if value is not None}
    return create_trial(
        state=TrialState.WAITING,
        params=dict(values),
        distributions=dict(distributions),
        user_attrs={**facts, _SLOT: slot},
        system_attrs=_recipe_facts(recipe, identity) if recipe else {},
    )


def running_facts(worker: str, slot: int | str) -> dict[str, Any]:
    """The attributes with which a trial begins: who runs it, and the slot that it fills."""
    return {_WORKER: worker, _SLOT: slot}


def is_drawn(trial: FrozenTrial) -> bool:
    """Whether a running trial stores all that the choice of other trials depends on."""
    return _WORKER in trial.user_attrs and _RECIPE in trial.system_attrs


def fail_trial(search: optuna.Study, trial: TrialRecord, reason: str) -> None:
    """End a trial of another worker as failed; one that ended meanwhile stays as it is."""
    optuna_private.fail(search, trial.frozen, _REASON, reason)


def _packed(folds: Sequence[StudyScores]) -> list[str]:
    """The scores of each fold as text."""
    return [base64.b85encode(fold.scores.astype("<f8").tobytes()).decode() for fold in folds]


def _recipe_facts(recipe: Recipe, identity: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {_RECIPE: asdict(recipe)}
    return facts if identity is None else {**facts, _CONFIRMED_SEARCH: identity}
