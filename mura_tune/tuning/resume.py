"""A study goes on only with what it was started with; everything else is refused with its diff."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from mura_tune import config
from mura_tune.config import StudyConfig
from mura_tune.data.prepare import Prepared
from mura_tune.errors import InputError


def same_or_refuse(
    opened: optuna.Study,
    study: StudyConfig,
    space: Mapping[str, Any],
    prepared: Prepared,
    name: str,
) -> None:
    """Store with the study what makes its trials comparable, or compare it with what is stored.

    Raises:
        InputError: recipe, search space, split or dataset differ, with each difference.
    """
    plain = config.to_dict(study)
    now = {
        "area": prepared.area,
        "recipe": plain["recipe"],
        "space": space,
        "split": plain["split"],
        "dataset": prepared.fingerprint,
        "split_hash": prepared.split_hash,
    }
    stored = opened.user_attrs.get("comparable")
    if stored is not None and stored != now:
        changes = "; ".join(_differences(stored, now))
        raise InputError(
            f"study {name} was started with something else: {changes}. Trials would not compare: "
            "undo the change, or start a study of its own with --study NAME"
        )
    if stored is None:
        opened.set_user_attr("comparable", now)
        with warnings.catch_warnings():  # marked experimental since 3.2; the board shows it
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            opened.set_metric_names(["dev study AUC"])
    opened.set_user_attr("config", plain)  # budget and final phases may change between calls


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if old == new else [f"{where} {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] + "…" if len(text) == 64 else text
