"""What a study still has to run: slots, each filled by one finished or pruned trial.

Everything here happens under the study's lock.

Which slots a study has: the search's, with baseline and warm starts, and the confirmation's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from mura_tune.config import SearchConfig
from mura_tune.errors import MuraError
from mura_tune.recipe import Recipe
from mura_tune.search.records import as_attrs, is_foreign, is_rerun, recipe_of
from mura_tune.search.space import Space, defaults, fits

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
# Reasons that say nothing about a trial's values: another runs them.
OUTAGE = "outage"  # the database or the disk failed, and not the trial
CUT = ("killed", "interrupted", "silent", "superseded", OUTAGE)
# What an earlier version stored as a trial's own failure, by the error's name.
OUTAGES = (
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
SAME_FAILURES = 5  # in a row: then something is wrong with more than a trial


@dataclass(frozen=True)
class Rerun:
    """A searched trial with another seed: all that one slot of a confirmation may train.

    Attributes:
        recipe: what exactly is trained, seed and all.
        axes: the distributions of the searched trial. The search's own may be narrower by now.
        search: the identity of the search.
        since: when the searched trial began.
    """

    recipe: Recipe
    axes: Space = field(default_factory=dict)
    search: str | None = None
    since: datetime | None = None

    def is_of(self, trial: FrozenTrial) -> bool:
        """Whether a trial trains this, for this search."""
        return is_rerun(trial, self.recipe, self.search, self.since)


@dataclass(frozen=True)
class Slot:
    """A place in a study's count.

    Attributes:
        key: its name in the trials that fill it.
        values: what it must run; None lets the sampler draw.
        attrs: what a trial with these values says of itself. One with a role fills the slot only
            if it has that role.
        rerun: what exactly it must train, in a confirmation; then a trial that failed by itself
            fills the slot too, since the next would fail alike.
    """

    key: int | str
    values: Mapping[str, Any] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    rerun: Rerun | None = None


Plan = Callable[[Sequence[FrozenTrial]], Sequence[Slot]]


@dataclass(frozen=True)
class Standing:
    """How many slots a plan has, and how many are filled or being filled."""

    wanted: int
    done: int
    running: int


def standing(trials: Sequence[FrozenTrial], slots: Sequence[Slot]) -> Standing:
    """Where a plan stands. Trials that fill no slot of the plan are not counted."""
    done = _closed(trials, slots)
    running = _filled([t for t in trials if t.state == TrialState.RUNNING], slots) - done
    return Standing(len(slots), len(done), len(running))


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
    running = [t for t in trials if t.state == TrialState.RUNNING]
    held = _closed(trials, slots) | _filled(running, slots)
    open_slots = [slot for slot in slots if slot.key not in held]
    for trial in [t for t in trials if t.state == TrialState.WAITING]:
        if waited_for := _slot_for(trial, open_slots):
            return waited_for
        _fail(study, trial, "superseded")  # a crash queued it, and another ran it
    if not open_slots:
        return None
    slot = open_slots[0] if open_slots[0].rerun else _as_cut_off(open_slots[0], trials)
    if slot.values is not None:
        _queue(study, slot, slot.values, space)
    return slot


def slot_of(trial: FrozenTrial) -> int | str | None:
    """The key of the slot that a trial fills."""
    key = trial.user_attrs.get("slot")
    return key if isinstance(key, int | str) else None


def was_cut(trial: FrozenTrial) -> bool:
    """Whether a trial ended without a verdict of its own: its slot is run again, as it was."""
    if trial.state != TrialState.FAIL:
        return False
    reason = trial.user_attrs.get("reason")
    return reason is None or str(reason).partition(":")[0] in (*CUT, *OUTAGES)


def failed_by_itself(trial: FrozenTrial) -> bool:
    """Whether a trial came to an end that is a verdict on what it ran, and no score."""
    return trial.state == TrialState.FAIL and not was_cut(trial)


def fills(trial: FrozenTrial, slot: Slot) -> bool:
    """Whether a trial runs, or ran, what the slot is for."""
    if slot_of(trial) != slot.key:
        return False
    if slot.rerun:
        return slot.rerun.is_of(trial)
    return slot.attrs.get("role") in (None, trial.user_attrs.get("role"))


def _filled(trials: Sequence[FrozenTrial], slots: Sequence[Slot]) -> set[int | str]:
    """Keys of the slots that one of these trials fills."""
    by_key: dict[int | str | None, list[FrozenTrial]] = {}
    for trial in trials:
        by_key.setdefault(slot_of(trial), []).append(trial)
    return {slot.key for slot in slots if any(fills(t, slot) for t in by_key.get(slot.key, ()))}


def _closed(trials: Sequence[FrozenTrial], slots: Sequence[Slot]) -> set[int | str]:
    """Keys of the slots that need no further trial."""
    failed = [t for t in trials if failed_by_itself(t)]
    reruns = [slot for slot in slots if slot.rerun]
    return _filled([t for t in trials if t.state in DONE], slots) | _filled(failed, reruns)


def _slot_for(waiting: FrozenTrial, open_slots: Sequence[Slot]) -> Slot | None:
    """The open slot of a queued trial; a person queues from the dashboard without naming one."""
    if slot_of(waiting) is not None:
        return next((slot for slot in open_slots if fills(waiting, slot)), None)
    free = (slot for slot in open_slots if not slot.rerun and "role" not in slot.attrs)
    return next(free, None)


def _as_cut_off(slot: Slot, trials: Sequence[FrozenTrial]) -> Slot:
    """The slot with values and role of the trial in it that was cut off last, if one was."""
    before = [t for t in trials if slot_of(t) == slot.key]
    if not before or not was_cut(before[-1]) or not before[-1].params:
        return slot
    kept = {k: v for k, v in before[-1].user_attrs.items() if k in ("role", "from")}
    return Slot(slot.key, before[-1].params, kept or slot.attrs)


def _queue(study: optuna.Study, slot: Slot, values: Mapping[str, Any], space: Space) -> None:
    """As a checked trial: `enqueue_trial` would take values outside the space with a warning.

    Values that a changed space no longer holds are not queued: the sampler draws others. What is
    run again keeps its own axes, and so its values.
    """
    axes = slot.rerun.axes if slot.rerun else space
    inside = {k: v for k, v in values.items() if k in axes}
    if not slot.rerun and not fits(inside, {name: axes[name] for name in inside}):
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=inside,
            distributions={name: axes[name] for name in inside},
            user_attrs={**slot.attrs, "slot": slot.key},
            system_attrs=dict(as_attrs(slot.rerun.recipe, slot.rerun.search) if slot.rerun else {}),
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


BASELINE, WARM, CONFIRM = "baseline", "warm start", "confirmation"


@dataclass(frozen=True)
class WarmStart:
    """Another study's winner, to be tried early in this one; `source` says which trial of which."""

    source: str
    values: dict[str, Any]


def search_slots(
    study: SearchConfig,
    space: Space,
    trials: Sequence[FrozenTrial],
    warm: Callable[[], Sequence[WarmStart]] = tuple,
) -> list[Slot]:
    """Slot 0 runs the recipe as it stands; warm starts not tried yet take the first free ones.

    Once a fixed recipe failed by itself (out of memory, say) its slot is the sampler's.
    """
    slots = _places(study, trials)
    if slots[0].attrs:
        slots[0] = replace(slots[0], values=defaults(study.recipe, space))
    if free := untried(study, trials):
        used = {t.user_attrs.get("from") for t in trials}
        fresh = [start for start in warm() if start.source not in used]
        for key, start in zip(free, fresh, strict=False):
            slots[key] = Slot(key, start.values, {"role": WARM, "from": start.source})
    return slots


def untried(study: SearchConfig, trials: Sequence[FrozenTrial]) -> list[int]:
    """Keys of the slots, but the baseline's, that no trial has begun to fill."""
    tried = {slot_of(t) for t in trials}
    return [key for key in range(1, study.budget.trials) if key not in tried]


def searched(study: SearchConfig, trials: Sequence[FrozenTrial]) -> bool:
    """Whether every slot of the search is filled."""
    now = standing(trials, _places(study, trials))
    return now.done == now.wanted


def candidates(study: SearchConfig, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials to confirm: the best ones by dev score, and the baseline."""
    finished = [t for t in trials if t.state == TrialState.COMPLETE and not is_foreign(t)]
    finished.sort(key=lambda t: (-float(t.value or 0), t.number))
    top = finished[: study.budget.confirm.top]
    rest = finished[len(top) :]
    return top + [t for t in rest if t.user_attrs.get("role") == BASELINE and top]


def confirm_slots(
    study: SearchConfig, trials: Sequence[FrozenTrial], identity: str | None = None
) -> list[Slot]:
    """Each candidate of the searched `trials` with each new seed; a seed is tried once.

    Args:
        identity: of the search, see `stored`.
    """
    return [
        Slot(
            f"{trial.number}:{recipe.seed}",
            trial.params,
            {"role": CONFIRM, "of": trial.number},
            Rerun(recipe, trial.distributions, identity, trial.datetime_start),
        )
        for seed in range(1, study.budget.confirm.seeds + 1)
        for trial in candidates(study, trials)
        for recipe in [_reseeded(trial, seed)]
    ]


def _places(study: SearchConfig, trials: Sequence[FrozenTrial]) -> list[Slot]:
    """The search's slots without values. Slot 0 is the baseline's until that failed by itself."""
    failed = any(slot_of(t) == 0 and failed_by_itself(t) for t in trials)
    baseline = Slot(0) if failed else Slot(0, attrs={"role": BASELINE})
    return [baseline, *map(Slot, range(1, study.budget.trials))]


def _reseeded(trial: FrozenTrial, seed: int) -> Recipe:
    """The trial's recipe with another seed: other initial weights, order and augmentation."""
    recipe = recipe_of(trial)
    return replace(recipe, seed=(recipe.seed + seed) % 2**32)
