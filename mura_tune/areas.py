"""Areas: the names of MURA's areas, the names for all areas at once, and the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mura_tune.recipe import Recipe
from mura_tune.strict import check_value

AREAS = (
    "XR_ELBOW",
    "XR_FINGER",
    "XR_FOREARM",
    "XR_HAND",
    "XR_HUMERUS",
    "XR_SHOULDER",
    "XR_WRIST",
)
NO_AREA = "XR_ALL"  # of images whose area nothing names
# What stands for every area of a dataset at once, and the search file of each. ALL is what commands
# of earlier versions say for pooled, and what databases and manifests say in every version.
ALL, POOLED, ROUTER, MULTITASK = "ALL", "pooled", "router", "multitask"
WHOLE_DATASET_AREAS = {ALL: POOLED, POOLED: POOLED, ROUTER: ROUTER, MULTITASK: MULTITASK}

TASK_NAMES = ("abnormality", "part", "multitask")  # what they do says mura_tune.training.tasks
WHOLE_DATASET_TASKS = ("part", "multitask")  # they tell areas apart, so they need all of them
_BINARY = ("abnormality", "multitask")
# Recipe fields that say something about some tasks alone, and their value in the others.
_OWN: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "aux_weight": (("multitask",), 0.0),
    "class_weight": (_BINARY, 1.0),
    "loss": (_BINARY, "bce"),
    "focal_gamma": (_BINARY, 2.0),
    "consistency": (_BINARY, 0.0),
    "sampling": (_BINARY, "natural"),
    "monitor": (_BINARY, "auc"),
}


def check_task(
    task: str, recipe: Recipe, search: Mapping[str, Any], final: Mapping[str, Any]
) -> None:
    """Raise ValueError for an unknown task, or a field that means nothing to it."""
    check_value(task in TASK_NAMES, "task", task, f"one of {', '.join(TASK_NAMES)}")
    for name, (tasks, neutral) in _OWN.items():
        if task in tasks:
            continue
        know = "know" if len(tasks) > 1 else "knows"
        known = f"the task is {task}, and only {' and '.join(tasks)} {know} it"
        for where, values in (("search", search), ("final", final)):
            check_value(
                name not in values, f"{where}.{name}", values.get(name), f"left out: {known}"
            )
        value = getattr(recipe, name)
        check_value(value == neutral, f"recipe.{name}", value, f"{neutral}: {known}")


def stored_area(area: str) -> str:
    """What databases and manifests call an area that a command line names."""
    return ALL if area == POOLED else area
