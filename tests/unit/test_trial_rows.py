"""Trials that are read and stored with few statements are as Optuna reads and stores them."""

import math
from datetime import datetime
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mura_tune.database import trial_rows
from mura_tune.database.optuna_private import TrialCache
from mura_tune.database.outages import WaitingStorage
from mura_tune.database.storage import open_storage

AXES: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "depth": IntDistribution(0, 4),
    "arch": CategoricalDistribution(("cnn", None, 3)),
}


@pytest.fixture
def storage(url: str) -> WaitingStorage:
    """With trials of all states, between those of another search."""
    storage = open_storage(url, create=True)
    searches = [optuna.create_study(study_name=name, storage=storage) for name in ("s", "t")]
    steps = {1: 0.5, 2: math.inf, 3: -math.inf, 0: math.nan}
    values = {"lr": 0.1, "depth": 3, "arch": None}
    for state, score in [
        (TrialState.COMPLETE, -math.inf),
        (TrialState.PRUNED, 0.5),
        (TrialState.FAIL, None),
        (TrialState.RUNNING, None),
        (TrialState.WAITING, None),
    ]:
        for study in searches:
            study.add_trial(
                create_trial(
                    state=state,
                    value=score,
                    params=values,
                    distributions={name: AXES[name] for name in values},
                    intermediate_values=steps,
                    user_attrs={"b": 1, "a": [None, "ä"]},
                    system_attrs={"recipe": {"lr": 0.1}},
                )
            )
        values, steps = {}, {}
    return storage


def plain(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial holds; what is in a mapping without its order, and nan like itself."""
    return {
        name: sorted(map(str, value.items())) if isinstance(value, dict) else value
        for name, value in vars(trial).items()
    }


def test_trials_are_as_optuna_reads_them(storage: WaitingStorage) -> None:
    for after in (-1, 3):
        ours = storage._get_trials(1, None, {1}, after)
        optunas = RDBStorage._get_trials(storage, 1, None, {1}, after)
        assert [*map(plain, ours)] == [*map(plain, optunas)]
        assert all(plain(storage.get_trial(t._trial_id)) == plain(t) for t in optunas)


def test_many_keys_take_several_statements(
    storage: WaitingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_rows, "AT_ONCE", 2)
    assert [trial._trial_id for trial in storage.read_trials([5, 1, 4, 2, 3])] == [1, 2, 3, 4, 5]


def test_what_is_not_there_is_missed(storage: WaitingStorage) -> None:
    with pytest.raises(KeyError):
        storage.read_trials([1, 99])
    with pytest.raises(KeyError):
        storage._get_trials(99, None, set(), -1)


def test_of_ended_trials_the_new_ones_alone_are_named(storage: WaitingStorage) -> None:
    assert storage.read_open(1, 1, 2) == {
        TrialState.PRUNED: {3},
        TrialState.FAIL: {5},
        TrialState.RUNNING: {7},
        TrialState.WAITING: {9},
    }
    assert storage.read_open(1, 9, 9) == {TrialState.WAITING: {9}}


def untimed(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial holds but its key and times."""
    return {name: value for name, value in plain(trial).items() if name not in UNLIKE}


UNLIKE = ("_trial_id", "_datetime_start", "datetime_complete")


def test_trials_are_stored_as_optuna_stores_them(storage: WaitingStorage) -> None:
    cache = TrialCache(storage, lambda trial: True)
    optuna.create_study(study_name="u", storage=cache)
    for theirs in RDBStorage._get_trials(storage, 1, None, set(), -1):
        key = cache.create_new_trial(3, theirs)
        if theirs.state == TrialState.RUNNING:
            cache.set_trial_state_values(key, TrialState.COMPLETE, [math.inf])
            storage.set_trial_state_values(theirs._trial_id, TrialState.COMPLETE, [math.inf])
    optunas, ours = (RDBStorage._get_trials(storage, search, None, set(), -1) for search in (1, 3))
    assert [*map(untimed, ours)] == [*map(untimed, optunas)]
    since = [abs((datetime.now() - t.datetime_complete).total_seconds()) for t in ours[3:4]]
    assert all(seconds < 3600 for seconds in since)  # another hour is another zone's


def test_nothing_is_stored_in_a_trial_that_has_ended(storage: WaitingStorage) -> None:
    before = storage.get_trial(1)
    rows = create_trial(state=TrialState.RUNNING, user_attrs={"a": 1}, system_attrs={"b": 2})
    with pytest.raises(UpdateFinishedTrialError):
        storage.store_rows(1, rows)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(1, TrialState.FAIL)
    with pytest.raises(KeyError):
        storage.store_rows(99, rows)
    assert plain(storage.get_trial(1)) == plain(before)


def test_a_trial_begins_once(storage: WaitingStorage) -> None:
    assert [storage.set_trial_state_values(9, TrialState.RUNNING) for _ in range(2)] == [
        True,
        False,
    ]


def test_a_name_keeps_its_kind_of_values(storage: WaitingStorage) -> None:
    cache = TrialCache(storage, lambda trial: True)
    trial = optuna.load_study(study_name="s", storage=cache).ask()
    with pytest.raises(ValueError, match="Cannot set different distribution kind"):
        trial.suggest_int("lr", 1, 3)
    assert storage.get_trial(trial._trial_id).params == {}
