"""What a search still has to run: slots, each filled by one finished or pruned trial.

The search has slots, with baseline and warm starts, and its confirmation has others. Which slot is
next is asked under the search's lock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

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


@dataclass(frozen=True)
class WarmStart:
    """Another search's winner, to be tried early in this one; `source` names search and trial."""

    source: str
    values: dict[str, Any]


Plan = Callable[[Trials], Sequence[Slot]]


@dataclass(frozen=True)
class Standing:
    """How many slots a plan has, and how many are filled or being filled."""

    slots: int
    done: int
    running: int


def standing(trials: Trials, slots: Sequence[Slot]) -> Standing:
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
    open_slots = [slot for slot in slots if slot.key not in taken]
    for trial in trials.waiting:
        if queued_slot := _slot_for(trial, open_slots):
            return queued_slot
        search.fail(trial, SUPERSEDED)  # a crash queued it, and another ran it
    if not open_slots:
        return None
    slot = open_slots[0] if open_slots[0].rerun else _take_values_of_cut_off(open_slots[0], trials)
    if slot.values is not None:
        _queue(search, slot, slot.values, space)
    return slot


def find_lost(
    search: SearchRecord, trials: Trials, living: Callable[[Collection[str]], set[str]]
) -> dict[int, str]:
    """Numbers of the running trials whose worker is gone, or silent for too long, and the reason.

    The search's lock is not needed: a trial that is lost stays lost, and one that starts meanwhile
    is not looked at.

    Args:
        trials: of the search.
        living: those of some workers that live, as `WorkerLock.living` says it.
    """
    running = trials.running
    alive = living({trial.worker for trial in running if trial.worker})
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
) -> list[Slot]:
    """Slot 0 runs the recipe as it stands; warm starts not tried yet take the first free ones.

    Once a fixed recipe failed by itself (out of memory, say) its slot is the sampler's.
    """
    slots = empty_slots(config, trials)
    if slots[0].role:
        slots[0] = replace(slots[0], values=defaults(config.recipe, space))
    if free := untried(config, trials):
        fresh = [start for start in warm() if start.source not in trials.warm_starts]
        for key, start in zip(free, fresh, strict=False):
            slots[key] = Slot(key, start.values, WARM, warm_start=start.source)
    return slots


def untried(config: SearchConfig, trials: Trials) -> list[int]:
    """Keys of the slots, but the baseline's, that no trial has begun to fill."""
    return [key for key in range(1, config.budget.trials) if key not in trials.by_slot]


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


def confirm_slots(config: SearchConfig, trials: Trials, identity: str | None = None) -> list[Slot]:
    """Each candidate of the searched `trials` with each new seed; a seed is tried once.

    The slots of a seed stand together: all candidates are judged by the same patients.

    Args:
        identity: of the search.
    """
    resplit = config.budget.confirm.resplit
    return [
        _confirm_slot(trial, seed, identity, division=seed if resplit else 0)
        for seed in range(1, config.budget.confirm.seeds + 1)
        for trial in candidates(config, trials)
    ]


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


def empty_slots(config: SearchConfig, trials: Trials) -> list[Slot]:
    """The search's slots without values. Slot 0 is the baseline's until that failed by itself."""
    failed = any(t.failed_by_itself for t in trials.by_slot.get(0, ()))
    baseline = Slot(0) if failed else Slot(0, role=BASELINE)
    return [baseline, *_free_slots(config.budget.trials)[1:]]


@functools.lru_cache(maxsize=4)  # a search asks for the same ones with every trial
def _free_slots(number: int) -> tuple[Slot, ...]:
    return tuple(map(Slot, range(number)))


def _running(trials: Trials, slots: Sequence[Slot]) -> set[int | str]:
    """Keys of the slots that a running trial fills."""
    running: dict[int | str | None, list[TrialRecord]] = {}
    for trial in trials.running:
        running.setdefault(trial.slot, []).append(trial)
    begun = [slot for slot in slots if slot.key in running]
    return {slot.key for slot in begun if any(fills(t, slot) for t in running[slot.key])}


def _closed(trials: Trials, slots: Sequence[Slot]) -> set[int | str]:
    """Keys of the slots that need no further trial."""
    return {
        slot.key
        for slot in slots
        if (
            slot.key in trials.done_slots
            if slot.is_free
            else any(_closes(trial, slot) for trial in trials.by_slot.get(slot.key, ()))
        )
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
    reasons = {
        trial: KILLED if trial.worker is None else lost.get(trial.number)
        for trial in trials.running
    }
    failed = {trial: reason for trial, reason in reasons.items() if reason}
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
