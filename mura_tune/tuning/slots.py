"""What a study still has to run: slots, each filled by one finished or pruned trial.

Everything here happens under the study's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from mura_tune.errors import MuraError
from mura_tune.recipe import Recipe
from mura_tune.tuning.space import Space, fits
from mura_tune.tuning.stored import as_attrs

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# Reasons that say nothing about a trial's values: another runs them.
CUT = ("killed", "interrupted", "silent", "superseded")
SAME_FAILURES = 5  # in a row: then something is wrong with more than a trial


@dataclass(frozen=True)
class Slot:
    """A place in a study's count.

    Attributes:
        key: its name in the trials that fill it.
        values: what it must run; None lets the sampler draw.
        attrs: what a trial with these values says of itself, such as its role.
        recipe: what exactly it must train, seed and all; then a trial that failed by itself fills
            the slot too, since the next would fail alike.
    """

    key: int | str
    values: Mapping[str, Any] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None


Plan = Callable[[Sequence[FrozenTrial]], Sequence[Slot]]


@dataclass(frozen=True)
class Standing:
    """How many slots a plan has, and how many are filled or being filled."""

    wanted: int
    done: int
    running: int


def standing(trials: Sequence[FrozenTrial], slots: Sequence[Slot]) -> Standing:
    """Where a plan stands. Trials that fill no slot of the plan are not counted."""
    done = {slot_of(t) for t in trials if t.state in DONE}
    done |= _failed(trials) & {slot.key for slot in slots if slot.recipe}
    running = {slot_of(t) for t in trials if t.state == TrialState.RUNNING} - done
    keys = {slot.key for slot in slots}
    return Standing(len(slots), len(keys & done), len(keys & running))


def next_slot(
    study: optuna.Study, plan: Plan, space: Space, lives: Callable[[str | None], bool], since: int
) -> Slot | None:
    """The first open slot, its values queued; None when all are filled or being filled.

    Trials whose worker died or fell silent are failed first, and their values queued again.

    Args:
        lives: whether a worker, by name, is still there.
        since: number of the first trial of this call, for the count of failures.

    Raises:
        MuraError: five trials in a row failed for one reason.
    """
    _fail_lost(study, lives)
    trials = study.get_trials(deepcopy=False)
    _stop_if_all_fail(study.study_name, trials[since:])
    slots = plan(trials)
    held = {slot_of(t) for t in trials if t.state in (*DONE, TrialState.RUNNING)}
    held |= _failed(trials) & {slot.key for slot in slots if slot.recipe}
    open_slots = [slot for slot in slots if slot.key not in held]
    waiting = [t for t in trials if t.state == TrialState.WAITING]
    for trial in waiting:
        if slot_of(trial) in held or not open_slots:  # a crash queued it, and another ran it
            _fail(study, trial, "superseded")
        else:
            key = slot_of(trial)  # None: queued by a person, from the dashboard
            return next((slot for slot in open_slots if slot.key == key), open_slots[0])
    if not open_slots:
        return None
    slot = open_slots[0] if open_slots[0].recipe else _as_cut_off(open_slots[0], trials)
    if slot.values is not None:
        _queue(study, slot, slot.values, space)
    return slot


def slot_of(trial: FrozenTrial) -> int | str | None:
    """The key of the slot that a trial fills."""
    key = trial.user_attrs.get("slot")
    return key if isinstance(key, int | str) else None


def was_cut(trial: FrozenTrial) -> bool:
    """Whether a trial ended without a verdict of its own: its slot is run again, as it was."""
    reason = trial.user_attrs.get("reason")
    return trial.state == TrialState.FAIL and (reason is None or reason in CUT)


def _failed(trials: Sequence[FrozenTrial]) -> set[int | str | None]:
    return {slot_of(t) for t in trials if t.state == TrialState.FAIL and not was_cut(t)}


def _as_cut_off(slot: Slot, trials: Sequence[FrozenTrial]) -> Slot:
    """The slot with values and role of the trial in it that was cut off last, if one was."""
    before = [t for t in trials if slot_of(t) == slot.key]
    if not before or not was_cut(before[-1]) or not before[-1].params:
        return slot
    kept = {k: v for k, v in before[-1].user_attrs.items() if k in ("role", "from")}
    return Slot(slot.key, before[-1].params, kept or slot.attrs)


def _queue(study: optuna.Study, slot: Slot, values: Mapping[str, Any], space: Space) -> None:
    """As a checked trial: `enqueue_trial` would take values outside the space with a warning.

    Values that a changed space no longer holds are not queued: the sampler draws others.
    """
    inside = {k: v for k, v in values.items() if k in space}
    if not fits(inside, {name: space[name] for name in inside}):
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=inside,
            distributions={name: space[name] for name in inside},
            user_attrs={**slot.attrs, "slot": slot.key},
            system_attrs=dict(as_attrs(slot.recipe)),
        )
    )


def _fail_lost(study: optuna.Study, lives: Callable[[str | None], bool]) -> None:
    storage: Any = study._storage
    silent = set(storage._get_stale_trial_ids(study._study_id))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not lives(trial.user_attrs.get("worker")):
            _fail(study, trial, "killed")
        elif trial._trial_id in silent:
            _fail(study, trial, "silent")


def _fail(study: optuna.Study, trial: FrozenTrial, reason: str) -> None:
    storage = study._storage
    try:
        storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
    except UpdateFinishedTrialError:
        return  # it ended by itself while we looked


def _stop_if_all_fail(name: str, trials: Sequence[FrozenTrial]) -> None:
    ended = [t for t in trials if t.state in (*DONE, TrialState.FAIL) and not was_cut(t)]
    ended.sort(key=lambda t: (t.datetime_complete is not None, t.datetime_complete))
    last = ended[-SAME_FAILURES:]
    reasons = {str(t.user_attrs.get("reason")).partition(":")[0] for t in last}
    if (
        len(last) == SAME_FAILURES
        and len(reasons) == 1
        and all(t.state == TrialState.FAIL for t in last)
    ):
        raise MuraError(
            f"study {name}: {SAME_FAILURES} trials in a row failed alike "
            f"({last[-1].user_attrs['reason']}); mend that, and the same call goes on"
        )
