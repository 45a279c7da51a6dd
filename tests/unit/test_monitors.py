"""What may decide: each is its definition, and what people read calls it by its name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Ran
from sklearn.metrics import cohen_kappa_score, f1_score
from test_fit import DEV, TRAIN, recipe

from mura_tune import config
from mura_tune.database.storage import load_study, open_storage
from mura_tune.database.urls import url_of
from mura_tune.errors import InputError
from mura_tune.metrics.estimates import StudyScores, patient_weights, sigmoid
from mura_tune.metrics.operating_points import BEST_F1, BEST_KAPPA, MONITOR_MEASURES
from mura_tune.networks.factory import build_network
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import task_of


def studies(n: int = 60, seed: int = 0) -> StudyScores:
    """Scores in steps of a twentieth, so that some are equal; two studies a patient."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(np.round(20 * (0.3 * labels + 0.7 * rng.random(n))) / 20, 0, 1)
    names = np.array([f"s{i:03d}" for i in range(n)])
    return StudyScores(names, np.array([f"p{i // 2:03d}" for i in range(n)]), labels, scores)


@pytest.mark.parametrize(
    ("measure", "reference"), [(BEST_F1, f1_score), (BEST_KAPPA, cohen_kappa_score)]
)
def test_it_is_the_largest_that_any_threshold_reaches(
    measure: object, reference: Callable[..., float]
) -> None:
    for seed in range(5):
        of = studies(seed=seed)
        each = [reference(of.labels, of.scores >= cut) for cut in np.unique(of.scores)]
        assert measure.score(of) == pytest.approx(max(each))


@pytest.mark.parametrize("measure", [BEST_F1, BEST_KAPPA])
def test_weights_are_repetitions(measure: object) -> None:
    of = studies(20)
    (weights,) = patient_weights(of.patients, 6, 0)
    for row, found in zip(weights, measure.values(of, weights), strict=True):
        again = np.repeat(np.arange(20), row.astype(int))
        columns = (of.names, of.patients, of.labels, of.scores)
        repeated = StudyScores(*(column[again] for column in columns))
        assert found == pytest.approx(measure.score(repeated))


@pytest.mark.parametrize("measure", [BEST_F1, BEST_KAPPA])
def test_its_interval_holds_it_and_is_not_sure_of_perfection(measure: object) -> None:
    found = measure.estimate(studies())
    assert found.low < found.value < found.high
    of = studies()
    perfect = measure.estimate(
        StudyScores(of.names, of.patients, of.labels, of.labels.astype(float))
    )
    assert perfect.value == perfect.high == 1
    assert perfect.low < 0.95


def test_one_class_or_a_score_that_is_no_number_has_none() -> None:
    of = studies()
    for labels, scores in ((of.labels * 0, of.scores), (of.labels, of.scores * np.nan)):
        assert np.isnan(BEST_F1.score(StudyScores(of.names, of.patients, labels, scores)))


@pytest.mark.parametrize("name", ["auc", "f1", "kappa"])
def test_the_monitor_picks_the_epoch_and_leaves_the_training_alone(name: str) -> None:
    given = recipe(monitor=name, **{"finetune.epochs": 5, "finetune.lr": 3e-3})
    net, task = build_network("cnn", seed=0), task_of("abnormality", given)
    found = fit(net, TRAIN, DEV, given, task)
    assert found.epoch.score == max(epoch.score for epoch in found.epochs)
    assert MONITOR_MEASURES[name].score(task.table(predict(net, DEV), DEV)) == found.epoch.score
    plain = fit(
        build_network("cnn", seed=0),
        TRAIN,
        DEV,
        recipe(**{"finetune.epochs": 5, "finetune.lr": 3e-3}),
        task_of("abnormality"),
    )
    assert [epoch.loss for epoch in found.epochs] == [epoch.loss for epoch in plain.epochs]


def test_dev_ranks_studies_by_the_mean_that_the_recipe_names() -> None:
    logits = torch.randn((len(DEV), 1), generator=torch.Generator().manual_seed(0)) * 3
    plain = logits[:, 0].double().numpy()
    names = np.unique(DEV.studies)
    rows = [plain[name == DEV.studies] for name in names]
    expected = {
        "mean_probability": [sigmoid(own).mean() for own in rows],
        "mean_logit": [sigmoid(np.array(own.mean())) for own in rows],
    }
    for task in ("abnormality", "multitask"):
        for study_score, scores in expected.items():
            judge = task_of(task, recipe(study_score=study_score))
            table = judge.table(logits, DEV)
            assert table.scores == pytest.approx(np.array(scores))
            assert judge.score(logits, DEV) == judge.measure.score(table)
    assert expected["mean_logit"] != pytest.approx(expected["mean_probability"])


def test_trials_are_not_judged_by_different_scores() -> None:
    with pytest.raises(InputError, match=r"search\.monitor is .* left out"):
        config.load_config("XR_ELBOW", ["search.monitor={choices: [auc, f1]}"])
    with pytest.raises(InputError, match=r"search\.study_score is .* left out"):
        config.load_config(
            "XR_ELBOW", ["search.study_score={choices: [mean_logit, mean_probability]}"]
        )
    with pytest.raises(InputError, match=r"one of auc, f1, kappa"):
        config.load_config("XR_ELBOW", ["monitor=accuracy"])


def test_a_search_by_f1_calls_its_scores_by_their_name(
    run: Callable[..., Ran], phantoms: Path, tmp_path: Path
) -> None:
    sets = [*TINY, "--set=monitor=f1", "--set=budget.confirm.top=0", "--set=search.augment=null"]
    ran = run("tune", "XR_WRIST", "--trials", 2, "--data", phantoms, *sets)
    assert ran.code == 0, ran.err
    assert re.search(r"trial   1  dev best-threshold F1 \d\.\d{3} \[", ran.err)
    assert re.search(r"best      trial \d: dev study best-threshold F1 \d\.\d{3} \[", ran.out)
    for line in (ran.err + ran.out).splitlines():
        assert "AUC" not in line
    found = json.loads(run("best", "XR_WRIST", "--json").out)
    assert found["monitor"] == "study best-threshold F1"

    url = url_of(str(tmp_path / "runs" / "studies.db"))
    study = load_study(open_storage(url), "XR_WRIST", url)
    for trial in study.trials:
        assert trial.value == pytest.approx(trial.user_attrs["dev_score"]["value"], abs=1e-5)
        assert trial.user_attrs["dev_auc"]["low"] <= trial.user_attrs["dev_auc"]["value"]
    assert study.metric_names == ["dev study best-threshold F1"]
