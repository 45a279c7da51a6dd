"""TPE whose values have three digits: a learning rate of 0.000178, not 0.00017782794100389227.

From the axes of a search's file to Optuna's distributions, and from a trial's values to a recipe.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial

from mura_tune.axes import ALL, Axis
from mura_tune.config import SearchConfig
from mura_tune.database.optuna_private import contains
from mura_tune.errors import InputError
from mura_tune.networks.factory import count_stages
from mura_tune.recipe import Recipe, apply_values, field_type, newer_fields

_DIGITS = 3


class RoundingSampler(optuna.samplers.TPESampler):
    """Rounds what it draws before Optuna stores it: the value that runs is the value shown.

    It learns from the rounded values too, so that rounding later would draw other trials.
    """

    def __init__(self, axes: IntersectionSearchSpace | None = None, **options: Any) -> None:
        """
        Args:
            axes: the axes that all ended trials of a search have, shared by the samplers of it:
                each sampler then looks at the trials that ended since the last one.
            options: of Optuna's sampler.
        """
        super().__init__(**options)
        self._axes = axes or IntersectionSearchSpace(include_pruned=True)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        axes = self._axes.calculate(study, use_cache=True)
        return {name: axis for name, axis in axes.items() if not axis.single()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        drawn: Mapping[str, Any] = super().sample_relative(study, trial, search_space)
        return {name: round_value(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        drawn = super().sample_independent(study, trial, param_name, param_distribution)
        return round_value(drawn, param_distribution)


def round_value(value: Any, axis: BaseDistribution) -> Any:
    """Round a drawn fraction to three digits, inside its axis; anything else stays as it is."""
    if not isinstance(axis, FloatDistribution) or axis.step is not None:
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), axis.low), axis.high)


Space = Mapping[str, BaseDistribution]
D = TypeVar("D", bound=BaseDistribution)


def space_of(config: SearchConfig) -> dict[str, BaseDistribution]:
    """A distribution for each axis; `high: all` becomes the number of stages of the network.

    Raises:
        InputError: a default value that its own axis does not contain, so that trial 0 could
            not run it, or a least depth beyond the network's stages.
    """
    space = {path: _distribution(path, axis, config) for path, axis in config.search.items()}
    for path, value in defaults(config.recipe, space).items():
        if not contains(space[path], value):
            raise InputError(
                f"search.{path} does not contain the recipe's own value {value!r}; "
                "widen the axis or change recipe." + path
            )
    return space


def as_started(space: Space, comparable: Mapping[str, Any] | None) -> dict[str, BaseDistribution]:
    """The space of a search that an earlier version may have started.

    Such a version made whole numbers of a float field's axis that was written in them
    (`class_weight: {low: 1, high: 4}`), and gave two new ends the step of the axis below them.
    Optuna takes no other kind for a name once it has trials, and the trials of a search compare
    with one another only in one space: it goes on as it began.

    Args:
        space: as this version makes it.
        comparable: what the search stores of its start; None for one that begins now.
    """
    if comparable is None or not newer_fields(comparable["recipe"]):
        return dict(space)
    stored = comparable["space"]
    return {
        path: _as_stored(axis, stored[path]) if path in stored else axis
        for path, axis in space.items()
    }


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
    return set(values) == set(space) and all(contains(space[k], v) for k, v in values.items())


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """This trial's value on every axis."""
    return {path: _suggest(trial, path, space[path]) for path in space}


def recipe_for(config: SearchConfig, values: Mapping[str, Any], source: str) -> Recipe:
    """The search's recipe with a trial's values in it."""
    return apply_values(config.recipe, values, source)


def space_to_json(space: Space) -> dict[str, Any]:
    """Each distribution as plain values, to store with the search and compare on resume."""
    return {path: json.loads(distribution_to_json(space[path])) for path in sorted(space)}


def _distribution(path: str, axis: Axis, config: SearchConfig) -> BaseDistribution:
    if axis.choices is not None:
        return CategoricalDistribution(axis.choices)
    high = axis.high if axis.high != ALL else _most_stages(config)
    assert isinstance(high, int | float)  # Axis checks both
    if axis.first > high:
        raise InputError(f"search.{path}.low is {axis.first}; the network has {high} stages")
    if field_type(path) is int:
        return _without_warning(IntDistribution, axis.first, high, axis.log, axis.step or 1)
    return _without_warning(FloatDistribution, axis.first, high, axis.log, axis.step)


def _most_stages(config: SearchConfig) -> int:
    """Stages of the network, or of that with the most where several are searched."""
    arches = config.search["arch"].choices if "arch" in config.search else None
    return max(count_stages(str(arch)) for arch in arches or (config.recipe.arch,))


def _as_stored(axis: BaseDistribution, stored: Mapping[str, Any]) -> BaseDistribution:
    """A float axis with the kind, and where it has none the step, of the stored one."""
    if not isinstance(axis, FloatDistribution) or axis.log != stored["attributes"].get("log"):
        return axis
    step = stored["attributes"]["step"] if axis.step is None else axis.step
    if stored["name"] == FloatDistribution.__name__:
        return _without_warning(FloatDistribution, axis.low, axis.high, axis.log, step)
    if all(value.is_integer() for value in (axis.low, axis.high, float(step))):
        return _without_warning(IntDistribution, int(axis.low), int(axis.high), axis.log, int(step))
    return axis


def _without_warning(kind: Callable[..., D], *values: Any) -> D:
    """A distribution. Where no step ends at `high`, the last step before it does: Optuna warns of
    that, and `Axis` says it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return kind(*values)


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
