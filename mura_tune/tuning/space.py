"""From a study file's axes to Optuna's distributions, and from a trial's values to a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from mura_tune.config import Axis, StudyConfig
from mura_tune.errors import InputError
from mura_tune.learning.models import stage_count
from mura_tune.recipe import Recipe, apply

Space = Mapping[str, BaseDistribution]


def space_of(study: StudyConfig) -> dict[str, BaseDistribution]:
    """A distribution for each axis; `high: all` becomes the number of stages of the network.

    Raises:
        InputError: a default value that its own axis does not contain, so that trial 0 could
            not run it.
    """
    space = {path: _distribution(axis, study) for path, axis in study.search.items()}
    for path, value in defaults(study.recipe, space).items():
        if not _holds(space[path], value):
            raise InputError(f"search.{path} does not contain the recipe's own value {value!r}; "
                             "widen the axis or change recipe." + path)  # fmt: skip
    return space


def defaults(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The recipe's own value on every axis: what trial 0 runs."""
    values = {path: _get(recipe, path) for path in space}
    for path, value in values.items():
        distribution = space[path]
        if path.endswith("depth") and isinstance(distribution, IntDistribution):
            values[path] = min(value, distribution.high)  # as training clips it
    return values


def fits(values: Mapping[str, Any], space: Space) -> bool:
    """Whether there is a value for every axis, each inside it."""
    return set(values) == set(space) and all(_holds(space[k], v) for k, v in values.items())


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """This trial's value on every axis."""
    return {path: _suggest(trial, path, space[path]) for path in space}


def recipe_for(study: StudyConfig, values: Mapping[str, Any], source: str) -> Recipe:
    """The study's recipe with a trial's values in it."""
    return apply(study.recipe, values, source)


def space_to_json(space: Space) -> dict[str, Any]:
    """Each distribution as plain values, to store with the study and compare on resume."""
    return {path: json.loads(distribution_to_json(space[path])) for path in sorted(space)}


def _distribution(axis: Axis, study: StudyConfig) -> BaseDistribution:
    if axis.choices is not None:
        return CategoricalDistribution(axis.choices)
    high = axis.high
    if high == "all":
        arches = study.search["arch"].choices if "arch" in study.search else None
        high = max(stage_count(arch) for arch in arches or (study.recipe.arch,))
    assert axis.low is not None  # Axis checks both
    assert not isinstance(high, str | None)
    if isinstance(axis.low, int) and isinstance(high, int):
        return IntDistribution(axis.low, high, log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(float(axis.low), float(high), log=axis.log, step=axis.step)


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:  # a choice that is none of these
        return False


def _suggest(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(path, choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(path, low, high, step=step, log=log)
        case FloatDistribution(low=f_low, high=f_high, step=f_step, log=log):
            return trial.suggest_float(path, f_low, f_high, step=f_step, log=log)
    raise AssertionError(f"{path}: no such distribution: {distribution}")


def _get(recipe: Recipe, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, name)
    return value
