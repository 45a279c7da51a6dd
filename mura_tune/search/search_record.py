"""A search as the database stores it: nothing else knows its attributes' names.

`SearchRecord` is one Optuna study. The names of the attributes are those of every earlier version.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.database import optuna_private
from mura_tune.database.refusals import legible
from mura_tune.errors import InputError
from mura_tune.metrics.dev_fold import DevFold, number_through
from mura_tune.metrics.estimates import StudyScores
from mura_tune.search.trial_record import TrialRecord, TrialWriter, fail_trial, running_facts
from mura_tune.software import Software

# System attributes: a user attribute of thousands of characters would fill the search's page.
_CONFIG = "mura:config"  # of a search, as `config.config_to_dict` has it
_COMPARABLE = "mura:comparable"  # what must stay as it is for its trials to be comparable
_DEV = "mura:dev"  # labels and patients of the dev studies of each fold
_SOFTWARE = "mura:software"  # what started its workers last, as `software.Software` has it
_IDENTITY = "mura:identity"  # of a search, drawn when it starts: its name may be another's later
_SPACE_CHANGES = "space_changes"  # a user attribute: a person sees it on the dashboard

P = ParamSpec("P")
T = TypeVar("T")


class Trials(Sequence[TrialRecord]):
    """The trials of a search at one moment, in the order of their numbers, and by slot.

    Attributes:
        by_slot: the trials that name a slot, by its key.
        done_slots: keys of the slots in which a trial finished or was pruned.
        warm_starts: which trials of other searches gave values.
    """

    def __init__(self, frozen: Sequence[FrozenTrial] = (), search: str = "") -> None:
        self._search, self._frozen = search, frozen
        self._records: list[TrialRecord] = []
        self.by_slot: dict[int | str, list[TrialRecord]] = {}
        self.done_slots: set[int | str] = set()
        self.warm_starts: set[str] = set()
        self._unfinished: dict[int, TrialRecord] = {}
        self._verdicts: list[TrialRecord] = []
        self._take_in(frozen, range(len(frozen)))

    def updated(self, frozen: Sequence[FrozenTrial]) -> Trials:
        """The trials of the same search at a later moment. Only those that changed are looked at.

        Args:
            frozen: all of them; a trial that did not change is the same object.
        """
        before = self._records
        if frozen is self._frozen:
            return self
        differ = map(operator.is_not, frozen, self._frozen)
        changed = [
            *itertools.compress(itertools.count(), differ),
            *range(len(before), len(frozen)),
        ]
        if not changed and len(frozen) == len(before):
            return self
        replaced = [before[number] for number in changed if number < len(before)]
        if len(frozen) < len(before) or any(trial.state.is_finished() for trial in replaced):
            return Trials(frozen, self._search)  # read anew, or another search
        later = Trials(search=self._search)
        later._frozen = frozen
        later._records = before.copy()
        later.by_slot = self.by_slot.copy()
        later.done_slots = self.done_slots.copy()
        later.warm_starts = self.warm_starts.copy()
        later._unfinished = self._unfinished.copy()
        later._verdicts = self._verdicts.copy()
        for trial in replaced:
            later._forget(trial)
        later._take_in(frozen, changed)
        return later

    @overload
    def __getitem__(self, index: int) -> TrialRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[TrialRecord]: ...
    def __getitem__(self, index: int | slice) -> TrialRecord | list[TrialRecord]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    @functools.cached_property
    def running(self) -> list[TrialRecord]:
        return [t for t in self._unfinished.values() if t.state == TrialState.RUNNING]

    @property
    def waiting(self) -> list[TrialRecord]:
        return [t for t in self._unfinished.values() if t.state == TrialState.WAITING]

    def last_verdicts(self, number: int, since: int) -> list[TrialRecord]:
        """The trials from trial `since` on that ended last with a verdict on what they ran."""
        late = (trial for trial in reversed(self._verdicts) if trial.number >= since)
        return list(itertools.islice(late, number))[::-1]

    def _take_in(self, frozen: Sequence[FrozenTrial], numbers: Iterable[int]) -> None:
        for number in numbers:
            trial = TrialRecord(frozen[number], self._search)
            self._records[number : number + 1] = [trial]
            self._learn(trial)
        self._unfinished = dict(sorted(self._unfinished.items()))

    def _forget(self, trial: TrialRecord) -> None:
        """Take out a trial that had not ended."""
        self._unfinished.pop(trial.number)
        if trial.slot is not None:
            self.by_slot[trial.slot] = [t for t in self.by_slot[trial.slot] if t is not trial]

    def _learn(self, trial: TrialRecord) -> None:
        key = trial.slot
        if key is not None:
            there = self.by_slot.get(key)
            self.by_slot[key] = (
                sorted([*there, trial], key=lambda t: t.number) if there else [trial]
            )
        if isinstance(trial.warm_start, str):
            self.warm_starts.add(trial.warm_start)
        if not trial.state.is_finished():
            self._unfinished[trial.number] = trial
        if trial.is_done and key is not None:
            self.done_slots.add(key)
        if trial.is_done or trial.failed_by_itself:
            bisect.insort(self._verdicts, trial, key=_ended)


def _ended(trial: TrialRecord) -> tuple[datetime, int]:
    return trial.ended or datetime.min, trial.number


@dataclass(eq=False)
class SearchRecord:
    """A search, or the confirmation of one: the Optuna study `handle` and what is stored with it.

    Whatever is read is read from the database at that moment.
    """

    handle: optuna.Study
    _trials: Trials | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.handle.study_name

    @property
    def is_ours(self) -> bool:
        """Whether this program started the search, which then has `comparable` and `config`."""
        return {_COMPARABLE, _CONFIG} <= self._facts.keys()

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
        """The configuration that the latest call went on with.

        Raises:
            InputError: none is stored, or one that only another version reads.
        """
        plain = self.plain_config
        if not plain:
            raise InputError(
                f"search {self.name}: it stores no settings: its start was cut off, and the same "
                "'mura tune' starts it, or another program made it"
            )
        return config.config_from_dict(plain, f"search {self.name}")

    @property
    def identity(self) -> str | None:
        """What tells a search from another of its name; None where an early version started it."""
        identity: str | None = self._facts.get(_IDENTITY)
        return identity

    @property
    def software(self) -> Software | None:
        """What started workers of the search last; None where an early version did."""
        stored = self._facts.get(_SOFTWARE)
        return None if stored is None else Software.from_json(stored)

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

    def trials(self) -> Trials:
        """All trials in the order of their numbers."""
        frozen = self.handle.get_trials(deepcopy=False)
        before = self._trials or Trials(search=self.name)
        self._trials = before.updated(frozen)
        return self._trials

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

    def store_software(self, software: Software) -> None:
        """Store what starts workers of the search now."""
        self._store(_SOFTWARE, software.to_json())

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

    def begin(self, worker: str, slot: int | str) -> int:
        """Start the next trial: one that waits, else a new one. Returns its key in the database.

        Args:
            worker: the name of the worker that runs it.
            slot: the key of the slot that it fills, unless it was queued for one.
        """
        return optuna_private.begin_trial(self.handle, running_facts(worker, slot))

    def begun(self, key: int, make_sampler: Callable[[int], BaseSampler]) -> TrialWriter:
        """A trial that was started, to draw its values and to run it.

        Args:
            make_sampler: given the number of the trial, returns what draws its values unless it
                was queued with them.
        """
        trial = optuna_private.begun_trial(self.handle, key)
        self.handle.sampler = make_sampler(trial.number)
        return TrialWriter(trial, self.name)

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
