"""The cache of trials shows what the database holds, and reads what changed."""

import random
from collections.abc import Callable

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mura_tune.database.optuna_private import (
    TrialCache,
    begin_trial,
    begun_trial,
    stored_together,
)
from mura_tune.database.outages import Outage
from mura_tune.database.storage import open_storage
from mura_tune.search.search_record import SearchRecord, Trials
from mura_tune.search.trial_record import TrialRecord


def opened(url: str, is_settled: Callable[[FrozenTrial], bool]) -> TrialCache:
    return TrialCache(open_storage(url, create=True), is_settled)


def change(dice: random.Random, study: optuna.Study) -> None:
    """Do at random what a worker of a search does."""
    unfinished = [trial for trial in study.trials if not trial.state.is_finished()]
    kind = dice.choice(["begin", "begin", "queue", "note", "end", "end"])
    if kind == "queue":
        study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"slot": 9}))
    elif kind == "begin" or not unfinished:
        begin_trial(study, {"slot": dice.randrange(4), "worker": "w"})
    elif (trial := dice.choice(unfinished)).state == TrialState.RUNNING:
        storage: RDBStorage = study._storage
        if kind == "note":
            storage.set_trial_user_attr(trial._trial_id, "from", f"X trial {dice.randrange(3)}")
        else:
            state = dice.choice([TrialState.COMPLETE, TrialState.FAIL])
            study.tell(trial.number, 0.5 if state == TrialState.COMPLETE else None, state)


def numbers(trials: list[TrialRecord]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_cache_shows_what_the_database_holds(url: str) -> None:
    dice = random.Random(0)
    watcher = optuna.create_study(study_name="s", storage=opened(url, lambda trial: False))
    other = optuna.load_study(study_name="s", storage=open_storage(url))
    optuna.create_study(study_name="another", storage=open_storage(url)).add_trial(
        create_trial(value=1.0)  # its keys stand between those of the search
    )
    record = SearchRecord(watcher)
    for _ in range(60):
        change(dice, dice.choice([watcher, other]))
        if dice.random() < 0.5:
            continue
        now = optuna.load_study(study_name="s", storage=open_storage(url)).trials
        assert watcher.get_trials(deepcopy=False) == now
        seen, anew = record.trials(), Trials(now)
        assert [t.frozen for t in seen] == now
        for name in ("done_slots", "warm_starts"):
            assert getattr(seen, name) == getattr(anew, name)
        for slot in range(10):
            assert numbers(seen.by_slot.get(slot, [])) == numbers(anew.by_slot.get(slot, []))
        assert numbers(seen.running) == numbers(anew.running)
        assert numbers(seen.waiting) == numbers(anew.waiting)
        assert numbers(seen.last_verdicts(5, 2)) == numbers(anew.last_verdicts(5, 2))


def test_a_settled_trial_is_read_again_when_it_ends(url: str) -> None:
    def is_settled(trial: FrozenTrial) -> bool:
        return "worker" in trial.user_attrs

    study = optuna.create_study(study_name="s", storage=opened(url, is_settled))
    other = optuna.load_study(study_name="s", storage=open_storage(url))
    first, second = other.ask(), other.ask()
    first.set_user_attr("worker", "w")
    study.get_trials()
    for trial in (first, second):
        trial.set_user_attr("epochs", 1)
    seen = study.get_trials()
    assert ["epochs" in trial.user_attrs for trial in seen] == [False, True]
    other.tell(first, 0.5)
    assert study.get_trials()[0].user_attrs["epochs"] == 1


def test_a_search_that_was_deleted_is_missed(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=opened(url, lambda trial: True))
    study.ask()
    study.get_trials()
    optuna.delete_study(study_name="s", storage=open_storage(url))
    with pytest.raises(KeyError):
        study.get_trials()


def test_a_trial_begins_with_its_worker_and_slot(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=open_storage(url, create=True))
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"slot": 3}))
    for _ in range(2):
        begun_trial(study, begin_trial(study, {"worker": "w", "slot": 5}))
    assert [trial.user_attrs for trial in study.trials] == [
        {"slot": 3, "worker": "w"},
        {"slot": 5, "worker": "w"},
    ]
    assert {trial.state for trial in study.trials} == {TrialState.RUNNING}


def test_what_is_stored_together_is_seen_at_once(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=opened(url, lambda trial: True))
    other = optuna.load_study(study_name="s", storage=open_storage(url))
    trial = begun_trial(study, begin_trial(study, {"worker": "w"}))
    with stored_together(trial):
        trial.suggest_float("lr", 0, 1)
        trial.set_user_attr("epochs", 1)
        trial.report(0.5, 1)
        assert (other.trials[0].params, other.trials[0].user_attrs) == ({}, {"worker": "w"})
    (seen,) = other.trials
    assert seen.params == trial.params
    assert (seen.user_attrs, seen.intermediate_values) == ({"worker": "w", "epochs": 1}, {1: 0.5})
    assert study._storage.get_trial(trial._trial_id) == seen


def test_what_was_held_back_is_not_tried_again_after_an_outage(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=opened(url, lambda trial: True))
    trial = begun_trial(study, begin_trial(study, {"worker": "w"}))
    other = optuna.load_study(study_name="s", storage=open_storage(url))

    def fail(error: Exception) -> None:
        with stored_together(trial):
            trial.set_user_attr("epochs", 1)
            raise error

    for error, stored in ((Outage("out of reach"), {}), (ValueError("its own"), {"epochs": 1})):
        with pytest.raises(type(error)):
            fail(error)
        assert other.trials[0].user_attrs == {"worker": "w", **stored}


def test_an_own_trial_that_was_given_away_takes_nothing_more(url: str) -> None:
    study = optuna.create_study(study_name="s", storage=opened(url, lambda trial: True))
    trial = begun_trial(study, begin_trial(study, {"worker": "w"}))
    optuna.load_study(study_name="s", storage=open_storage(url)).tell(0, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("epochs", 1)
    SearchRecord(study).end(trial, TrialState.COMPLETE, 0.5)
    assert [(t.state, t.user_attrs) for t in study.trials] == [(TrialState.FAIL, {"worker": "w"})]
