"""Notes: what a person must be able to read in them, and no number longer than it is sure."""

import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note
from stored import COMPARABLE, CONFIG, DEV, SCORES, packed, recipe_facts, store
from test_trial_charts import pair, pooled

from mura_tune import config
from mura_tune.dashboard import notes
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import BEST_F1
from mura_tune.metrics.ranking import AUC, estimate_auc
from mura_tune.search import space
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.trial_record import BASELINE, TrialWriter

STUDY = config.load_config(
    "default",
    [
        "arch=cnn",
        "pretrained=none",
        "split.folds=0",
        "budget.confirm={top: 3, seeds: 2, resplit: false}",
    ],
)
AXES = space.space_of(STUDY)
COMMANDS = {"resume": "make tune AREA=XR_A TRIALS=9", "finalize": "make finalize AREA=XR_A"}
LONG = r"\d\.\d{7,}|\d{7,}"


def study_of(trials: int, name: str = "XR_A", **changes: object) -> optuna.Study:
    """A study that was started, with so many finished trials; each better than the one before."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", study_name=name)
    plain = config.config_to_dict(STUDY)
    store(study, CONFIG, plain)
    store(
        study,
        COMPARABLE,
        {
            "area": "XR_A",
            "recipe": plain["recipe"],
            "space": space.space_to_json(AXES),
            "split": plain["split"] | changes,
            "dataset": "a1" * 32,
            "split_hash": "b2" * 32,
        },
    )
    dev = pooled([pair()])
    rows = [int(row) for row in range(len(dev.labels))]
    store(study, DEV, [{"labels": dev.labels.tolist(), "patients": rows}])
    for number in range(trials):
        study.add_trial(finished(dev, number, role=BASELINE if number == 0 else "search"))
    return study


def finished(dev: StudyScores, sure: int, **attrs: object) -> optuna.trial.FrozenTrial:
    scores = np.clip(dev.scores + 0.07 * sure * (dev.labels - 0.5), 0, 1)
    better = StudyScores(dev.names, dev.patients, dev.labels, scores)
    auc = estimate_auc(better)
    return create_trial(
        state=TrialState.COMPLETE,
        value=auc.value,
        distributions=AXES,
        params=space.defaults(STUDY.recipe, AXES),
        user_attrs={"dev_score": auc.to_json(), **attrs},
        system_attrs={SCORES: packed([better]), **recipe_facts(STUDY.recipe)},
    )


def test_a_study_without_a_trial_has_a_note() -> None:
    study = study_of(0)
    notes.write_study_note(SearchRecord(study), **COMMANDS)
    text = get_note(study)
    assert "No trial has finished yet" in text
    assert "`make tune AREA=XR_A TRIALS=9`" in text
    assert "`make finalize AREA=XR_A`" in text
    assert re.search(r"`finetune.lr`.*1e-05 to 0.01, on a log scale.*0.0001", text)
    assert re.search(r"`augment`.*0 to 1, in steps of 0.25.*0.5", text)
    assert "data `a1a1a1a1a1a1`" in text


def test_the_winner_stands_beside_the_baseline_with_intervals_and_n() -> None:
    study = study_of(4)
    notes.write_study_note(SearchRecord(study), **COMMANDS)
    text = get_note(study)
    winner, baseline = (study.trials[n].user_attrs["dev_score"] for n in (3, 0))
    for name, number, auc in (("winner", 3, winner), ("baseline", 0, baseline)):
        interval = f"{auc['low']:.3f} to {auc['high']:.3f}"
        assert re.search(rf"{name}.* {number} .*{auc['value']:.3f}.*{interval}.* 30", text)
    assert "not confirmed" in text
    assert "4 finished" in text
    assert not re.search(LONG, text)


def test_a_confirmed_study_shows_every_candidate_and_seed() -> None:
    study, again = study_of(4), study_of(0, name="XR_A.confirm")
    dev = pooled([pair()])
    for number in (3, 2, 0):
        for seed in (1, 2):
            run = finished(dev, number + seed, of=number)
            run.system_attrs |= recipe_facts(replace(STUDY.recipe, seed=seed))
            again.add_trial(run)
    notes.write_study_note(SearchRecord(study), SearchRecord(again), **COMMANDS)
    text = get_note(study)
    for number, name in ((3, "winner"), (2, "candidate"), (0, "baseline")):
        values = [t.value for t in again.trials if t.user_attrs["of"] == number]
        mean, each = f"{np.mean(values):.3f}", ", ".join(f"{v:.3f}" for v in values)
        assert re.search(rf"{name}.*{number}.*{mean}.*{each}", text)
    assert "over new seeds" in text
    assert not re.search(LONG, text)


def test_a_baseline_that_won_has_one_row() -> None:
    study = study_of(1)
    notes.write_study_note(SearchRecord(study), **COMMANDS)
    assert get_note(study).count("baseline &emsp;") == 1


def test_folds_and_counts_are_told() -> None:
    study = study_of(1, folds=3)
    split_counts = {"train": {"images": 70, "studies": 40}, "dev": {"images": 20, "studies": 10}}
    notes.write_study_note(SearchRecord(study), split_counts=split_counts, **COMMANDS)
    text = get_note(study)
    assert "the mean over 3 folds" in text
    assert re.search(r"train.*70.*40", text)


def test_a_note_is_saved_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[str] = []
    real = notes.save_note
    monkeypatch.setattr(notes, "save_note", lambda s, body: (saved.append(body), real(s, body)))
    study = study_of(1)
    for _ in range(3):
        notes.write_study_note(SearchRecord(study), **COMMANDS)
    assert len(saved) == 1


def test_a_trials_note_has_its_score_cost_and_recipe() -> None:
    study = study_of(0)
    trial = study.ask(AXES)
    fit, dev = pair()
    auc = estimate_auc(pooled([(fit, dev)]))
    trial.set_user_attr("dev_score", auc.to_json())
    TrialWriter(trial).store_recipe(replace(STUDY.recipe, augment=0.123456789))
    text = notes.write_trial_note(
        trial, [fit], {"charts.png": "/artifacts/0/0/x"}, "", "study AUC", "Of dev."
    )
    assert f"**{auc.value:.3f}**" in text
    assert f"{auc.low:.3f} to {auc.high:.3f}" in text
    assert "![charts.png](/artifacts/0/0/x)" in text
    assert " 0.123 " in text
    assert "arch cnn" in text
    assert not re.search(LONG, text)
    assert max(map(len, text.splitlines())) < 200  # else its page is wider than a screen


def test_auc_stands_beside_another_score_that_decides() -> None:
    trial = study_of(0).ask(AXES)
    fit, dev = pair()
    f1, auc = (measure.estimate(pooled([(fit, dev)])) for measure in (BEST_F1, AUC))
    trial.set_user_attr("dev_score", f1.to_json())
    trial.set_user_attr("dev_auc", auc.to_json())
    TrialWriter(trial).store_recipe(replace(STUDY.recipe, monitor="f1"))
    text = notes.write_trial_note(trial, [fit], {}, "none", "study best-threshold F1", "")
    head, _, row = text.splitlines()[:3]
    assert "dev study best-threshold F1" in head
    assert f"**{f1.value:.3f}**" in row
    assert "dev study AUC" in head
    assert f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]" in row


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.00026979, "0.00027"), (1e-5, "1e-05"), (4, "4"), (0.5, "0.5"), ("cnn", "cnn"), (2.0, "2")],
)
def test_values_are_told_to_three_digits(value: object, told: str) -> None:
    assert notes.three_digits(value) == told
