"""The winner is confirmed with new seeds, starts from siblings' winners, is judged over folds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from stored import DEV, SEARCH, facts, recipe_of, scores_of
from test_search import study_of, tune

from mura_tune.data.index import open_dataset
from mura_tune.data.prepare import Prepared, prepare, prepare_folds
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import url_of
from mura_tune.errors import InputError
from mura_tune.metrics.ranking import auc
from mura_tune.search import manage, verdict
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


def test_a_siblings_winner_is_tried_first(prepared: Prepared, url: str) -> None:
    tune(study_of(*CONFIRMED), prepared, url, name="sibling")
    winner = load_result(url, "sibling").best
    mine = tune(study_of("budget.trials=8", "budget.seed=5"), prepared, url, warm_start="auto")
    roles = [t.user_attrs.get("role") for t in mine.trials]
    assert roles == ["baseline", "warm start"] + [None] * 6
    assert mine.trials[1].params == winner.params
    assert mine.trials[1].user_attrs["from"] == f"sibling trial {winner.number}"
    alone = tune(study_of("budget.trials=2"), prepared, url, name="alone", warm_start="none")
    assert [t.user_attrs.get("role") for t in alone.trials] == ["baseline", None]


@pytest.mark.parametrize(
    ("sibling", "told"),
    [
        ("nowhere", "no such study"),
        ("unconfirmed", "is not confirmed yet"),
        ("larger", "it searched cnn at 48 px, not cnn at 32 px"),
    ],
)
def test_a_named_sibling_that_cannot_help_is_refused(
    prepared: Prepared, url: str, phantoms: Path, tmp_path: Path, sibling: str, told: str
) -> None:
    if sibling == "unconfirmed":
        tune(study_of("budget.trials=1"), prepared, url, name=sibling)
    if sibling == "larger":
        study = study_of("budget.trials=1", "budget.confirm.top=1", "size=48")
        other = prepare(open_dataset(phantoms), "XR_WRIST", 48, study.split, tmp_path / "cache")
        tune(study, other, url, name=sibling)
    with pytest.raises(InputError, match=f"--warm-start {sibling}: .*{told}"):
        tune(study_of("budget.trials=1"), prepared, url, warm_start=sibling)


def test_folds_cover_every_patient_but_tests_once(prepared: Prepared) -> None:
    views = prepare_folds(prepared, study_of("split.folds=2").split)
    devs = [set(v.frame["patient"].iloc[v.rows("dev")]) for v in views]
    trains = [set(v.frame["patient"].iloc[v.rows("train")]) for v in views]
    tests = [set(v.frame["patient"].iloc[v.rows("test")]) for v in views]
    held = set(prepared.frame["patient"].iloc[prepared.rows("test")])
    assert tests == [held, held]
    assert devs[0].isdisjoint(devs[1])
    assert devs[0] | devs[1] | held == set(prepared.frame["patient"])
    assert all(dev.isdisjoint(train) for dev, train in zip(devs, trains, strict=True))


def test_with_folds_a_trial_is_their_mean(prepared: Prepared, url: str) -> None:
    study = study_of(
        "split.folds=2", "budget.trials=2", "budget.confirm.top=1", "budget.confirm.seeds=1"
    )
    searched = tune(study, prepared, url)
    parts = facts(searched)[DEV]
    for trial in searched.trials:
        folds = scores_of(trial)
        each = [auc(s, np.array(p["labels"])) for s, p in zip(folds, parts, strict=True)]
        assert trial.value == pytest.approx(np.mean(each), abs=1e-6)
        assert trial.intermediate_values == pytest.approx({1: each[0], 2: np.mean(each)}, abs=1e-6)
        assert trial.user_attrs["dev_score"]["studies"] == sum(len(s) for s in folds)
        assert trial.user_attrs["epochs"] == 2
    found = load_result(url, "s")
    assert found.confirmed
    if found.difference:
        assert found.difference.studies == sum(len(p["labels"]) for p in parts)


def test_bad_folds_are_pruned_after_one(prepared: Prepared, url: str) -> None:
    study = study_of(
        "split.folds=2", "budget.trials=7", "budget.pruner.startup=2", "budget.pruner.min_trials=1"
    )
    pruned = [t for t in tune(study, prepared, url).trials if t.state.name == "PRUNED"]
    assert pruned
    assert all(t.user_attrs["epochs"] == 1 for t in pruned)


def test_a_study_can_be_copied_exported_and_deleted(
    prepared: Prepared, url: str, tmp_path: Path
) -> None:
    tune(
        study_of("budget.trials=2", "budget.confirm.top=1", "budget.confirm.seeds=1"), prepared, url
    )
    other = url_of(str(tmp_path / "other.db"))
    assert manage.copy(url, "s", "t", other) == 2
    assert load_result(other, "t").to_json() == load_result(url, "s").to_json() | {"study": "t"}
    with pytest.raises(InputError, match="study t exists"):
        manage.copy(url, "s", "t", other)
    assert len(tune(study_of("budget.trials=3"), prepared, other, name="t").trials) == 3

    head, *rows = manage.table(url, "s").splitlines()
    assert head.startswith("study,trial,slot,role,state,dev_score,low,high")
    assert "finetune.lr" in head
    confirmed = len(load_confirmation(open_storage(url), "s").trials())
    assert [row.split(",")[0] for row in rows] == ["s"] * 2 + ["s.confirm"] * confirmed

    assert manage.delete(url, "s", tmp_path / "artifacts") == 2 + confirmed
    assert optuna.get_all_study_names(open_storage(url)) == []
    with pytest.raises(InputError, match="no study s"):
        manage.table(url, "s")
