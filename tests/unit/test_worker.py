"""The best trials are trained again with new seeds, and the best mean wins."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from stored import DEV, SEARCH, facts, recipe_of, scores_of
from test_search import study_of, tune

from mura_tune.data.prepare import Prepared
from mura_tune.database.storage import open_storage
from mura_tune.metrics.ranking import auc
from mura_tune.search import verdict
from mura_tune.search.results import load_confirmation, load_result

CONFIRMED = ("budget.confirm.top=2", "budget.confirm.seeds=2")


def test_the_winner_has_the_best_mean_over_new_seeds(prepared: Prepared, url: str) -> None:
    searched = tune(study_of(*CONFIRMED), prepared, url)
    assert len(searched.trials) == 3  # the confirmation is a study of its own
    again = load_confirmation(open_storage(url), "s").handle
    assert again is not None
    found = load_result(url, "s")
    means = {c.trial: c.mean for c in found.confirmed}
    assert set(means) >= {0}  # the baseline is always among them
    assert len(again.trials) == 2 * len(means)
    for number, mean in means.items():
        runs = [t for t in again.trials if t.user_attrs["of"] == number]
        assert mean == pytest.approx(np.mean([t.value for t in runs]))
        assert [recipe_of(t).seed for t in runs] == [1, 2]
        assert all(t.params == searched.trials[number].params for t in runs)
    assert found.best.number == max(means, key=lambda n: (means[n], -n))
    if found.best.number:
        assert found.difference is not None
        assert found.difference.value == pytest.approx(
            means[found.best.number] - means[0], abs=1e-5
        )
    tune(study_of(*CONFIRMED), prepared, url)
    assert len(again.trials) == 2 * len(means)  # once is enough


def test_a_confirmation_that_was_left_behind_is_not_another_searchs(
    prepared: Prepared, url: str
) -> None:
    once = ("budget.trials=1", "budget.confirm.top=1", "budget.confirm.seeds=1")
    tune(study_of(*once), prepared, url)
    storage = open_storage(url)
    optuna.delete_study(study_name="s", storage=storage)  # as the writable dashboard does
    tune(study_of(*once), prepared, url)
    ran = load_confirmation(storage, "s").handle.trials
    assert [t.user_attrs["slot"] for t in ran] == ["0:1", "0:1"]
    assert len({t.system_attrs[SEARCH] for t in ran}) == 2
    found = load_result(url, "s")
    assert [one.scores for one in found.confirmed] == [(ran[1].value,)]


def test_a_confirmation_keeps_its_values_under_a_narrowed_space(
    prepared: Prepared, url: str
) -> None:
    """Early versions drew others, trained a stranger in the winner's slot, and `best` failed."""
    study = study_of("budget.trials=2", "budget.confirm.top=2", "budget.confirm.seeds=1")
    searched = tune(study, prepared, url, stop=lambda: len(stored_trials(url)) == 2)
    low, high = sorted(t.params["finetune.lr"] for t in searched.trials)
    baseline = searched.trials[0].params["finetune.lr"]
    away = ("high", (low * high) ** 0.5) if baseline == low else ("low", (low * high) ** 0.5)
    narrow = study_of(
        "budget.trials=2",
        "budget.confirm.top=2",
        "budget.confirm.seeds=1",
        f"search.finetune.lr.{away[0]}={away[1]}",
    )
    tune(narrow, prepared, url, allow_space_change=True)
    again = load_confirmation(open_storage(url), "s").handle.trials
    assert len(again) == 2
    for run in again:
        trial = searched.trials[run.user_attrs["of"]]
        assert run.params == trial.params
        assert replace(recipe_of(run), seed=recipe_of(trial).seed) == recipe_of(trial)
    assert {one.trial for one in load_result(url, "s").confirmed} == {0, 1}


def stored_trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="s", storage=open_storage(url)).trials


def test_without_confirmation_the_search_score_decides(prepared: Prepared, url: str) -> None:
    searched = tune(study_of(), prepared, url)
    found = load_result(url, "s")
    assert found.confirmed == ()
    assert found.best.score == max(t.value for t in searched.trials)
    assert "picked as best" in verdict.describe_result(found) or found.best.number == 0


def test_stored_scores_give_the_trials_auc_to_the_bit(prepared: Prepared, url: str) -> None:
    searched = tune(study_of("budget.trials=2"), prepared, url)
    (part,) = facts(searched)[DEV]
    for trial in searched.trials:
        (scores,) = scores_of(trial)
        assert round(auc(scores, np.array(part["labels"])), 6) == trial.value
