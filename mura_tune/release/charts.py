"""Charts of what was measured: ROC, precision and recall, calibration, scores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mura_tune.learning.calibration_error import reliability
from mura_tune.learning.confusion import counts
from mura_tune.learning.curves import precision_recall, roc
from mura_tune.learning.intervals import wilson
from mura_tune.release.evaluate import Measured
from mura_tune.release.svg import BAND, BLUE, GUIDE, INK, PALE, PAPER, RED, chart


def roc_chart(test: Measured) -> str:
    """ROC with its AUC and the recommended operating point."""
    false, true = roc(test.studies)
    found = counts(test.studies, test.chosen.threshold)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c=GUIDE, lw=1, ls="--")
        axes.plot(false, true, c=BLUE, lw=1.8)
        axes.fill_between(false, true, color=BLUE, alpha=0.07, lw=0)
        normal, abnormal = found["fp"] + found["tn"], found["tp"] + found["fn"]
        point = (found["fp"] / max(normal, 1), found["tp"] / max(abnormal, 1))
        axes.plot(*point, "o", mfc=PAPER, mec=RED, mew=1.6, ms=7)
        axes.text(
            0.97,
            0.05,
            f"AUC {test.figures['auc'].brief()}\nring: operating point",
            ha="right",
            va="bottom",
            size=8.5,
            c=INK,
        )
        _unit(axes)

    return chart(_title("ROC", test), "1 - specificity", "sensitivity", draw)


def precision_recall_chart(test: Measured) -> str:
    """Precision over recall, and the share of abnormal studies as what chance gives."""
    recall, precision = precision_recall(test.studies)
    share = float(test.studies.labels.mean())

    def draw(axes: Axes) -> None:
        axes.axhline(share, c=GUIDE, lw=1, ls="--")
        axes.plot(recall, precision, c=BLUE, lw=1.8)
        told = f"average precision\n{test.figures['average_precision'].brief()}"
        axes.text(0.03, 0.05, told, ha="left", va="bottom", size=8.5, c=INK)
        axes.text(1, share - 0.02, "chance", ha="right", va="top", size=8, c=PALE)
        _unit(axes)

    return chart(_title("Precision and recall", test), "recall", "precision", draw)


def calibration_chart(test: Measured) -> str:
    """Share of abnormal studies over the mean probability of each bin, before and after.

    The bars are a bin's 95 % interval, as if its studies were independent (Wilson 1927).
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c=GUIDE, lw=1, ls="--")
        raw, bins = reliability(test.raw), reliability(test.studies)
        axes.plot(
            [b.score for b in raw],
            [b.abnormal for b in raw],
            "o",
            c=PALE,
            mfc=PAPER,
            ms=4,
            label="before calibration",
        )
        x, y = [b.score for b in bins], [b.abnormal for b in bins]
        ends = [wilson(b.abnormal, b.studies) for b in bins]
        axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=BLUE, lw=1)
        axes.plot(x, y, "o", c=BLUE, ms=4.5, label="after, with 95 %")
        _unit(axes)

    return chart(_title("Calibration", test), "mean probability of a bin", "share abnormal", draw)


def score_chart(test: Measured) -> str:
    """How the probabilities of abnormal studies (up) and normal ones (down) are spread."""
    studies, band = test.studies, test.chosen.band

    def draw(axes: Axes) -> None:
        if band.high > band.low:
            axes.axvspan(band.low, band.high, color=BAND, lw=0, label="abstain")
        edges = np.linspace(0, 1, 21)
        for label, name, colour, way in ((1, "abnormal", RED, 1), (0, "normal", BLUE, -1)):
            heights, _ = np.histogram(studies.scores[studies.labels == label], edges)
            axes.bar(
                edges[:-1],
                way * heights,
                width=0.05,
                align="edge",
                color=colour,
                ec=PAPER,
                lw=0.5,
                label=f"{name}, {heights.sum()}",
            )
        axes.axhline(0, c=INK, lw=0.8)
        axes.axvline(test.chosen.threshold, c=INK, lw=1.2, ls=":", label="threshold")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")

    return chart(
        _title("Probabilities", test),
        "calibrated probability of abnormal",
        "studies, normal ones down",
        draw,
    )


def _title(what: str, test: Measured) -> str:
    return f"{what}: {len(test.studies.labels)} {test.part} studies"


def _unit(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.03)
