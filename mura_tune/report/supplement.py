"""What pages and cards show beside a release's scores, as rows of tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mura_tune.metrics.comparison import FEW
from mura_tune.metrics.estimates import interval_text, wilson_interval
from mura_tune.release_format.metrics_entries import AbnormalityEvaluationEntry
from mura_tune.release_format.supplement import GROUP_ESTIMATES, GroupEntry, SupplementEntry
from mura_tune.report.page import TableRow


@dataclass(frozen=True)
class SupplementTables:
    """The tables of a supplement.

    Attributes:
        recalibration_rows: slope and intercept on test, by image (nothing), and on dev.
        benefit_rows: each operating point with its net benefit, that of calling every study, and
            the gain over the better of calling all and none.
        prevalence_rows: PPV, NPV and flags per 100 studies at other prevalences.
        group_tables: a heading, and rows of groups with their scores.
        coverage_rows: errors where the least sure studies are not answered.
        smallest: in words, the differences in AUC and kappa from a fixed number that are found
            with a probability of 0.8; empty where one class is absent.
    """

    recalibration_rows: Sequence[TableRow]
    benefit_rows: Sequence[TableRow]
    prevalence_rows: Sequence[TableRow]
    group_tables: Sequence[tuple[str, Sequence[TableRow]]]
    coverage_rows: Sequence[TableRow]
    smallest: str


def tabulate_supplement(
    dev: AbnormalityEvaluationEntry, test: AbnormalityEvaluationEntry
) -> SupplementTables | None:
    """The tables of what test has beside its scores; None for an older release."""
    own = test.supplement
    if own is None:
        return None
    return SupplementTables(
        recalibration_rows=_recalibration_rows(own, dev.supplement),
        benefit_rows=[
            (
                name,
                f"{point.threshold:.3f}",
                point.model,
                f"{point.treat_all:.3f}",
                point.gain.signed(),
            )
            for name, point in own.net_benefit.items()
        ],
        prevalence_rows=[
            (f"{row.prevalence:.0%}", row.ppv, row.npv, f"{row.flags:.0f}")
            for row in own.predictive_values
        ],
        group_tables=[
            (heading, [_group_row(group) for group in groups])
            for heading, groups in (("number of views", own.by_views), ("area", own.by_area))
            if groups
        ],
        coverage_rows=[
            (
                f"{point.coverage:.0%}",
                point.answered,
                point.wrong,
                _share(point.wrong, point.answered),
            )
            for point in own.risk_coverage
        ],
        smallest=" and ".join(
            f"{own.smallest_difference[key]:.2f} in {name}"
            for key, name in (("auc", "AUC"), ("kappa", "kappa"))
            if key in own.smallest_difference
        ),
    )


def _recalibration_rows(test: SupplementEntry, dev: SupplementEntry | None) -> list[TableRow]:
    on_test, on_dev = test.recalibration, dev.recalibration if dev else None
    return [
        ("Calibration slope", on_test.slope, "", on_dev.slope if on_dev else ""),
        ("Calibration intercept", on_test.intercept, "", on_dev.intercept if on_dev else ""),
    ]


def _group_row(group: GroupEntry) -> TableRow:
    few = f" (fewer than {FEW} patients of a class)" if group.few < FEW else ""
    scores = group.estimates or {}
    return (
        f"{group.name}{few}",
        f"{group.studies} ({group.abnormal})",
        *(scores.get(key, "one class") for key in GROUP_ESTIMATES),
    )


def _share(wrong: int, answered: int) -> str:
    share = wrong / answered
    return f"{share:.3f} {interval_text(*wilson_interval(share, answered))}"
