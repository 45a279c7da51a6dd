"""The best trials are trained again with new seeds, and the best mean wins."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from stored import DEV, SEARCH, facts, recipe_of, scores_of
from test_search import study_of, tune

from mura_tune import config
from mura_tune.config import Holdout
from mura_tune.data.prepare import Prepared
from mura_tune.data.splits import assign_splits
from mura_tune.database.storage import open_storage
from mura_tune.errors import InputError
from mura_tune.metrics.ranking import auc
from mura_tune.search import comparable, verdict, worker
from mura_tune.search.results import load_confirmation, load_result
from mura_tune.search.search_record import SearchRecord
from mura_tune.training.feature_cache import FeatureStore

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


def test_each_new_seed_is_judged_by_a_dev_split_of_its_own(prepared: Prepared, url: str) -> None:
    search = SearchRecord(tune(study_of(*CONFIRMED, "split.dev=0.5"), prepared, url))
    again = load_confirmation(open_storage(url), "s")
    assert again is not None
    names = np.unique(prepared.frame["patient"].to_numpy(object))
    for run in again.trials():
        seed = run.recipe.seed
        (own,) = run.own_dev
        (table,) = search.scored(run)
        expected = assign_splits(prepared.frame, 0.5, seed, column="published")
        dev = prepared.frame[(expected == "dev") & (prepared.frame["split"] != "test")]
        assert set(names[own.patients.astype(int)]) == set(dev["patient"])
        assert len(table.names) == dev["study"].nunique()
        assert auc(table.scores, table.labels) == pytest.approx(run.score, abs=1e-6)
    first, second = (
        set(run.own_dev[0].patients) for run in again.trials()[:: len(again.trials()) - 1]
    )
    assert first != second


def test_a_start_that_knows_the_patients_keeps_the_dev_split(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A release of this area was trained on whom `split.seed` + 1 makes judges."""

    def refuse(sources: object, view: Prepared, split: Holdout) -> None:
        if split.seed:
            raise InputError("pretrained: it was trained on 3 of them; divide them as it was")

    monkeypatch.setattr(comparable, "clean_or_refuse", refuse)
    confirm = "budget.confirm={top: 1, seeds: 2, resplit: true}"
    once = ("budget.trials=1", confirm, "split.dev=0.5")
    search = SearchRecord(tune(study_of(*once), prepared, url))
    assert "search s: new seeds are judged on its own dev split: pretrained: it was" in caplog.text
    again = load_confirmation(open_storage(url), "s")
    assert again is not None
    assert [(run.slot, run.own_dev) for run in again.trials()] == [("0:1", None), ("0:2", None)]
    assert not search.config.budget.confirm.resplit
    found = load_result(url, "s")
    assert found.best.confirmed is not None
    assert "dev split of" not in verdict.describe_result(found)


def test_a_search_older_than_resplit_keeps_its_budget_but_for_what_a_call_names(
    prepared: Prepared, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = study_of("budget.trials=2", "budget.confirm={top: 1, seeds: 2, resplit: false}")
    search = SearchRecord(tune(old, prepared, url))
    plain = config.config_to_dict(search.config)
    del plain["budget"]["confirm"]["resplit"]
    search.store_config(plain)
    today = replace(old, budget=config.load_config("XR_WRIST").budget, overrides=())
    for _ in range(2):
        tune(today, prepared, url)
        assert "resplit" not in search.plain_config["budget"]["confirm"]
        assert search.config.budget == old.budget
        assert "goes on as it began, with budget.confirm.resplit: False" in caplog.text
        assert "budget.trials: 2" in caplog.text
        caplog.clear()
    tune(replace(today, overrides=("budget.confirm.resplit=true",)), prepared, url)
    assert "on its own dev split: it began before there was budget.confirm.resplit" in caplog.text
    assert search.config.budget == old.budget
    tune(config.replace_trials(today, 3), prepared, url)
    assert len(search.trials()) == 3
    assert search.config.budget.confirm == old.budget.confirm


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
    told = verdict.describe_result(found)
    assert "no trial is confirmed with new seeds" in told or found.best.number == 0


def test_stored_scores_give_the_trials_auc_to_the_bit(prepared: Prepared, url: str) -> None:
    searched = tune(study_of("budget.trials=2"), prepared, url)
    (part,) = facts(searched)[DEV]
    for trial in searched.trials:
        (scores,) = scores_of(trial)
        assert round(auc(scores, np.array(part["labels"])), 6) == trial.value


def test_features_held_in_memory_are_asked_of_files_once_and_change_no_score(
    prepared: Prepared, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    batches = FeatureStore.batches

    def counted(
        store: FeatureStore, about: Mapping[str, Any], *rest: Any
    ) -> Iterator[torch.Tensor]:
        asked.append(json.dumps(about, sort_keys=True))
        return batches(store, about, *rest)

    monkeypatch.setattr(FeatureStore, "batches", counted)
    monkeypatch.setattr(worker, "feature_memory", lambda device, workers: 10**8)  # as on a GPU
    frozen = study_of("finetune.depth=0", "search.finetune.depth=null", "search.augment=null")
    plain = tune(frozen, prepared, url)
    held = tune(frozen, prepared, url, name="held", features=tmp_path)
    for one, other in zip(held.trials, plain.trials, strict=True):
        assert np.array_equal(scores_of(one), scores_of(other))
    assert len(asked) == len(set(asked)) == 2  # the one epoch of train, and dev: of three trials


def test_an_interruption_before_a_trial_has_values_leaves_none_running(
    prepared: Prepared, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    study = study_of("budget.trials=2")
    with monkeypatch.context() as patch:
        patch.setattr(SearchRecord, "begun", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(study, prepared, url)
    assert [t.state.name for t in stored_trials(url)] == ["FAIL"]
    tune(study, prepared, url)
    assert [t.state.name for t in stored_trials(url)] == ["FAIL", "COMPLETE", "COMPLETE"]
