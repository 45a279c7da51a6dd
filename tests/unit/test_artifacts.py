"""What a trial leaves: files and a note."""

import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import get_note
from PIL import Image
from sklearn.metrics import confusion_matrix
from test_trial_charts import pair, pooled
from torch import nn

from mura_tune.config import load_config
from mura_tune.dashboard import artifacts, error_sheet
from mura_tune.dashboard.artifacts import TrialArtifacts
from mura_tune.dashboard.trial_charts import Fits, TrialCharts, count_area_calls
from mura_tune.database.pictures import PictureStore
from mura_tune.metrics.areas import ACCURACY
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.search.trial_record import TrialWriter
from mura_tune.training.batches import Split
from mura_tune.training.fit import FitResult
from mura_tune.training.tasks import MULTI_TASK, ROUTER_TASK, Task, score_recognition, study_logits


def run_trial(saver: TrialArtifacts, fits: Fits) -> optuna.Study:
    """A search of one trial, what it leaves saved."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("finetune.lr", 1e-5, 1e-2, log=True)
        TrialWriter(trial).store_recipe(load_config("default").recipe)
        trial.set_user_attr("dev_score", estimate_auc(pooled(fits)).to_json())
        saver("abnormality")(trial, fits, pooled(fits))
        return 0.5

    study.optimize(objective, n_trials=1)
    return study


def files_of(study: optuna.Study, folder: Path) -> dict[str, Path]:
    metas = get_all_artifact_meta(study.trials[0], storage=study._storage)
    return {meta.filename: folder / meta.artifact_id for meta in metas}


def note_of(study: optuna.Study) -> str:
    trial = study.trials[0]
    return str(get_note(optuna.trial.Trial(study, trial._trial_id)))


@pytest.mark.parametrize("folds", [1, 3])
def test_a_trial_leaves_pictures_scores_and_a_note(tmp_path: Path, folds: int) -> None:
    fits = [pair(seed, name=f"fold{seed}-") for seed in range(folds)]
    study = run_trial(TrialArtifacts(PictureStore(tmp_path / "new")), fits)
    files = files_of(study, tmp_path / "new")
    assert set(files) == {"charts.png", "worst-errors.png", "dev-scores.csv"}
    for name in ("charts.png", "worst-errors.png"):
        with Image.open(files[name]) as picture:
            assert picture.format == "PNG"
        assert files[name].name in note_of(study)
    assert 0 < study.trials[0].user_attrs["artifact_seconds"] < 60


def of_areas(task: Task, seed: int = 0) -> tuple[FitResult, Split]:
    """A fit that tells three areas apart somewhat, and its dev split of two views a study."""
    fit, dev = pair(seed, studies=45)
    parts = torch.arange(len(dev)) // 2 % 3
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(dev), 3, generator=rng) + 1.5 * nn.functional.one_hot(parts, 3)
    if task is MULTI_TASK:
        logits = torch.cat((fit.logits, logits), 1)
    dev = replace(dev, areas=("XR_A", "XR_B", "XR_C"), area_labels=parts)
    return replace(fit, logits=logits), dev


@pytest.mark.parametrize("task", [ROUTER_TASK, MULTI_TASK], ids=["router", "multitask"])
def test_a_trial_that_tells_areas_apart_shows_what_it_took_for_what(
    tmp_path: Path, task: Task
) -> None:
    fit, dev = of_areas(task)
    found = score_recognition(fit.logits[:, -3:], dev)
    accuracy = ACCURACY.estimate(found).to_json()
    table = task.table(fit.logits, dev)
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    TrialWriter(trial).store_recipe(load_config("default").recipe)
    trial.set_user_attr("dev_score", task.measure.estimate(table).to_json())
    if task is MULTI_TASK:
        trial.set_user_attr("dev_part", accuracy)
    TrialArtifacts(PictureStore(tmp_path))(task.name)(trial, [(fit, dev)], table)
    study.tell(trial, 0.5)
    files = files_of(study, tmp_path)
    areas = {"areas.png"} if task is MULTI_TASK else set()
    assert set(files) == {"charts.png", "worst-errors.png", "dev-scores.csv"} | areas
    expected = confusion_matrix(
        found.labels, study_logits(fit.logits[:, -3:], dev).logits.argmax(1)
    )
    only = [(replace(fit, logits=fit.logits[:, -3:]), dev)]
    np.testing.assert_array_equal(count_area_calls(only), expected)
    note = note_of(study)
    assert all(f"![{name}](" in note for name in files if name.endswith(".png"))
    assert f"{accuracy['value']:.3f}" in note
    if task is ROUTER_TASK:
        rows = list(csv.DictReader(files["dev-scores.csv"].read_text().splitlines()))
        wrong = [row["area"] != row["called"] for row in rows]
        assert sum(wrong) == len(found.scores) - found.scores.sum() > 0
        assert wrong == sorted(wrong, reverse=True)  # those come first
        sure = [float(row["probability"]) for row in rows[: sum(wrong)]]
        assert sure == sorted(sure, reverse=True)


def test_the_sheet_of_a_router_shows_its_surest_error_first() -> None:
    fit, dev = of_areas(ROUTER_TASK)
    fit.logits[2:4] = torch.tensor([[9.0, 0, 0], [12.0, 0, 0]])  # of the second area
    dev.pixels[3] = 200
    place = error_sheet.MARGIN + error_sheet.TILE // 2
    assert error_sheet.draw_area_error_sheet([(fit, dev)]).getpixel((place, place + 32)) == (
        200,
        200,
        200,
    )


def test_the_table_has_every_dev_study_the_worst_first(tmp_path: Path) -> None:
    fits = [pair(0), pair(1, name="t")]
    study = run_trial(TrialArtifacts(PictureStore(tmp_path)), fits)
    text = files_of(study, tmp_path)["dev-scores.csv"].read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    studies = pooled(fits)
    assert {row["study"] for row in rows} == set(studies.names)
    by_name = dict(zip(studies.names, studies.scores, strict=True))
    assert all(row["probability"] == f"{by_name[row['study']]:.4f}" for row in rows)
    off = [abs(float(r["probability"]) - (r["label"] == "abnormal")) for r in rows]
    assert np.all(np.diff(off) <= 1e-3)


def test_a_picture_that_fails_costs_the_picture_and_not_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TrialCharts, "draw", full)
    with caplog.at_level(logging.WARNING):
        study = run_trial(TrialArtifacts(PictureStore(tmp_path)), [pair()])
    assert study.trials[0].value == 0.5
    assert "No space left on device" in note_of(study)
    assert "No space left on device" in caplog.text
    assert set(files_of(study, tmp_path)) == {"dev-scores.csv"}


def test_a_lost_trial_is_told_to_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(**_: object) -> None:
        raise optuna.exceptions.UpdateFinishedTrialError("finished")

    monkeypatch.setattr(artifacts, "upload_artifact", lost)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        run_trial(TrialArtifacts(PictureStore(tmp_path)), [pair()])
