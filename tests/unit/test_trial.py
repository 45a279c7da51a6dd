"""With folds, a trial is scored by the mean over folds, and pruned after a bad one."""

import numpy as np
import pytest
from stored import DEV, facts, scores_of
from test_search import study_of, tune

from mura_tune.config import Holdout
from mura_tune.data.prepare import Prepared, prepare_folds
from mura_tune.errors import InputError
from mura_tune.metrics.ranking import auc
from mura_tune.search import comparable
from mura_tune.search.results import load_result


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


AUTO_SETS = ("split.folds=auto", "budget.trials=1")


def test_few_dev_patients_have_folds_judge_and_the_search_keeps_them(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = prepared.frame.iloc[prepared.rows("dev")]
    rarer = dev.groupby("label")["patient"].nunique().min()
    searched = tune(study_of(*AUTO_SETS), prepared, url)
    assert f"3 patient folds judge a trial, since dev has {rarer} patients of the" in caplog.text
    assert "--set split.folds=0" in caplog.text
    assert len(scores_of(searched.trials[0])) == 3
    assert load_result(url, "s").config.split.folds == 3
    caplog.clear()
    monkeypatch.setattr(comparable, "ENOUGH_PATIENTS", 1)  # the dataset might have grown
    assert len(tune(study_of("split.folds=auto", "budget.trials=2"), prepared, url).trials) == 2
    assert "folds" not in caplog.text
    with pytest.raises(InputError, match=r"split\.folds 3 -> 0"):
        tune(study_of("budget.trials=2"), prepared, url)


def test_a_search_that_began_without_folds_goes_on_without(prepared: Prepared, url: str) -> None:
    tune(study_of("budget.trials=1"), prepared, url)
    searched = tune(study_of("split.folds=auto", "budget.trials=2"), prepared, url)
    assert [len(scores_of(trial)) for trial in searched.trials] == [1, 1]


def test_enough_dev_patients_judge_alone(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = prepared.frame.iloc[prepared.rows("dev")]
    enough = int(dev.groupby("label")["patient"].nunique().min())
    monkeypatch.setattr(comparable, "ENOUGH_PATIENTS", enough)
    searched = tune(study_of(*AUTO_SETS), prepared, url)
    assert len(scores_of(searched.trials[0])) == 1
    assert "folds" not in caplog.text


def test_folds_that_would_be_judged_by_whom_the_start_knows_are_left_out(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of this area was trained on all patients but dev's: they are in every fold."""

    def refuse(_sources: object, _prepared: object, split: Holdout) -> None:
        if split.folds:
            raise InputError("pretrained: r: it was trained on 9 of the 12 patients; divide them")

    monkeypatch.setattr(comparable, "clean_or_refuse", refuse)
    searched = tune(study_of(*AUTO_SETS), prepared, url)
    assert len(scores_of(searched.trials[0])) == 1
    assert "dev alone judges, with" in caplog.text
    assert "it was trained on 9 of the 12 patients" in caplog.text
