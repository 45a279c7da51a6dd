"""Every network that a study can draw, tried before anything is decoded or trained."""

from __future__ import annotations

import functools
import itertools

from mura_tune.config import StudyConfig
from mura_tune.errors import InputError
from mura_tune.learning.consistency import require_map
from mura_tune.learning.tasks import TASKS
from mura_tune.recipe import Recipe, changed

AREAS = 2  # whatever their number, a network can be built or not
DECIDE = ("arch", "pretrained", "consistency")  # recipe fields on which it depends beside the size


def check_networks(study: StudyConfig) -> None:
    """Build each network that a trial or the final run may have, and show it one black image.

    Raises:
        InputError: an unknown name, a size it cannot take, weights that do not fit or are out of
            reach, or consistency on a network without a feature map; what the search would have
            drawn is told.
    """
    axes = {path: study.search[path].values for path in DECIDE if path in study.search}
    final = {path: value for path, value in study.final.items() if path in DECIDE}
    _legal(study.task, study.recipe)  # trial 0's first, which nothing has drawn
    for values in itertools.product(*axes.values()):
        drawn = dict(zip(axes, values, strict=True))
        for before, more in (("search can draw", drawn), ("final makes it", drawn | final)):
            told = ", ".join(f"{path} {value}" for path, value in more.items())
            try:
                _legal(study.task, changed(study.recipe, more))
            except InputError as error:
                raise InputError(f"{before} {told}: {error}") from None


@functools.cache
def _legal(task: str, recipe: Recipe) -> None:
    """Refuse a recipe whose network cannot be, once for every study that has it."""
    net = TASKS[task].network(recipe, AREAS)
    if recipe.consistency:
        require_map(net, recipe.size)
