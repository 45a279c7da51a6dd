"""Which slots a study has: the search's, with baseline and warm starts, and the confirmation's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mura_tune.config import StudyConfig
from mura_tune.recipe import Recipe
from mura_tune.tuning.slots import Rerun, Slot, failed_by_itself, slot_of, standing
from mura_tune.tuning.space import Space, defaults
from mura_tune.tuning.stored import is_foreign, recipe_of

BASELINE, WARM, CONFIRM = "baseline", "warm start", "confirmation"


@dataclass(frozen=True)
class WarmStart:
    """Another study's winner, to be tried early in this one; `source` says which trial of which."""

    source: str
    values: dict[str, Any]


def search_slots(
    study: StudyConfig,
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


def untried(study: StudyConfig, trials: Sequence[FrozenTrial]) -> list[int]:
    """Keys of the slots, but the baseline's, that no trial has begun to fill."""
    tried = {slot_of(t) for t in trials}
    return [key for key in range(1, study.budget.trials) if key not in tried]


def searched(study: StudyConfig, trials: Sequence[FrozenTrial]) -> bool:
    """Whether every slot of the search is filled."""
    now = standing(trials, _places(study, trials))
    return now.done == now.wanted


def candidates(study: StudyConfig, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The finished trials to confirm: the best ones by dev score, and the baseline."""
    finished = [t for t in trials if t.state == TrialState.COMPLETE and not is_foreign(t)]
    finished.sort(key=lambda t: (-float(t.value or 0), t.number))
    top = finished[: study.budget.confirm.top]
    rest = finished[len(top) :]
    return top + [t for t in rest if t.user_attrs.get("role") == BASELINE and top]


def confirm_slots(
    study: StudyConfig, trials: Sequence[FrozenTrial], identity: str | None = None
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


def _places(study: StudyConfig, trials: Sequence[FrozenTrial]) -> list[Slot]:
    """The search's slots without values. Slot 0 is the baseline's until that failed by itself."""
    failed = any(slot_of(t) == 0 and failed_by_itself(t) for t in trials)
    baseline = Slot(0) if failed else Slot(0, attrs={"role": BASELINE})
    return [baseline, *map(Slot, range(1, study.budget.trials))]


def _reseeded(trial: FrozenTrial, seed: int) -> Recipe:
    """The trial's recipe with another seed: other initial weights, order and augmentation."""
    recipe = recipe_of(trial)
    return replace(recipe, seed=(recipe.seed + seed) % 2**32)
