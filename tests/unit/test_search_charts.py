"""Plots of a study: what stands in them, what they need, and that they are read in one piece."""

import json
import random
import re
import time
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from stored import recipe_facts, records_of

from mura_tune.config import load_config
from mura_tune.dashboard import search_charts
from mura_tune.recipe import with_values
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.trial_record import BASELINE

AXES = {
    "finetune.lr": FloatDistribution(1e-5, 1e-2, log=True),
    "finetune.depth": IntDistribution(0, 5),
}


def study_of(trials: int, pruned: int = 0, spread: float = 1.0) -> optuna.Study:
    """AUC rises with depth and with nothing else; trial 0 is the baseline."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = random.Random(0)
    study = optuna.create_study(direction="maximize")
    for number in range(trials):
        depth = rng.randint(0, 5)
        value = 0.6 + spread * (0.05 * depth + rng.gauss(0, 0.005))
        deep = with_values(load_config("default").recipe, {"finetune.depth": depth})
        attrs: dict[str, Any] = {
            "epochs": 8,
            "seconds": rng.uniform(9, 20) + 8,
            "artifact_seconds": 8.0,
            "dev_score": {
                "value": value,
                "low": value - 0.08,
                "high": value + 0.05,
                "studies": 63,
                "patients": 60,
            },
        }
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if number >= trials - pruned else TrialState.COMPLETE,
                value=value,
                distributions=AXES,
                intermediate_values={1: value},
                params={"finetune.lr": 10 ** rng.uniform(-5, -2), "finetune.depth": depth},
                system_attrs=recipe_facts(deep),
                user_attrs=attrs | ({"role": BASELINE} if number == 0 else {}),
            )
        )
    return study


def named(figure: search_charts.Figure | None) -> dict[str, Any]:
    assert figure is not None
    return {trace["name"]: trace for trace in figure.data}


def test_importance_finds_what_matters_and_how_sure_that_is() -> None:
    figure = search_charts.draw_importance(records_of(study_of(30)))
    assert figure is not None
    (bars,) = figure.data
    assert bars["y"][-1] == "finetune.depth"
    assert bars["x"][-1] > 0.8
    assert sum(bars["x"]) == pytest.approx(1, abs=0.01)
    assert all(0 <= e < 0.2 for e in bars["error_x"]["array"])


@pytest.mark.parametrize(
    ("trials", "pruned", "spread"), [(0, 0, 1), (7, 0, 1), (12, 8, 1), (20, 0, 0)]
)
def test_importance_is_left_out_where_it_says_nothing(
    trials: int, pruned: int, spread: float
) -> None:
    assert search_charts.draw_importance(records_of(study_of(trials, pruned, spread))) is None


def test_aucs_mark_baseline_best_and_pruned() -> None:
    study = study_of(12, pruned=3)
    traces = named(search_charts.draw_scores(records_of(study)))
    assert traces["baseline"]["x"] == [0]
    assert traces[f"best: trial {study.best_trial.number}"]["x"] == [study.best_trial.number]
    assert traces["pruned, last score"]["x"] == [9, 10, 11]
    assert len(traces["finished"]["x"]) == 7
    assert traces["finished"]["error_y"]["array"] == pytest.approx([0.05] * 7)
    assert traces["finished"]["error_y"]["arrayminus"] == pytest.approx([0.08] * 7)
    steps = traces["best so far"]["y"]
    assert steps == sorted(steps)


def test_a_baseline_that_leads_is_drawn_once() -> None:
    traces = named(search_charts.draw_scores(records_of(study_of(1))))
    assert set(traces) == {"best so far", "best: trial 0"}


def test_seconds_leave_out_what_pictures_took() -> None:
    study = study_of(3)
    trials = study.trials
    figure = search_charts.draw_seconds(records_of(study))
    assert figure is not None
    expected = [(t.user_attrs["seconds"] - 8) / 8 for t in trials]
    assert figure.data[0]["y"] == pytest.approx(expected, rel=1e-3)
    assert figure.data[0]["marker"]["color"] == [t.params["finetune.depth"] for t in trials]


@pytest.mark.parametrize("trials", [0, 1, 12])
def test_a_refresh_replaces_what_was_there(trials: int) -> None:
    study = study_of(trials)
    for _ in range(2):
        search_charts.refresh_charts(SearchRecord(study))
        attrs = study._storage.get_study_system_attrs(study._study_id)
        found = get_plotly_graph_objects(attrs)
        assert len(found) == {0: 0, 1: 2, 12: 3}[trials]
    for text in found.values():
        layout = json.loads(text)["layout"]
        assert layout["title"]["text"]
        assert layout["xaxis"]["title"]["text"]
        assert not re.search(r"\d\.\d{7,}", text)


def test_a_trial_that_failed_before_it_stored_anything_is_passed_over() -> None:
    study = study_of(9)
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    search_charts.refresh_charts(SearchRecord(study))


def test_growing_forests_stops_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_charts, "SECONDS", 0.0)
    started = time.perf_counter()
    figure = search_charts.draw_importance(records_of(study_of(10)))
    assert figure is not None
    assert "over 1 forest" in figure.layout["title"]["text"]
    assert time.perf_counter() - started < 60
