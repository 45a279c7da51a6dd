"""Charts of a finished trial on one picture: learning curves, ROC and confusion matrix.

A trial that recognises areas has learning curves and a confusion matrix of the areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from mura_tune.metrics.areas import confusion_matrix
from mura_tune.metrics.estimates import Estimate, StudyScores
from mura_tune.metrics.ranking import roc_curve
from mura_tune.training.batches import Split
from mura_tune.training.fit import Epoch, FitResult
from mura_tune.training.tasks import study_logits

Fits = Sequence[tuple[FitResult, Split]]  # a fit and its dev split: one pair, or one a patient fold

BLUE, RED, INK, PALE = "#1f5fa8", "#c8402f", "#333333", "#7b818b"
DPI = 100
INCHES = (10.6, 3.8)  # 1060 pixels: what a note has beside the list of trials, at 1400
RING: dict[str, Any] = {
    "marker": "o",
    "mfc": "white",
    "mec": RED,
    "mew": 1.8,
    "ms": 8,
    "clip_on": False,
}


class TrialCharts:
    """Draws one trial after another on the same axes: making new ones costs more than drawing.

    Without pyplot, whose figures threads share. One instance serves one thread.
    """

    def __init__(self) -> None:
        self._canvas, axes = _make_axes("dev study AUC", wspace=0.27, width_ratios=(1.25, 1, 0.95))
        self._scores, self._losses, self._roc, self._matrix = axes
        style_axes(self._roc, "false positive rate", "true positive rate", (0.085, 0.14))
        style_axes(self._matrix, "called", "labelled", (0.085, 0.09))
        quarters = FixedLocator([0, 0.25, 0.5, 0.75, 1])
        self._roc.set(xlim=(-0.015, 1), ylim=(0, 1.015))
        self._matrix.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5))  # normal above abnormal
        self._matrix.grid(visible=False)
        for axis in (self._roc.xaxis, self._roc.yaxis):
            axis.set_major_locator(quarters)
        for axis in (self._matrix.xaxis, self._matrix.yaxis):
            axis.set_major_locator(FixedLocator([0, 1]))
            axis.set_ticklabels(["normal", "abnormal"])
        for label in self._matrix.get_yticklabels():
            label.set(rotation=90, va="center")

    def draw(
        self,
        fits: Fits,
        studies: StudyScores,
        auc: Estimate,
        threshold: float,
        monitor: str = "study AUC",
    ) -> Image.Image:
        """Draw the three charts of a trial (RGB).

        Args:
            studies: every dev study once; with folds, those of all folds.
            auc: the AUC of the trial; with folds, the mean over them.
            threshold: a study is called abnormal at or above it.
            monitor: the name of the epochs' scores.
        """
        self._scores.set_ylabel(f"dev {monitor}", size=10 if len(monitor) < 12 else 8)
        for axes in (self._scores, self._losses, self._roc, self._matrix):
            for artist in (*axes.lines, *axes.patches, *axes.collections, *axes.texts):
                artist.remove()
        _draw_curves(self._scores, self._losses, [fit for fit, _ in fits])
        _draw_roc(self._roc, studies, auc, threshold, len(fits))
        _draw_confusion_matrix(self._matrix, studies, threshold)
        canvas: Any = self._canvas  # matplotlib leaves these two untyped
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_curves(scores: Axes, losses: Axes, fits: Sequence[FitResult]) -> None:
    """Draw dev scores above training losses, epoch by epoch, with a ring around the best."""
    epochs = max((fit.epochs for fit in fits), key=len)
    width = 1.8 if len(fits) == 1 else 1.0
    style: dict[str, Any] = {"marker": "o", "lw": width, "ms": 2 * width}
    for fit in fits:
        numbers = [e.number for e in fit.epochs]
        scores.plot(numbers, [e.score for e in fit.epochs], c=BLUE, **style)
        losses.plot(numbers, [e.loss for e in fit.epochs], c=INK, **style)
    for fit in fits:
        scores.plot(fit.epoch.number, fit.epoch.score, **RING)
    scores.set_ylim(*_padded_limits([e.score for fit in fits for e in fit.epochs], below=0.16))
    losses.set_ylim(*_padded_limits([e.loss for fit in fits for e in fit.epochs], below=0.1))
    for axes in (scores, losses):
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    _mark_phases(scores, losses, epochs)
    folds = "" if len(fits) == 1 else f", {len(fits)} folds"
    write_title(scores, f"Learning curves{folds} (ring: best)")


def _padded_limits(values: Sequence[float], below: float) -> tuple[float, float]:
    """Limits with space around the values; the share `below` is for the names of the phases."""
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    return low - below * span, high + 0.1 * span


def _mark_phases(scores: Axes, losses: Axes, epochs: Sequence[Epoch]) -> None:
    """Mark where each phase starts, shade the head's, and name the stages where there is room."""
    for phase in sorted({e.phase for e in epochs}):
        inside = [e for e in epochs if e.phase == phase]
        start, end, depth = inside[0].number - 0.5, inside[-1].number + 0.5, inside[0].depth
        for axes in (scores, losses):
            axes.axvline(start, c="#d0d3d8", lw=1)
            if depth == 0:
                axes.axvspan(start, end, color="#f1ede3", lw=0)
        name = "head" if depth == 0 else f"head + {depth} stage{'s' if depth > 1 else ''}"
        if len(name) <= (end - start) / len(epochs) * 40:  # characters as wide as the chart
            scores.text(
                (start + end) / 2,
                0.02,
                name,
                c=PALE,
                size=8.5,
                ha="center",
                transform=scores.get_xaxis_transform(),
            )


def _draw_roc(
    axes: Axes, studies: StudyScores, auc: Estimate, threshold: float, folds: int
) -> None:
    false, true = roc_curve(studies)
    axes.plot([0, 1], [0, 1], c="#c4c8ce", lw=1, ls="--")
    axes.plot(false, true, c=BLUE, lw=2)
    axes.fill_between(false, true, color=BLUE, alpha=0.07, lw=0)
    (tn, fp), (fn, tp) = _count_confusion(studies, threshold)
    axes.plot(fp / (fp + tn), tp / (tp + fn), **RING)
    over = "" if folds == 1 else f"mean of {folds} folds\n"
    axes.text(
        0.97,
        0.05,
        f"AUC {auc.value:.3f}\n{over}95 % {auc.interval()}\n"
        f"{auc.studies} studies\n{auc.patients} patients",
        ha="right",
        size=10.5,
        c=INK,
        linespacing=1.4,
    )
    pool = "dev" if folds == 1 else "folds pooled"
    write_title(axes, f"ROC, {pool} (ring: at {threshold:.3f})")


def _count_confusion(studies: StudyScores, threshold: float) -> NDArray[np.int64]:
    """Studies by label (rows: normal, abnormal) and by what they are called (columns), (2, 2)."""
    return confusion_matrix(studies.labels, (studies.scores >= threshold).astype(np.int64), 2)


def _draw_confusion_matrix(axes: Axes, studies: StudyScores, threshold: float) -> None:
    table = _count_confusion(studies, threshold)
    shares = table / table.sum(1, keepdims=True)
    for row, column in np.ndindex(2, 2):
        share, right = shares[row, column], row == column
        axes.axhspan(
            row - 0.49,
            row + 0.49,
            column / 2 + 0.004,
            column / 2 + 0.496,
            lw=0,
            color=BLUE if right else RED,
            alpha=0.06 + 0.84 * share,
        )
        colour = "white" if share > 0.45 else INK
        for lower, text, size in ((-0.05, str(table[row, column]), 20), (0.2, f"{share:.0%}", 10)):
            axes.text(column, row + lower, text, ha="center", va="center", size=size, c=colour)
    write_title(axes, f"Calls at {threshold:.3f} (Youden)")


def write_title(axes: Axes, text: str) -> None:
    """Write the title above a chart."""
    axes.set_title(text, size=11, c=INK, loc="left", y=1.0, pad=9, weight="bold")


def _make_axes(
    score: str, *, wspace: float, width_ratios: Sequence[float]
) -> tuple[FigureCanvasAgg, list[Axes]]:
    """A canvas and its axes: of the score, of the loss below it, and of each further column."""
    figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
    grid = figure.add_gridspec(
        1,
        len(width_ratios),
        left=0.062,
        right=0.99,
        top=0.89,
        bottom=0.13,
        wspace=wspace,
        width_ratios=width_ratios,
    )
    halves = grid[0].subgridspec(2, 1, hspace=0.12, height_ratios=(1.5, 1))
    columns = [grid[column] for column in range(1, len(width_ratios))]
    axes = [figure.add_subplot(place) for place in (halves[0], halves[1], *columns)]
    style_axes(axes[0], "", score, (0.0, 0.125))
    style_axes(axes[1], "epoch", "train loss", (0.22, 0.125))
    axes[0].tick_params(labelbottom=False)
    return FigureCanvasAgg(figure), axes


def style_axes(axes: Axes, x: str, y: str, beside: tuple[float, float]) -> None:
    """Give a chart the style of all: its axes named, a faint grid, no box.

    Args:
        beside: how far below and to the left the names stand, in heights and widths of the axes;
            finding out would mean to lay out every tick's label twice.
    """
    axes.set_xlabel(x, size=10, c=INK)
    axes.set_ylabel(y, size=10, c=INK)
    axes.xaxis.set_label_coords(0.5, -beside[0])
    axes.yaxis.set_label_coords(-beside[1], 0.5)
    axes.tick_params(labelsize=9, labelcolor=INK, left=False, bottom=False)
    axes.grid(c="#e6e8eb", lw=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


class AreaCharts:
    """Draws one trial after another on the same axes, as `TrialCharts` does."""

    def __init__(self) -> None:
        self._canvas, axes = _make_axes("dev study accuracy", wspace=0.32, width_ratios=(1, 1.4))
        self._scores, self._losses, self._matrix = axes
        style_axes(self._matrix, "called", "shows", (0.105, 0.17))
        self._matrix.grid(visible=False)

    def draw(self, fits: Fits, accuracy: Estimate, monitor: str) -> Image.Image:
        """Draw both charts of a trial (RGB).

        Args:
            fits: whose logits (N, K) are those of the areas alone.
            accuracy: the share of dev studies recognised; with folds, the mean over them.
            monitor: the name of the epochs' scores.
        """
        for axes in (self._scores, self._losses, self._matrix):
            for artist in (*axes.lines, *axes.patches, *axes.collections, *axes.texts):
                artist.remove()
        self._scores.set_ylabel(f"dev {monitor}", size=10 if len(monitor) < 15 else 8)
        _draw_curves(self._scores, self._losses, [fit for fit, _ in fits])
        _draw_area_confusion_matrix(
            self._matrix, count_area_calls(fits), fits[0][1].areas, accuracy
        )
        canvas: Any = self._canvas  # matplotlib leaves these two untyped
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def count_area_calls(fits: Fits) -> NDArray[np.int64]:
    """Dev studies of all folds by true area (rows) and by the area called (columns), (K, K)."""
    tables = [study_logits(fit.logits, dev) for fit, dev in fits]
    k = len(fits[0][1].areas)
    return sum(
        (confusion_matrix(table.areas, table.called, k) for table in tables),
        start=np.zeros((k, k), np.int64),
    )


def _draw_area_confusion_matrix(
    axes: Axes, table_kk: NDArray[np.int64], areas: Sequence[str], accuracy: Estimate
) -> None:
    k = len(areas)
    axes.set(xlim=(-0.5, k - 0.5), ylim=(k - 0.5, -0.5))
    short = [area.removeprefix("XR_").lower() for area in areas]
    size = 9 if k <= 8 else 6
    axes.set_xticks(range(k), short, size=size)
    axes.set_yticks(range(k), short, size=size)
    for row, column in np.ndindex(k, k):
        share = table_kk[row, column] / max(1, table_kk[row].sum())
        axes.axhspan(
            row - 0.48,
            row + 0.48,
            (column + 0.02) / k,
            (column + 0.98) / k,
            lw=0,
            color=BLUE if row == column else RED,
            alpha=0.05 + 0.85 * share,
        )
        if table_kk[row, column]:
            colour = "white" if share > 0.45 else INK
            axes.text(
                column,
                row,
                str(table_kk[row, column]),
                ha="center",
                va="center",
                size=min(14, 70 / k),
                c=colour,
            )
        elif k <= 8:
            axes.text(column, row, "0", ha="center", va="center", size=8, c=PALE)
    write_title(
        axes,
        f"{accuracy.value:.3f} of {accuracy.studies} studies recognised, 95 % "
        f"{accuracy.interval()}",
    )
