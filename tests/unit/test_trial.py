"""With folds, a trial is scored by the mean over folds, and pruned after a bad one."""

import numpy as np
import pytest
from stored import DEV, facts, scores_of
from test_search import study_of, tune

from mura_tune.data.prepare import Prepared, prepare_folds
from mura_tune.metrics.ranking import auc
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
