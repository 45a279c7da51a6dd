"""How often areas are recognised, as tables for cards and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mura_tune.metrics.areas import AREA_METRICS

Row = tuple[object, ...]


@dataclass(frozen=True)
class RecognitionTables:
    """What pages and cards show of how often each area is recognised.

    Attributes:
        areas: their names.
        score_rows: the name of each score, and the score on test and on dev.
        confusion_rows: each area, and how many of its test studies were taken for which area.
    """

    areas: list[str]
    score_rows: Sequence[Row]
    confusion_rows: Sequence[Row]


def tabulate_recognition(dev: Mapping[str, Any], test: Mapping[str, Any]) -> RecognitionTables:
    """The tables of what `Recognition.to_json` says of dev and of test."""
    areas = list(test["areas"])
    return RecognitionTables(
        areas=areas,
        score_rows=[(name, test[key], dev[key]) for key, name in AREA_METRICS.items()]
        + [(f"{area} recognised", _recall(test, area), _recall(dev, area)) for area in areas],
        confusion_rows=[(area, *row) for area, row in zip(areas, test["confusion"], strict=True)],
    )


def _recall(scores: Mapping[str, Any], area: str) -> object:
    return scores["recall"].get(area, "no study")
