"""Charts of a release, as SVG that stands inside a page: no file, no font, no address of its own.

Six charts show the release on one split: ROC, precision and recall, calibration, probabilities, net
benefit, and errors over the share that is answered.
Three show how it came about: the search, and the score and the loss of the final training. One
compares releases.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mura_tune.evaluation.evaluate import Evaluation
from mura_tune.metrics.abstention import count_errors
from mura_tune.metrics.calibration_error import reliability_bins
from mura_tune.metrics.estimates import Estimate, wilson_interval
from mura_tune.metrics.net_benefit import decision_curve
from mura_tune.metrics.operating_points import count_calls
from mura_tune.metrics.ranking import precision_recall_curve, roc_curve
from mura_tune.metrics.recalibration import smooth_calibration
from mura_tune.release_format.entries import EpochEntry, SearchEntry, TrainingEntry
from mura_tune.text import visible

BLUE, RED, INK, PALE, GRID = "#1f5fa8", "#c8402f", "#22262b", "#6b727c", "#e6e8eb"
GUIDE, BAND, PAPER = "#c4c8ce", "#f0ece2", "#ffffff"
# What is drawn in these follows the page, which may be dark.
_NAMES = {
    BLUE: "blue",
    RED: "red",
    INK: "ink",
    PALE: "pale",
    GRID: "grid",
    GUIDE: "guide",
    BAND: "band",
    PAPER: "paper",
}
CHART_INCHES = (4.3, 3.3)
POINTS = 72  # an inch: what an SVG file measures in
PAD = 3  # points around the axes with their labels, and above the legend
EDGE = 9  # points that half of the last number below the axes may take


def draw_chart(
    title: str, x: str, y: str, draw: Callable[[Axes], None], *, height: float = CHART_INCHES[1]
) -> Markup:
    """Draw a chart as an <svg> element, which scales with the column that it stands in.

    Text stays text, in the page's own font. A dollar sign is a dollar sign: no text is a formula.

    Args:
        x, y: the names of the axes.
        draw: draws into the axes.
        height: of the chart, in inches.
    """
    with matplotlib.rc_context({"text.parse_math": False}):
        return Markup(_inline(_figure(title, x, y, draw, height), title))


def _figure(title: str, x: str, y: str, draw: Callable[[Axes], None], height: float) -> Figure:
    figure = Figure(figsize=(CHART_INCHES[0], height), dpi=POINTS, facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    draw(axes)
    # A place of its own: matplotlib would look for one at each drawing.
    axes.set_title(title, size=10, c=INK, loc="left", weight="bold", y=1)
    axes.set_xlabel(x, size=9, c=INK)
    axes.set_ylabel(y, size=9, c=INK)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(c=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0)
    for side in axes.spines.values():
        side.set_visible(False)
    if axes.get_legend_handles_labels()[0]:  # below, where it covers nothing
        figure.legend(loc="lower left", ncols=2, fontsize=8, frameon=False, labelcolor=INK)
    _place_axes(figure, axes)
    return figure


def _place_axes(figure: Figure, axes: Axes) -> None:
    """Let the axes, which fill the figure, leave room for their labels and for the legend.

    One measurement: matplotlib's constrained layout takes two, and draws the figure twice.
    """
    whole, needed = figure.bbox, axes.get_tightbbox()
    assert needed is not None
    below = sum(legend.get_window_extent().height + PAD for legend in figure.legends)
    left, bottom = PAD - needed.x0, PAD - needed.y0 + below
    right, top = max(EDGE, PAD + needed.x1 - whole.width), PAD + needed.y1 - whole.height
    width, height = whole.width - left - right, whole.height - bottom - top
    axes.set_position(
        (left / whole.width, bottom / whole.height, width / whole.width, height / whole.height)
    )


def _inline(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # two charts would share their names
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would rule the whole page
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", _font, text)  # as older versions write it
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    label = html.escape(title, quote=True)
    return re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>',
        rf'<svg viewBox="\1" role="img" aria-label="{label}">',
        text,
        count=1,
    )


def _font(style: re.Match[str]) -> str:
    """Weight and size without the family, which the page gives."""
    weight = f"font-weight: {style[1]}; " if style[1] else ""
    return f"{weight}font-size: {style[2]}"


def draw_curves(test: Evaluation) -> list[Markup]:
    """The charts of a release on one split."""
    charts = (
        *(draw_roc, draw_precision_recall, draw_calibration, draw_probabilities),
        *(draw_net_benefit, draw_risk_coverage),
    )
    return [draw(test) for draw in charts]


def draw_roc(test: Evaluation) -> Markup:
    """ROC with its AUC and the recommended operating point."""
    false, true = roc_curve(test.studies)
    calls = count_calls(test.studies, test.decision.threshold)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c=GUIDE, lw=1, ls="--")
        axes.plot(false, true, c=BLUE, lw=1.8)
        axes.fill_between(false, true, color=BLUE, alpha=0.07, lw=0)
        normal, abnormal = calls["fp"] + calls["tn"], calls["tp"] + calls["fn"]
        point = (calls["fp"] / max(normal, 1), calls["tp"] / max(abnormal, 1))
        axes.plot(*point, "o", mfc=PAPER, mec=RED, mew=1.6, ms=7)
        axes.text(
            0.97,
            0.05,
            f"AUC {test.by_study['auc'].brief()}\nring: operating point",
            ha="right",
            va="bottom",
            size=8.5,
            c=INK,
        )
        _unit(axes)

    return draw_chart(_title("ROC", test), "1 - specificity", "sensitivity", draw)


def draw_precision_recall(test: Evaluation) -> Markup:
    """Precision over recall; chance gives the share of abnormal studies."""
    recall, precision = precision_recall_curve(test.studies)
    share = float(test.studies.labels.mean())

    def draw(axes: Axes) -> None:
        axes.axhline(share, c=GUIDE, lw=1, ls="--")
        axes.plot(recall, precision, c=BLUE, lw=1.8)
        label = f"average precision\n{test.by_study['average_precision'].brief()}"
        axes.text(0.03, 0.05, label, ha="left", va="bottom", size=8.5, c=INK)
        axes.text(1, share - 0.02, "chance", ha="right", va="top", size=8, c=PALE)
        _unit(axes)

    return draw_chart(_title("Precision and recall", test), "recall", "precision", draw)


def draw_calibration(test: Evaluation) -> Markup:
    """Share of abnormal studies over the probability: of bins, before and after, and smoothed.

    A bar is the 95 % interval of a bin, as if the studies in it were independent (Wilson 1927).
    """
    smooth = smooth_calibration(test.studies)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], c=GUIDE, lw=1, ls="--")
        p = smooth.probabilities
        axes.fill_between(p, smooth.low, smooth.high, color=BLUE, alpha=0.1, lw=0)
        axes.plot(p, smooth.abnormal, c=BLUE, lw=1.6, label="smoothed, after")
        raw, bins = reliability_bins(test.uncalibrated), reliability_bins(test.studies)
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
        ends = [wilson_interval(b.abnormal, b.studies) for b in bins]
        axes.vlines(x, [low for low, _ in ends], [high for _, high in ends], color=BLUE, lw=1)
        axes.plot(x, y, "o", c=BLUE, ms=4.5, label="after, with 95 %")
        _unit(axes)

    return draw_chart(
        _title("Calibration", test), "probability of abnormal", "share abnormal", draw
    )


def draw_probabilities(test: Evaluation) -> Markup:
    """Histograms of the probabilities: of abnormal studies upwards, of normal studies downwards."""
    studies, band = test.studies, test.decision.band

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
        axes.axvline(test.decision.threshold, c=INK, lw=1.2, ls=":", label="threshold")
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")

    return draw_chart(
        _title("Probabilities", test),
        "calibrated probability of abnormal",
        "studies, normal ones down",
        draw,
    )


def draw_net_benefit(test: Evaluation) -> Markup:
    """The decision curve: the release beside calling every study abnormal, and none."""
    curve, share = decision_curve(test.studies), float(test.studies.labels.mean())

    def draw(axes: Axes) -> None:
        axes.axhline(0, c=INK, lw=1, label="call none")
        axes.plot(curve.thresholds, curve.treat_all, c=PALE, lw=1.4, ls="--", label="call all")
        axes.fill_between(curve.thresholds, curve.low, curve.high, color=BLUE, alpha=0.1, lw=0)
        axes.plot(curve.thresholds, curve.model, c=BLUE, lw=1.8, label="the release")
        axes.axvline(test.decision.threshold, c=INK, lw=1.2, ls=":", label="threshold")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.25 * max(share, 0.1), 1.1 * max(share, 0.1))

    return draw_chart(_title("Net benefit", test), "threshold", "net benefit", draw)


def draw_risk_coverage(test: Evaluation) -> Markup:
    """The error of the answers over the share of studies, the surest first, that is answered."""
    wrong = count_errors(test.studies, test.decision.threshold)
    answered = np.arange(1, len(wrong) + 1)
    ends = np.array(
        [wilson_interval(float(w / n), int(n)) for w, n in zip(wrong, answered, strict=True)]
    )
    shown = answered >= min(5, len(wrong))  # the first few say nothing

    def draw(axes: Axes) -> None:
        x = (answered / len(wrong))[shown]
        axes.fill_between(x, *ends[shown].T, color=BLUE, alpha=0.1, lw=0)
        axes.plot(x, (wrong / answered)[shown], c=BLUE, lw=1.8)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, max(0.1, 1.15 * float(ends[shown][-1, 1])))

    title = _title("Errors and abstention", test)
    return draw_chart(title, "share answered, the surest first", "error of the answers", draw)


def _title(subject: str, test: Evaluation) -> str:
    return f"{subject}: {len(test.studies.labels)} {test.split} studies"


def _unit(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.03)


def draw_training(search: SearchEntry, training: TrainingEntry) -> list[Markup]:
    """The search, where its trials are known, and the final training."""
    return [
        *([draw_search(search)] if search.history else []),
        draw_score_curve(training, search.monitor),
        draw_loss_curve(training),
    ]


def draw_score_curve(training: TrainingEntry, monitor: str) -> Markup:
    """Dev score after each epoch of both phases, with a ring around the epoch that is released."""
    number, score = zip(*((epoch.number, epoch.score) for epoch in training.epochs), strict=True)
    best = training.best_epoch

    def draw(axes: Axes) -> None:
        axes.plot(number, score, "o-", c=BLUE, lw=1.6, ms=3)
        axes.plot(best, score[number.index(best)], "o", mfc=PAPER, mec=RED, mew=1.6, ms=7)
        axes.margins(y=0.16)
        _shade_phases(axes, training.epochs)

    return draw_chart("Final training (ring: kept)", "epoch", f"dev {monitor}", draw)


def draw_loss_curve(training: TrainingEntry) -> Markup:
    """Training loss of each epoch of both phases."""

    def draw(axes: Axes) -> None:
        number, loss = zip(*((epoch.number, epoch.loss) for epoch in training.epochs), strict=True)
        axes.plot(number, loss, "o-", c=INK, lw=1.4, ms=3)
        axes.margins(y=0.16)
        _shade_phases(axes, training.epochs)

    return draw_chart("Final training: loss", "epoch", "training loss", draw)


def draw_search(search: SearchEntry) -> Markup:
    """Every trial of the search by its number and its dev score, and the best score so far."""
    trials = [
        (trial.number, trial.score, trial.state)
        for trial in search.history
        if trial.score is not None
    ]
    finished = [(number, score) for number, score, state in trials if state == "COMPLETE"]
    pruned = [(number, score) for number, score, state in trials if state == "PRUNED"]
    last = max([search.trial, *(number for number, _, _ in trials)])
    baseline = search.baseline_dev_score

    def draw(axes: Axes) -> None:
        if baseline is not None:
            axes.axhline(baseline, c=INK, lw=1, ls=":", label="baseline (default recipe)")
        for points, marker, colour, name in (
            (pruned, "x", PALE, "pruned, last score"),
            (finished, "o", BLUE, "finished"),
        ):
            if points:
                numbers, scores = zip(*points, strict=True)
                axes.plot(numbers, scores, marker, c=colour, ms=5, label=name)
        axes.step(
            [number for number, _ in finished],
            np.maximum.accumulate([score for _, score in finished]),
            where="post",
            c=BLUE,
            lw=1,
            alpha=0.6,
            label="best so far",
        )
        axes.plot(
            search.trial,
            search.dev_score,
            "o",
            mfc="none",
            mec=RED,
            mew=1.8,
            ms=10,
            label="released",
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(-0.5, last + 0.5)
        axes.margins(y=0.1)

    return draw_chart("The search", "trial", f"dev {search.monitor}, one seed", draw)


def draw_forest(name: str, estimates: Mapping[str, Estimate]) -> Markup:
    """One score of several releases, by their names, each with its interval."""
    defined = {
        release: estimate
        for release, estimate in estimates.items()
        if not math.isnan(estimate.value)
    }

    def draw(axes: Axes) -> None:
        for y, estimate in enumerate(defined.values()):
            axes.plot([estimate.low, estimate.high], [y, y], c=BLUE, lw=1.4)
            axes.plot(estimate.value, y, "o", c=BLUE, ms=5)
        axes.set_yticks(range(len(defined)), [visible(release) for release in defined])
        axes.set_ylim(len(defined) - 0.5, -0.5)

    title, height = f"{name} on test, with 95 %", 1.1 + 0.24 * len(defined)
    return draw_chart(title, name, "", draw, height=height)


def _shade_phases(axes: Axes, epochs: Sequence[EpochEntry]) -> None:
    """Shade the phase in which the head alone trains, and name what trains."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, len(epochs) + 0.5)
    for phase in sorted({epoch.phase for epoch in epochs}):
        inside = [epoch for epoch in epochs if epoch.phase == phase]
        start, end, depth = inside[0].number - 0.5, inside[-1].number + 0.5, inside[0].depth
        if depth == 0:
            axes.axvspan(start, end, color=BAND, lw=0)
        name = "head" if depth == 0 else f"head and {depth} stage{'s' if depth > 1 else ''}"
        axes.text(
            start,
            0.99,
            f" {name}",
            size=7.5,
            c=PALE,
            ha="left",
            va="top",
            rotation=90 if depth == 0 else 0,  # the head's phase may last for one epoch
            transform=axes.get_xaxis_transform(),
        )
