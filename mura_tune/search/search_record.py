"""A search as the database stores it: nothing else knows its attributes' names.

`SearchRecord` is one Optuna study. The names of the attributes are those of every earlier version.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.database import optuna_private
from mura_tune.database.outages import legible
from mura_tune.metrics.dev_fold import DevFold, number_through
from mura_tune.metrics.estimates import StudyScores
from mura_tune.search.trial_record import TrialRecord, fail_trial

# System attributes: a user attribute of thousands of characters would fill the search's page.
_CONFIG = "mura:config"  # of a search, as `config.config_to_dict` has it
_COMPARABLE = "mura:comparable"  # what must stay as it is for its trials to be comparable
_DEV = "mura:dev"  # labels and patients of the dev studies of each fold
_IDENTITY = "mura:identity"  # of a search, drawn when it starts: its name may be another's later
_SPACE_CHANGES = "space_changes"  # a user attribute: a person sees it on the dashboard

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SearchRecord:
    """A search, or the confirmation of one: the Optuna study `handle` and what is stored with it.

    Whatever is read is read from the database at that moment.
    """

    handle: optuna.Study

    @property
    def name(self) -> str:
        return self.handle.study_name

    @property
    def is_ours(self) -> bool:
        """Whether the search was started by this program, and so stores what `comparable` says."""
        return _COMPARABLE in self._facts

    @property
    def comparable(self) -> Mapping[str, Any] | None:
        """What must stay as it is for the trials to be comparable; None before the start.

        Raises:
            InputError: the database holds something else.
        """
        with self.legible():
            stored: Mapping[str, Any] | None = self._facts.get(_COMPARABLE)
            if stored is None:
                return None
            mappings = {key: dict(stored[key]) for key in ("recipe", "space")}  # or it is damaged
            return {**stored, **mappings}

    @property
    def plain_config(self) -> Mapping[str, Any]:
        """The configuration as `config.config_to_dict` made it; empty where none is stored."""
        plain: Mapping[str, Any] = self._facts.get(_CONFIG, {})
        return plain

    @property
    def config(self) -> SearchConfig:
        """The configuration that the latest call went on with."""
        return config.config_from_dict(self._facts[_CONFIG], f"search {self.name}")

    @property
    def identity(self) -> str | None:
        """What tells a search from another of its name; None where an early version started it."""
        identity: str | None = self._facts.get(_IDENTITY)
        return identity

    @property
    def dev_folds(self) -> list[DevFold]:
        """The dev studies of each fold; one fold unless the split has several.

        Patients are numbered within a fold where they are stored; here no two share a number.
        """
        folds = [DevFold.from_json(fold) for fold in self._facts[_DEV]]
        return folds if len(folds) == 1 else number_through(folds)

    def scored(self, trial: TrialRecord) -> list[StudyScores]:
        """The studies that judged a trial, with its scores: of each fold, or of the one dev split.

        A trial of a confirmation may have been judged by studies of its own.
        """
        pairs = zip(trial.own_dev or self.dev_folds, trial.dev_scores, strict=True)
        return [fold.with_scores(scores) for fold, scores in pairs]

    def trials(self, *states: TrialState) -> list[TrialRecord]:
        """All trials in the order of their numbers, or those in one of `states`."""
        trials = self.handle.get_trials(deepcopy=False, states=states or None)
        return [TrialRecord(trial, self.name) for trial in trials]

    @contextmanager
    def legible(self) -> Iterator[None]:
        """Within it, a search that cannot be read is one line with the database's name.

        Raises:
            InputError: the database refuses, or what it holds is not as it was stored.
        """
        with legible(optuna_private.storage_url(self.handle), f"search {self.name}"):
            yield

    def store_comparable(self, comparable: Mapping[str, Any]) -> None:
        """Store what must stay as it is for the trials to be comparable."""
        self._store(_COMPARABLE, comparable)

    def store_config(self, plain: Mapping[str, Any]) -> None:
        """Store the configuration, as `config.config_to_dict` makes it."""
        self._store(_CONFIG, plain)

    def store_dev(self, folds: Sequence[DevFold]) -> None:
        """Store labels and patients of the dev studies of each fold, in the order of scores."""
        self._store(_DEV, [fold.to_json() for fold in folds])

    def identify(self) -> None:
        """Give the search an identity, if it has none. Under its lock."""
        if self.identity is None:
            self.store_identity(uuid.uuid4().hex)

    def store_identity(self, identity: str) -> None:
        """Store what tells the search from another of its name."""
        self._store(_IDENTITY, identity)

    def add_space_changes(self, changes: Sequence[str]) -> None:
        """Store, where people see it, how ranges were changed after the start."""
        optuna_private.extend_attribute(self.handle, _SPACE_CHANGES, changes)

    def queue(self, trial: FrozenTrial) -> None:
        """Add a trial that waits for a worker, as `trial_record.waiting_trial` makes it.

        Optuna's `enqueue_trial` would take values outside the space with a warning.
        """
        self.handle.add_trial(trial)

    def ask(self, sampler: BaseSampler) -> optuna.Trial:
        """The next trial: one that waits, else a new one whose values `sampler` draws."""
        self.handle.sampler = sampler
        return optuna_private.ask(self.handle)

    def end(self, trial: optuna.Trial, state: TrialState, score: float | None = None) -> None:
        """Store how a trial of this worker ended, unless another worker has failed it meanwhile."""
        with suppress(UpdateFinishedTrialError):
            self.handle.tell(trial, score, state, skip_if_finished=True)

    def fail(self, trial: TrialRecord, reason: str) -> None:
        """End a trial of another worker as failed; one that ended meanwhile stays as it is."""
        fail_trial(self.handle, trial, reason)

    def silent_numbers(self, running: Sequence[TrialRecord]) -> set[int]:
        """Numbers of the running trials whose heartbeat is older than the grace period."""
        return optuna_private.stale_numbers(self.handle, [trial.frozen for trial in running])

    @property
    def _facts(self) -> Mapping[str, Any]:
        return optuna_private.search_facts(self.handle)

    def _store(self, name: str, value: Any) -> None:
        optuna_private.store_search_fact(self.handle, name, value)


def reads_search(
    function: Callable[Concatenate[SearchRecord, P], T],
) -> Callable[Concatenate[SearchRecord, P], T]:
    """`SearchRecord.legible` around a function that reads a search, its first argument."""

    @functools.wraps(function)
    def reading(search: SearchRecord, /, *args: P.args, **options: P.kwargs) -> T:
        with search.legible():
            return function(search, *args, **options)

    return reading
