"""Charts of how a release came about: its learning curves, and the search before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mura_tune.release.svg import BAND, BLUE, INK, PALE, PAPER, RED, chart


def score_curve(epochs: Sequence[Mapping[str, Any]], best: int, monitor: str) -> str:
    """Dev score after each epoch of both phases; a ring around the one that was kept."""
    number, score = [e["number"] for e in epochs], [e["score"] for e in epochs]

    def draw(axes: Axes) -> None:
        axes.plot(number, score, "o-", c=BLUE, lw=1.6, ms=3)
        kept = score[number.index(best)]
        axes.plot(best, kept, "o", mfc=PAPER, mec=RED, mew=1.6, ms=7)
        axes.margins(y=0.16)
        _phases(axes, epochs)

    return chart("Final training (ring: kept)", "epoch", f"dev {monitor}", draw)


def loss_curve(epochs: Sequence[Mapping[str, Any]]) -> str:
    """Training loss of each epoch of both phases."""

    def draw(axes: Axes) -> None:
        axes.plot(
            [e["number"] for e in epochs], [e["loss"] for e in epochs], "o-", c=INK, lw=1.4, ms=3
        )
        axes.margins(y=0.16)
        _phases(axes, epochs)

    return chart("Final training: loss", "epoch", "training loss", draw)


def search_chart(study: Mapping[str, Any]) -> str:
    """Every trial by number and dev score: finished, pruned, the baseline, the best so far."""
    trials = [t for t in study["history"] if t["score"] is not None]
    finished = [t for t in trials if t["state"] == "COMPLETE"]
    most = max([study["trial"], *(t["number"] for t in trials)])
    pruned = [t for t in trials if t["state"] == "PRUNED"]
    baseline = study["baseline_dev_score"]

    def draw(axes: Axes) -> None:
        if baseline is not None:
            axes.axhline(baseline, c=INK, lw=1, ls=":", label="baseline (default recipe)")
        for some, marker, colour, name in (
            (pruned, "x", PALE, "pruned, last score"),
            (finished, "o", BLUE, "finished"),
        ):
            if some:
                axes.plot(
                    [t["number"] for t in some],
                    [t["score"] for t in some],
                    marker,
                    c=colour,
                    ms=5,
                    label=name,
                )
        best = np.maximum.accumulate([t["score"] for t in finished])
        axes.step(
            [t["number"] for t in finished],
            best,
            where="post",
            c=BLUE,
            lw=1,
            alpha=0.6,
            label="best so far",
        )
        axes.plot(
            study["trial"],
            study["dev_score"],
            "o",
            mfc="none",
            mec=RED,
            mew=1.8,
            ms=10,
            label="released",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(-0.5, most + 0.5)
        axes.margins(y=0.1)

    return chart("The search", "trial", f"dev {study['monitor']}", draw)


def _phases(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Shade the phase in which the head alone trains, and name what trains."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(epochs) + 0.5)
    for phase in sorted({e["phase"] for e in epochs}):
        inside = [e for e in epochs if e["phase"] == phase]
        start, end, depth = (
            inside[0]["number"] - 0.5,
            inside[-1]["number"] + 0.5,
            inside[0]["depth"],
        )
        if depth == 0:
            axes.axvspan(start, end, color=BAND, lw=0)
        name = "head" if depth == 0 else f"head and {depth} stage{'s' if depth > 1 else ''}"
        turned = 90 if depth == 0 else 0  # it may last for one epoch
        axes.text(
            start,
            0.99,
            f" {name}",
            size=7.5,
            c=PALE,
            ha="left",
            va="top",
            rotation=turned,
            transform=axes.get_xaxis_transform(),
        )
