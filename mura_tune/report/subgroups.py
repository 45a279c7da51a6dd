"""What a page shows of groups of studies and of corrected labels, as rows of tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mura_tune.evaluation.corrections import CorrectedScores
from mura_tune.evaluation.evaluate import Evaluation
from mura_tune.evaluation.subgroups import NOTHING, Subgroup, Subgroups
from mura_tune.metrics.comparison import FEW
from mura_tune.metrics.estimates import Estimate
from mura_tune.metrics.groups import LEAST
from mura_tune.metrics.operating_points import METRIC_NAMES
from mura_tune.report.page import TableRow


@dataclass(frozen=True)
class FurtherTables:
    """The tables of groups and of corrected labels.

    Attributes:
        columns: the groups by column, and a row for each group and its difference to the rest.
        corrected: the corrected scores; `corrected_rows` has each metric by both labels.
        least: patients that a group's number takes.
        least_changed: patients whose labels change, that a difference takes.
    """

    columns: Sequence[tuple[Subgroups, Sequence[TableRow]]]
    corrected: CorrectedScores | None
    corrected_rows: Sequence[TableRow]
    least: int = LEAST
    least_changed: int = FEW


def tabulate_further(test: Evaluation) -> FurtherTables | None:
    """The tables of what was asked for beside the scores; None where nothing was."""
    if not test.subgroups and test.corrected is None:
        return None
    return FurtherTables(
        columns=[
            (each, [row for group in each.groups for row in _group_rows(group)])
            for each in test.subgroups
        ],
        corrected=test.corrected,
        corrected_rows=list(_corrected_rows(test)),
    )


def _group_rows(group: Subgroup) -> Iterator[TableRow]:
    n = f"{group.studies} ({group.abnormal})"
    yield group.name, n, *(each or NOTHING for each in group.estimates.values())
    if any(group.differences.values()):
        yield (
            Markup("<i>minus the rest</i>"),
            "",
            *(each.signed() if each else NOTHING for each in group.differences.values()),
            "",
        )


def _corrected_rows(test: Evaluation) -> Iterator[TableRow]:
    if test.corrected is None:
        return
    for name, corrected in test.corrected.estimates.items():
        gap: Estimate | None = test.corrected.differences[name]
        yield (
            METRIC_NAMES[name],
            test.by_study[name],
            corrected,
            gap.signed() if gap else "no interval",
        )
