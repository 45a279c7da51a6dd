"""Drawn values are short, inside their axis, and still spread over it."""

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.search_space import IntersectionSearchSpace

from mura_tune.search.space import RoundingSampler, round_value

AXIS = FloatDistribution(1e-5, 1e-2, log=True)


@pytest.mark.parametrize("startup", [1, 50])  # by the model, and at random
def test_what_is_drawn_has_three_digits(startup: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=RoundingSampler(n_startup_trials=startup, seed=0))
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-5, 1e-2, log=True), n_trials=20)
    drawn = [trial.params["lr"] for trial in study.trials]
    assert all(value == float(f"{value:.3g}") for value in drawn)
    assert len(set(drawn)) > 15


def test_rounding_stays_inside_and_leaves_steps_alone() -> None:
    assert round_value(0.0001777777, AXIS) == 0.000178
    assert round_value(0.9999, FloatDistribution(0.5, 0.9999)) == 0.9999
    assert round_value(0.03125, FloatDistribution(0.0, 0.5, step=0.03125)) == 0.03125
    assert round_value(3, IntDistribution(0, 5)) == 3


def test_samplers_that_share_what_they_know_of_the_axes_draw_the_same() -> None:
    drawn = []
    for axes in (None, IntersectionSearchSpace(include_pruned=True)):
        study = optuna.create_study()
        for seed in range(12):
            study.sampler = RoundingSampler(axes, n_startup_trials=3, seed=seed)
            trial = study.ask()
            lr = trial.suggest_float("lr", 1e-5, 1e-2, log=True)
            depth = trial.suggest_int("depth", 0, 4) if seed != 7 else 0  # one lacks an axis
            study.tell(trial, lr + depth)
        drawn.append([trial.params for trial in study.trials])
    assert drawn[0] == drawn[1]
