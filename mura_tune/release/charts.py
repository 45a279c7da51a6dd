"""Charts of what was measured: ROC, precision and recall, calibration, scores."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mura_tune.learning.calibration_error import reliability
from mura_tune.learning.confusion import counts
from mura_tune.learning.curves import precision_recall, roc
from mura_tune.release.evaluate import Measured
from mura_tune.release.svg import BLUE, INK, PALE, RED, chart


def roc_chart(test: Measured) -> str:
    """ROC with its AUC and the recommended operating point."""
    false, true = roc(test.studies)
    found = counts(test.studies, test.chosen.threshold)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c="#c4c8ce", lw=1, ls="--")
        axes.plot(false, true, c=BLUE, lw=1.8)
        axes.fill_between(false, true, color=BLUE, alpha=0.07, lw=0)
        normal, abnormal = found["fp"] + found["tn"], found["tp"] + found["fn"]
        point = (found["fp"] / max(normal, 1), found["tp"] / max(abnormal, 1))
        axes.plot(*point, "o", mfc="white", mec=RED, mew=1.6, ms=7)
        axes.text(0.97, 0.05, f"AUC {test.figures['auc'].brief()}\nring: operating point",
                  ha="right", va="bottom", size=8.5, c=INK)  # fmt: skip
        _unit(axes)

    return chart("ROC, by study", "1 - specificity", "sensitivity", draw)


def precision_recall_chart(test: Measured) -> str:
    """Precision over recall, and the share of abnormal studies as what chance gives."""
    recall, precision = precision_recall(test.studies)
    share = float(test.studies.labels.mean())

    def draw(axes: Axes) -> None:
        axes.axhline(share, c="#c4c8ce", lw=1, ls="--")
        axes.plot(recall, precision, c=BLUE, lw=1.8)
        told = f"average precision\n{test.figures['average_precision'].brief()}"
        axes.text(0.03, 0.05, told, ha="left", va="bottom", size=8.5, c=INK)
        axes.text(1, share - 0.02, "chance", ha="right", va="top", size=8, c=PALE)
        _unit(axes)

    return chart("Precision and recall, by study", "recall", "precision", draw)


def calibration_chart(test: Measured) -> str:
    """Share of abnormal studies over the mean probability of each bin, before and after."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c="#c4c8ce", lw=1, ls="--")
        for rows, name, colour in ((test.raw, "before", PALE), (test.studies, "after", BLUE)):
            bins = reliability(rows)
            x, y = [b.score for b in bins], [b.abnormal for b in bins]
            axes.plot(x, y, "o-", c=colour, lw=1.4, ms=4, label=f"{name} calibration")
        _unit(axes)

    return chart(
        "Calibration, by study", "mean probability of a bin", "share abnormal in the bin", draw
    )


def score_chart(test: Measured) -> str:
    """How the probabilities of normal and abnormal studies are spread."""
    studies, band = test.studies, test.chosen.band

    def draw(axes: Axes) -> None:
        if band.high > band.low:
            axes.axvspan(band.low, band.high, color="#f0ece2", lw=0, label="abstain")
        edges = list(np.linspace(0, 1, 21))
        for label, name, colour in ((0, "normal", BLUE), (1, "abnormal", RED)):
            scores = studies.scores[studies.labels == label]
            axes.hist(scores, bins=edges, color=colour, alpha=0.55, label=name)
        axes.axvline(test.chosen.threshold, c=INK, lw=1.2, ls=":", label="threshold")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return chart("Probabilities, by study", "calibrated probability of abnormal", "studies", draw)


def _unit(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.03)
