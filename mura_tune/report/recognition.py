"""How often areas are recognised, as tables for cards and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mura_tune.metrics.areas import AREA_METRICS
from mura_tune.release_format.metrics_entries import RecognitionEntry
from mura_tune.report.page import TableRow


@dataclass(frozen=True)
class RecognitionTables:
    """What pages and cards show of how often each area is recognised.

    Attributes:
        areas: their names.
        score_rows: the name of each score, and the score on test and on dev.
        confusion_rows: each area, and how many of its test studies were taken for which area.
    """

    areas: list[str]
    score_rows: Sequence[TableRow]
    confusion_rows: Sequence[TableRow]


def tabulate_recognition(dev: RecognitionEntry, test: RecognitionEntry) -> RecognitionTables:
    """The tables of how often each area is recognised on dev and on test."""
    scores = [(name, test.estimates[key], dev.estimates[key]) for key, name in AREA_METRICS.items()]
    recalls = [
        (f"{area} recognised", *(split.recall.get(area, "no study") for split in (test, dev)))
        for area in test.areas
    ]
    return RecognitionTables(
        areas=list(test.areas),
        score_rows=[*scores, *recalls],
        confusion_rows=[(area, *row) for area, row in zip(test.areas, test.confusion, strict=True)],
    )
