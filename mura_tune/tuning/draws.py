"""TPE whose values have three digits: a learning rate of 0.000178, not 0.00017782794100389227."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial

DIGITS = 3


class Rounded(optuna.samplers.TPESampler):
    """What it draws is what runs, is stored and is shown."""

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn: Mapping[str, Any] = super().sample_relative(study, trial, search_space)
        return {name: rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        return rounded(drawn, param_distribution)


def rounded(value: Any, axis: BaseDistribution) -> Any:
    """A drawn fraction to three significant digits, inside its axis; anything else as it is."""
    if not isinstance(axis, FloatDistribution) or axis.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), axis.low), axis.high)
