"""Drawn values are short, inside their axis, and still spread over it."""

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

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
