"""Where a search stands, from the database alone."""

import json
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from stored import COMPARABLE, facts, store
from test_search import study_of, tune

from mura_tune.cli import mura
from mura_tune.dashboard.status import read_status, spell_seconds
from mura_tune.data.prepare import Prepared
from mura_tune.database.locks import WorkerLock, host_of
from mura_tune.database.storage import open_storage
from mura_tune.errors import InputError


def add(url: str, worker: str, slot: int) -> None:
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    facts = {"slot": slot, "worker": worker, "epochs": 3}
    trial = create_trial(state=TrialState.RUNNING, user_attrs=facts)
    trial.datetime_start = datetime.now() - timedelta(seconds=90)
    study.add_trial(trial)


def test_who_runs_what_and_what_is_left(
    prepared: Prepared, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(study_of("budget.trials=1"), prepared, url)
    tune(study_of("budget.trials=5"), prepared, url, stop=lambda: True)  # it stores the budget
    with WorkerLock(url) as living:
        add(url, living.name, 1)
        add(url, "77-0000abcd", 2)
        (found,) = read_status(url)
        assert (found.name, found.done, found.trials, found.confirmations) == ("s", 1, 5, 0)
        first, second = found.running
        assert (first.trial, first.slot, first.epochs, first.lives) == (1, 1, 3, True)
        assert 90 <= first.seconds < 200
        assert first.host == host_of(living.name)
        assert (second.host, second.lives, second.silent) == (None, False, None)
        seconds = open_storage(url).get_trial(1).user_attrs["seconds"]
        assert found.seconds_left == pytest.approx(4 * seconds - seconds)
        mura(["status", "s", "--storage", url], standalone_mode=False)
        said = capsys.readouterr().out
        assert "s: 1 of 5 trials, 1 running, about " in said
        assert "its worker is gone" in said
        mura(["status", "--storage", url, "--json"], standalone_mode=False)
        document: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        assert [trial["worker"] for trial in document[0]["running"]] == [
            living.name,
            "77-0000abcd",
        ]
    with pytest.raises(InputError, match="no search nowhere; it holds s"):
        read_status(url, ["nowhere"])


def test_a_search_that_is_done_says_so(prepared: Prepared, url: str) -> None:
    confirm = ("budget.confirm.top=1", "budget.confirm.seeds=1")
    tune(study_of("budget.trials=1", *confirm), prepared, url)
    (found,) = read_status(url)
    assert str(found) == "s: 1 of 1 trials, 1 of 1 confirming runs, done"


def test_a_search_whose_start_was_cut_off_hides_no_other(prepared: Prepared, url: str) -> None:
    done = tune(study_of("budget.trials=1"), prepared, url)
    cut_off = optuna.create_study(study_name="t", storage=open_storage(url))
    store(cut_off, COMPARABLE, facts(done)[COMPARABLE])  # and the settings would come next
    assert [one.name for one in read_status(url)] == ["s"]
    with pytest.raises(InputError, match="search t: it stores no settings"):
        read_status(url, ["t"])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert spell_seconds(seconds) == words
