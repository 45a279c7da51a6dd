"""Which slot is next: counted exactly, whatever happened to the trials before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from stored import SCORES, recipe_facts, recipe_of, records_of

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import url_of
from mura_tune.errors import MuraError
from mura_tune.recipe import Recipe
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.slots import (
    Rerun,
    Slot,
    Slots,
    WarmStart,
    confirm_slots,
    find_lost,
    next_slot,
    search_slots,
    searched,
    standing,
)
from mura_tune.search.space import Space

SPACE = {"augment": FloatDistribution(0.0, 1.0)}
PLAN = Slots([Slot(0), Slot(1), Slot(2)])


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = open_storage(url_of(str(tmp_path / "s.db")), create=True)
    storage = open_storage(url_of(str(tmp_path / "s.db")), grace=60)
    return optuna.create_study(storage=storage, direction="maximize")


def add(
    study: optuna.Study,
    state: TrialState,
    slot: object,
    recipe: Recipe | None = None,
    search: str | None = None,
    **attrs: Any,
) -> FrozenTrial:
    value = 0.5 if state in (TrialState.COMPLETE, TrialState.PRUNED) else None
    study.add_trial(
        create_trial(
            state=state,
            value=value,
            params={"augment": 0.25},
            distributions=SPACE,
            user_attrs={"slot": slot, **attrs},
            system_attrs=recipe_facts(recipe, search) if recipe else {},
        )
    )
    return study.get_trials()[-1]


def ask(
    study: optuna.Study,
    plan: Slots = PLAN,
    is_alive: bool = True,
    space: Space = SPACE,
    since: int = 0,
) -> Slot | None:
    search = SearchRecord(study)
    lost = find_lost(search, search.trials(), "idle", set if is_alive else lambda names: set())
    return next_slot(search, lambda trials: plan, space, lost, since)


def test_a_trial_of_the_worker_that_asks_is_lost(study: optuna.Study) -> None:
    """It runs none: its connection was lost as one began, and it began another."""
    add(study, TrialState.RUNNING, 0, worker="idle")
    add(study, TrialState.RUNNING, 1, worker="another")
    slot = ask(study)
    assert slot is not None
    assert slot.key == 0
    assert [trial.user_attrs.get("reason") for trial in study.trials][:2] == ["killed", None]


def test_the_lowest_slot_without_a_trial_is_next(study: optuna.Study) -> None:
    add(study, TrialState.COMPLETE, 0)
    add(study, TrialState.PRUNED, 2)
    slot = ask(study)
    assert slot == Slot(1)
    assert len(study.trials) == 2  # drawn freely: nothing is queued
    add(study, TrialState.RUNNING, 1, worker="w")
    assert ask(study) is None


@pytest.mark.parametrize("reason", ["killed", "interrupted", "silent", None])
def test_what_was_cut_off_is_queued_again_as_it_was(
    study: optuna.Study, reason: str | None
) -> None:
    attrs = {"reason": reason} if reason else {}
    add(study, TrialState.FAIL, 0, role="warm start", **{"from": "X trial 1"}, **attrs)
    assert ask(study).key == 0
    queued = study.get_trials()[-1]
    assert queued.state == TrialState.WAITING
    assert queued.params == {"augment": 0.25}
    assert queued.user_attrs == {"slot": 0, "role": "warm start", "from": "X trial 1"}
    assert ask(study).key == 0  # a crash before it ran: it is found, not queued twice
    assert len(study.trials) == 2


def test_a_confirmation_that_was_cut_off_is_queued_whole(study: optuna.Study) -> None:
    recipe = study_of().recipe
    fixed = Slot(
        "3:1", {"augment": 0.75}, "confirmation", confirmed_trial=3, rerun=Rerun(recipe, SPACE)
    )
    add(study, TrialState.FAIL, "3:1", reason="killed", role="confirmation", of=3)
    assert ask(study, Slots([fixed])) == fixed
    queued = study.get_trials()[-1]
    assert queued.params == {"augment": 0.75}
    assert queued.user_attrs == {"role": "confirmation", "of": 3, "slot": "3:1"}
    assert recipe_of(queued) == recipe


def test_what_failed_by_itself_is_not_run_again_as_it_was(study: optuna.Study) -> None:
    recipe = study_of().recipe
    add(study, TrialState.FAIL, 0, recipe, reason="out of memory")
    assert ask(study) == Slot(0)
    assert len(study.trials) == 1
    fixed = Slot(0, rerun=Rerun(recipe))  # the next would fail alike
    assert ask(study, Slots([fixed, Slot(1)])) == Slot(1)


def test_a_dead_workers_trial_is_failed_and_its_values_queued(study: optuna.Study) -> None:
    add(study, TrialState.RUNNING, 0, worker="gone")
    assert ask(study, is_alive=False).key == 0
    dead, queued = study.get_trials()
    assert (dead.state, dead.user_attrs["reason"]) == (TrialState.FAIL, "killed")
    assert queued.params == dead.params


def test_a_slot_queued_twice_runs_once(study: optuna.Study) -> None:
    add(study, TrialState.WAITING, 0)
    add(study, TrialState.COMPLETE, 0)
    assert ask(study).key == 1
    assert study.get_trials()[0].state == TrialState.FAIL


def test_values_that_a_changed_space_lost_are_drawn_anew(study: optuna.Study) -> None:
    add(study, TrialState.FAIL, 0, reason="killed")
    narrow = {"augment": FloatDistribution(0.5, 1.0)}
    slot = next_slot(SearchRecord(study), lambda trials: PLAN, narrow, {}, 0)
    assert slot is not None
    assert slot.key == 0
    assert len(study.trials) == 1


def test_what_is_run_again_keeps_its_values_under_a_narrowed_space(study: optuna.Study) -> None:
    """Without them the worker would draw, and train a stranger under the winner's slot."""
    recipe = study_of().recipe
    fixed = Slot(
        "3:1", {"augment": 0.25}, "confirmation", confirmed_trial=3, rerun=Rerun(recipe, SPACE)
    )
    narrow = {"augment": FloatDistribution(0.5, 1.0)}
    assert ask(study, Slots([fixed]), space=narrow) == fixed
    (queued,) = study.get_trials()
    assert (queued.params, queued.user_attrs["of"]) == ({"augment": 0.25}, 3)
    assert recipe_of(queued) == recipe


def test_a_slot_that_another_recipe_was_queued_for_is_queued_anew(study: optuna.Study) -> None:
    recipe = study_of().recipe
    fixed = Slot("3:1", {"augment": 0.25}, confirmed_trial=3, rerun=Rerun(recipe, SPACE, "search"))
    for state in (TrialState.COMPLETE, TrialState.WAITING):
        add(study, state, "3:1", replace(recipe, batch=8), "search", of=3)
        add(study, state, "3:1", recipe, "another search", of=3)
    assert standing(records_of(study), Slots([fixed])).done == 0
    assert ask(study, Slots([fixed])) == fixed
    *stale, queued = study.get_trials()
    assert [t.state for t in stale[2:]] == [TrialState.FAIL] * 2
    assert (queued.state, recipe_of(queued)) == (TrialState.WAITING, recipe)


@pytest.mark.parametrize(
    "reason",
    [
        "outage: studies.db: no space left on its disk",
        "StorageInternalError: An exception is raised during the commit.",  # an early version's
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_an_outage_is_not_the_trials_own_verdict(study: optuna.Study, reason: str) -> None:
    add(study, TrialState.FAIL, 0, role="baseline", reason=reason)
    add(study, TrialState.COMPLETE, 0)  # an early version gave the slot to the sampler
    for key in (1, 2, 3):
        add(study, TrialState.COMPLETE, key)
    assert not searched(study_of(), records_of(study))
    plan = search_slots(study_of(), SPACE, records_of(study))
    assert ask(study, plan) == plan[0]
    queued = study.get_trials()[-1]
    assert (queued.params, queued.user_attrs["role"]) == ({"augment": 0.5}, "baseline")
    add(study, TrialState.COMPLETE, 0, role="baseline")
    assert searched(study_of(), records_of(study))


def test_what_a_person_queues_does_not_take_the_baselines_place(study: optuna.Study) -> None:
    study.add_trial(create_trial(value=0.9))  # by another program: it fills no slot
    study.enqueue_trial({"augment": 1.0})
    plan = search_slots(study_of(), SPACE, records_of(study))
    assert ask(study, plan) == plan[1]
    assert study.get_trials()[-1].state == TrialState.WAITING
    assert standing(records_of(study), plan).done == 0


def test_five_alike_stop_it_unless_they_are_older_than_this_call(study: optuna.Study) -> None:
    for slot in range(5):
        add(study, TrialState.FAIL, slot, reason="diverged: at step 3")
    with pytest.raises(MuraError, match="5 trials in a row failed alike"):
        ask(study)
    assert ask(study, since=5) is not None
    add(study, TrialState.COMPLETE, 0)
    assert ask(study) is not None  # not in a row


def test_standing_counts_slots_not_trials(study: optuna.Study) -> None:
    add(study, TrialState.COMPLETE, 0)
    add(study, TrialState.COMPLETE, 0)
    add(study, TrialState.RUNNING, 1)
    add(study, TrialState.COMPLETE, 7)  # of a larger budget
    recipe = study_of().recipe
    add(study, TrialState.FAIL, 2, recipe, reason="out of memory")
    now = standing(records_of(study), PLAN)
    assert (now.slots, now.done, now.running) == (3, 1, 1)
    assert standing(records_of(study), Slots([*PLAN[:2], Slot(2, rerun=Rerun(recipe))])).done == 2


def study_of(trials: int = 4) -> SearchConfig:
    others = ("finetune.lr", "finetune.depth", "class_weight")
    axes = [f"search.{path}=null" for path in others]
    return config.load_config("XR_WRIST", [f"budget.trials={trials}", *axes])


def test_slot_zero_is_the_recipe_until_it_fails_by_itself(study: optuna.Study) -> None:
    slots = search_slots(study_of(), SPACE, Trials())
    assert [s.key for s in slots] == [0, 1, 2, 3]
    assert (slots[0].values, slots[0].role) == ({"augment": 0.5}, "baseline")
    failed = add(study, TrialState.FAIL, 0, reason="out of memory")
    assert search_slots(study_of(), SPACE, Trials([failed]))[0] == Slot(0)
    cut = add(study, TrialState.FAIL, 0, reason="killed")
    assert search_slots(study_of(), SPACE, Trials([cut]))[0].values is not None


def test_warm_starts_take_the_first_free_slots_once(study: optuna.Study) -> None:
    def warm() -> list[WarmStart]:
        return [WarmStart("A trial 1", {"augment": 0.1}), WarmStart("B trial 2", {"augment": 0.9})]

    slots = search_slots(study_of(), SPACE, Trials(), warm)
    assert [s.warm_start for s in slots] == [None, "A trial 1", "B trial 2", None]
    ran = add(study, TrialState.COMPLETE, 1, **{"from": "A trial 1"})
    slots = search_slots(study_of(), SPACE, Trials([ran]), warm)
    assert [s.warm_start for s in slots] == [None, None, "B trial 2", None]


def test_the_best_and_the_baseline_are_confirmed_with_new_seeds(study: optuna.Study) -> None:
    system = {**recipe_facts(study_of().recipe), SCORES: []}
    values = {0: 0.6, 1: 0.9, 2: 0.7, 3: 0.8, 4: 0.5}
    for slot, value in values.items():
        attrs = {"slot": slot, "dev_score": {}, **({"role": "baseline"} if slot == 0 else {})}
        study.add_trial(create_trial(value=value, user_attrs=attrs, system_attrs=system))
    small = ["budget.trials=5", "budget.confirm={top: 3, seeds: 2, resplit: true}"]
    anew = confirm_slots(config.load_config("XR_WRIST", small), records_of(study))
    same = [*small, "budget.confirm.resplit=false"]
    slots = confirm_slots(config.load_config("XR_WRIST", same), records_of(study))
    assert [s.key for s in slots] == ["1:1", "3:1", "2:1", "0:1", "1:2", "3:2", "2:2", "0:2"]
    assert [s.rerun.recipe.seed for s in slots] == [1] * 4 + [2] * 4
    assert {s.rerun.division for s in slots} == {0}
    assert [s.rerun.division for s in anew] == [1] * 4 + [2] * 4
    assert not {s.key for s in slots} & {s.key for s in anew}  # either is not the other's run
    assert searched(study_of(5), records_of(study))
    assert not searched(study_of(6), records_of(study))
    none = config.load_config("XR_WRIST", ["budget.confirm.top=0"])
    assert not confirm_slots(none, records_of(study))
