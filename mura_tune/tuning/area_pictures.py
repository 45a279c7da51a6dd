"""A trial that tells areas apart on one picture: learning curves, and what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from mura_tune.learning.metrics import Estimate
from mura_tune.learning.parts import study_logits
from mura_tune.learning.recognition import confusion
from mura_tune.tuning.pictures import BLUE, DPI, INCHES, INK, PALE, RED, Fits, curves, dress, title


class AreaCharts:
    """Draws one trial after another on the same axes, as `pictures.Charts` does."""

    def __init__(self) -> None:
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
        self._canvas = FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            1,
            2,
            left=0.062,
            right=0.99,
            top=0.89,
            bottom=0.13,
            wspace=0.32,
            width_ratios=(1, 1.4),
        )
        halves = grid[0].subgridspec(2, 1, hspace=0.12, height_ratios=(1.5, 1))
        self._scores, self._losses, self._matrix = (
            figure.add_subplot(place) for place in (halves[0], halves[1], grid[1])
        )
        for axes, x, y, beside in (
            (self._scores, "", "dev study accuracy", (0.0, 0.125)),
            (self._losses, "epoch", "train loss", (0.22, 0.125)),
            (self._matrix, "called", "shows", (0.105, 0.17)),
        ):
            dress(axes, x, y, beside)
        self._scores.tick_params(labelbottom=False)
        self._matrix.grid(visible=False)

    def draw(self, fits: Fits, accuracy: Estimate, monitor: str) -> Image.Image:
        """Both charts of a trial, RGB.

        Args:
            fits: whose logits (N, K) are those of the areas alone.
            accuracy: the share of dev studies recognised; with folds, the mean over them.
            monitor: what the scores of the epochs are.
        """
        for axes in (self._scores, self._losses, self._matrix):
            for artist in (*axes.lines, *axes.patches, *axes.collections, *axes.texts):
                artist.remove()
        self._scores.set_ylabel(f"dev {monitor}", size=10 if len(monitor) < 15 else 8)
        curves(self._scores, self._losses, [fit for fit, _ in fits])
        _matrix(self._matrix, matrix(fits), fits[0][1].areas, accuracy)
        canvas: Any = self._canvas  # matplotlib leaves these two untyped
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def matrix(fits: Fits) -> NDArray[np.int64]:
    """Dev studies of all folds by area (rows) and by the one called (columns), (K, K)."""
    tables = [study_logits(fit.logits, dev) for fit, dev in fits]
    k = len(fits[0][1].areas)
    return sum(
        (confusion(table.parts, table.logits.argmax(1), k) for table in tables),
        start=np.zeros((k, k), np.int64),
    )


def _matrix(
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
    title(
        axes,
        f"{accuracy.value:.3f} of {accuracy.studies} studies recognised, 95 % "
        f"[{accuracy.low:.3f}, {accuracy.high:.3f}]",
    )
