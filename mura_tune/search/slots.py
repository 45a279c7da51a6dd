"""What a search still has to run: slots, each filled by one finished or pruned trial.

The search has slots, with baseline and warm starts, and its confirmation has others. Which slot is
next is asked under the search's lock.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, overload

from optuna.trial import TrialState

from mura_tune.config import SearchConfig
from mura_tune.errors import MuraError
from mura_tune.recipe import Recipe
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.space import Space, defaults, fits
from mura_tune.search.trial_record import (
    BASELINE,
    CONFIRM,
    KILLED,
    SILENT,
    SUPERSEDED,
    WARM,
    TrialRecord,
    waiting_trial,
)

SAME_FAILURES = 5  # in a row: then something is wrong with more than a trial


@dataclass(frozen=True)
class Rerun:
    """A searched trial with another seed: all that one slot of a confirmation may train.

    Attributes:
        recipe: what exactly is trained, seed and all.
        axes: the distributions of the searched trial. The search's own may be narrower by now.
        identity: of the search.
        since: when the searched trial began.
        division: what is added to `split.seed` for the patients that train and judge; 0 is the
            search's own split.
    """

    recipe: Recipe
    axes: Space = field(default_factory=dict)
    identity: str | None = None
    since: datetime | None = None
    division: int = 0

    def is_of(self, trial: TrialRecord) -> bool:
        """Whether a trial trains this, for this search."""
        return trial.runs(self.recipe, self.identity, self.since)


@dataclass(frozen=True)
class Slot:
    """A place in a search's count.

    Attributes:
        key: its name in the trials that fill it.
        values: what it must run; None lets the sampler draw.
        role: of the trial that fills it; None takes a trial of any role.
        warm_start: which trial of which search gave the values.
        confirmed_trial: the number of the trial that is run again.
        rerun: what exactly it must train, in a confirmation; then a trial that failed by itself
            fills the slot too, since the next would fail alike.
    """

    key: int | str
    values: Mapping[str, Any] | None = None
    role: str | None = None
    warm_start: str | None = None
    confirmed_trial: int | None = None
    rerun: Rerun | None = None

    @property
    def is_free(self) -> bool:
        """Whether a trial of any role and recipe fills it."""
        return self.role is None and self.rerun is None


class Slots(Sequence[Slot]):
    """The slots of a plan, in the order in which they are filled.

    Attributes:
        free: keys of the slots that a trial of any role and recipe fills.
        fixed: the others, by key.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        self._slots = [*slots]
        self.fixed = {slot.key: slot for slot in self._slots if not slot.is_free}
        self.free = frozenset(slot.key for slot in self._slots if slot.is_free)

    def with_values(self, changed: Mapping[int, Slot]) -> Slots:
        """The same plan with other slots in some places."""
        later = copy.copy(self)
        later._slots = self._slots.copy()
        for place, slot in changed.items():
            later._slots[place] = slot
        later.fixed = self.fixed | {slot.key: slot for slot in changed.values()}
        later.free = self.free.difference(later.fixed)
        return later

    @overload
    def __getitem__(self, index: int) -> Slot: ...
    @overload
    def __getitem__(self, index: slice) -> list[Slot]: ...
    def __getitem__(self, index: int | slice) -> Slot | list[Slot]:
        return self._slots[index]

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)


@dataclass(frozen=True)
class WarmStart:
    """Another search's winner, to be tried early in this one; `source` names search and trial."""

    source: str
    values: dict[str, Any]


Plan = Callable[[Trials], Slots]


@dataclass(frozen=True)
class Standing:
    """How many slots a plan has, and how many are filled or being filled."""

    slots: int
    done: int
    running: int


def standing(trials: Trials, slots: Slots) -> Standing:
    """Where a plan stands. Trials that fill no slot of the plan are not counted."""
    done = _closed(trials, slots)
    running = _running(trials, slots) - done
    return Standing(len(slots), len(done), len(running))


def next_slot(
    search: SearchRecord,
    plan: Plan,
    space: Space,
    lost: Mapping[int, str],
    since: int,
) -> Slot | None:
    """The first open slot, its values queued; None when all are filled or being filled.

    Trials that are lost are failed first, and their values queued again.

    Args:
        lost: what `find_lost` found before the search's lock was taken.
        since: number of the first trial of this call, for the count of failures.

    Raises:
        MuraError: five trials in a row failed for one reason.
    """
    trials = search.trials()
    if _fail_lost(search, trials, lost):
        trials = search.trials()
    _stop_if_all_fail(search.name, trials, since)
    slots = plan(trials)
    taken = _closed(trials, slots) | _running(trials, slots)
    for trial in trials.waiting:
        if queued_slot := _slot_for(trial, [slot for slot in slots if slot.key not in taken]):
            return queued_slot
        search.fail(trial, SUPERSEDED)  # a crash queued it, and another ran it
    slot = next((slot for slot in slots if slot.key not in taken), None)
    if slot is None:
        return None
    slot = slot if slot.rerun else _take_values_of_cut_off(slot, trials)
    if slot.values is not None:
        _queue(search, slot, slot.values, space)
    return slot


def find_lost(
    search: SearchRecord, trials: Trials, idle: str, living: Callable[[Collection[str]], set[str]]
) -> dict[int, str]:
    """Numbers of the running trials whose worker is gone, or silent for too long, and the reason.

    The search's lock is not needed: a trial that is lost stays lost, and one that starts meanwhile
    is not looked at.

    Args:
        trials: of the search.
        idle: the worker that asks. It runs none: a trial of its own began as a connection was lost.
        living: those of some workers that live, as `WorkerLock.living` says it.
    """
    running = trials.running
    if not running:
        return {}
    alive = living({trial.worker for trial in running if trial.worker}) - {idle}
    silent = search.silent_numbers(running)
    dead = {t.number: KILLED for t in running if t.worker and t.worker not in alive}
    return {**dict.fromkeys(silent, SILENT), **dead}


def fills(trial: TrialRecord, slot: Slot) -> bool:
    """Whether a trial runs, or ran, what the slot is for."""
    if trial.slot != slot.key:
        return False
    if slot.rerun:
        return slot.rerun.is_of(trial)
    return slot.role in (None, trial.role)


def search_slots(
    config: SearchConfig,
    space: Space,
    trials: Trials,
    warm: Callable[[], Sequence[WarmStart]] = tuple,
) -> Slots:
    """Slot 0 runs the recipe as it stands; warm starts not tried yet take the first free ones.

    Once a fixed recipe failed by itself (out of memory, say) its slot is the sampler's.
    """
    slots = empty_slots(config, trials)
    changed: dict[int, Slot] = {}
    if slots[0].role:
        changed[0] = replace(slots[0], values=defaults(config.recipe, space))
    fresh = [start for start in warm() if start.source not in trials.warm_starts]
    for key, start in zip(untried(config, trials) if fresh else (), fresh, strict=False):
        changed[key] = Slot(key, start.values, WARM, warm_start=start.source)
    return slots.with_values(changed) if changed else slots


def untried(config: SearchConfig, trials: Trials) -> list[int]:
    """Keys of the slots, but the baseline's, that no trial has begun to fill."""
    begun = trials.by_slot
    return sorted(frozenset(range(1, config.budget.trials)).difference(begun))


def searched(config: SearchConfig, trials: Trials) -> bool:
    """Whether every slot of the search is filled."""
    now = standing(trials, empty_slots(config, trials))
    return now.done == now.slots


def candidates(config: SearchConfig, trials: Trials) -> list[TrialRecord]:
    """The finished trials to confirm: the best ones by dev score, and the baseline."""
    finished = [t for t in trials if t.is_finished]
    finished.sort(key=lambda t: (-t.score, t.number))
    top = finished[: config.budget.confirm.top]
    rest = finished[len(top) :]
    return top + [t for t in rest if t.role == BASELINE and top]


def confirm_slots(config: SearchConfig, trials: Trials, identity: str | None = None) -> Slots:
    """Each candidate of the searched `trials` with each new seed; a seed is tried once.

    The slots of a seed stand together: all candidates are judged by the same patients.

    Args:
        identity: of the search.
    """
    resplit = config.budget.confirm.resplit
    best = candidates(config, trials)
    return Slots(
        _confirm_slot(trial, seed, identity, division=seed if resplit else 0)
        for seed in range(1, config.budget.confirm.seeds + 1)
        for trial in best
    )


def _confirm_slot(trial: TrialRecord, seed: int, identity: str | None, *, division: int) -> Slot:
    """The trial's recipe with another seed: other initial weights, order and augmentation."""
    recipe = replace(trial.recipe, seed=(trial.recipe.seed + seed) % 2**32)
    key = f"{trial.number}:{recipe.seed}"
    return Slot(
        f"{key} split +{division}" if division else key,
        trial.params,
        CONFIRM,
        confirmed_trial=trial.number,
        rerun=Rerun(recipe, trial.distributions, identity, trial.started, division),
    )


def empty_slots(config: SearchConfig, trials: Trials) -> Slots:
    """The search's slots without values. Slot 0 is the baseline's until that failed by itself."""
    failed = any(t.failed_by_itself for t in trials.by_slot.get(0, ()))
    return _empty_slots(config.budget.trials, Slot(0) if failed else Slot(0, role=BASELINE))


@functools.lru_cache(maxsize=4)  # a search asks for the same ones with every trial
def _empty_slots(number: int, first: Slot) -> Slots:
    return Slots([first, *map(Slot, range(1, number))])


def _running(trials: Trials, slots: Slots) -> set[int | str]:
    """Keys of the slots that a running trial fills."""
    running = {trial.slot for trial in trials.running if trial.slot is not None}
    fixed = running & slots.fixed.keys()
    filled = {t.slot for t in trials.running if t.slot in fixed and fills(t, slots.fixed[t.slot])}
    return (running & slots.free) | filled


def _closed(trials: Trials, slots: Slots) -> set[int | str]:
    """Keys of the slots that need no further trial."""
    return (trials.done_slots & slots.free) | {
        key
        for key, slot in slots.fixed.items()
        if any(_closes(trial, slot) for trial in trials.by_slot.get(key, ()))
    }


def _closes(trial: TrialRecord, slot: Slot) -> bool:
    ended = trial.is_done or (slot.rerun is not None and trial.failed_by_itself)
    return ended and fills(trial, slot)


def _slot_for(waiting: TrialRecord, open_slots: Sequence[Slot]) -> Slot | None:
    """The open slot of a queued trial; a person queues from the dashboard without naming one."""
    if waiting.slot is not None:
        return next((slot for slot in open_slots if fills(waiting, slot)), None)
    return next((slot for slot in open_slots if slot.is_free), None)


def _take_values_of_cut_off(slot: Slot, trials: Trials) -> Slot:
    """The slot with values and role of the trial in it that was cut off last, if one was."""
    before = trials.by_slot.get(slot.key)
    if not before or not before[-1].was_cut_off or not before[-1].params:
        return slot
    last = before[-1]
    if last.role is None and last.warm_start is None:
        return replace(slot, values=last.params)
    return Slot(slot.key, last.params, last.role, last.warm_start)


def _queue(search: SearchRecord, slot: Slot, values: Mapping[str, Any], space: Space) -> None:
    """Queue a trial for a slot.

    Values that a changed space no longer holds are not queued: the sampler draws others. What is
    run again keeps its own axes, and so its values.
    """
    axes = slot.rerun.axes if slot.rerun else space
    inside = {k: v for k, v in values.items() if k in axes}
    distributions = {name: axes[name] for name in inside}
    if not slot.rerun and not fits(inside, distributions):
        return
    search.queue(
        waiting_trial(
            slot.key,
            inside,
            distributions,
            role=slot.role,
            warm_start=slot.warm_start,
            confirmed_trial=slot.confirmed_trial,
            recipe=slot.rerun.recipe if slot.rerun else None,
            identity=slot.rerun.identity if slot.rerun else None,
        )
    )


def _fail_lost(search: SearchRecord, trials: Trials, lost: Mapping[int, str]) -> bool:
    """Fail the trials that are lost; returns whether there was one.

    A worker names itself in its trial before it frees the search's lock: a trial of nobody, seen
    under that lock, is of a worker that was killed.
    """
    reasons = ((t, KILLED if t.worker is None else lost.get(t.number)) for t in trials.running)
    failed = {trial: reason for trial, reason in reasons if reason}
    for trial, reason in failed.items():
        search.fail(trial, reason)
    return bool(failed)


def _stop_if_all_fail(name: str, trials: Trials, since: int) -> None:
    last = trials.last_verdicts(SAME_FAILURES, since)
    reasons = {str(t.reason).partition(":")[0] for t in last}
    alike = len(reasons) == 1 and all(t.state == TrialState.FAIL for t in last)
    if len(last) == SAME_FAILURES and alike:
        raise MuraError(
            f"search {name}: {SAME_FAILURES} trials in a row failed alike "
            f"({last[-1].reason}); mend that, and the same call goes on"
        )
