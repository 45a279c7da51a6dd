"""Plotly charts of a search: importances of its axes, scores with intervals, cost of an epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState
from optuna_dashboard import save_plotly_graph_object

from mura_tune.search.search_record import SearchRecord
from mura_tune.search.trial_record import BASELINE, TrialRecord
from mura_tune.training.tasks import ABNORMALITY_TASK, judged_by, task_of

ENOUGH = 8  # finished trials below which importances say nothing
SEEDS = 5  # forests for the spread of an importance
SECONDS = 2.5  # after which no further forest is grown
BLUE, RED, AMBER, GREY = "#1f5fa8", "#c8402f", "#e0a030", "#9aa0a8"


@dataclass(frozen=True)
class Figure:
    """A plotly figure as plain data, which the dashboard reads; plotly itself is not needed."""

    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]

    def to_json(self) -> str:
        """The text that `save_plotly_graph_object` stores. No spaces: a row has 2045 characters."""
        return json.dumps({"data": self.data, "layout": self.layout}, separators=(",", ":"))


def refresh_charts(search: SearchRecord) -> None:
    """Draw the charts of a search anew; a chart that needs more trials is left out."""
    trials, plain = search.trials(), search.plain_config
    by = plain.get("recipe", {}).get("monitor", "auc")
    monitor = judged_by(task_of(plain.get("task", ABNORMALITY_TASK.name)), by).monitor
    for name, figure in (
        ("mura-importance", draw_importance(trials, monitor)),
        ("mura-auc", draw_scores(trials, monitor)),
        ("mura-seconds", draw_seconds(trials)),
    ):
        if figure is not None:
            save_plotly_graph_object(search.handle, figure, graph_object_id=name)


def draw_importance(
    trials: Sequence[TrialRecord], monitor: str = ABNORMALITY_TASK.monitor
) -> Figure | None:
    """Each searched value's share of the score's variance (Hutter et al. 2014), mean and standard
    deviation over forests; None where too few trials have finished, or all alike."""
    finished = [t for t in trials if t.state == TrialState.COMPLETE and t.has_dev]
    if len(finished) < ENOUGH or len({t.score for t in finished}) < 2:
        return None
    shares = _forest_importances(finished)
    if not shares:
        return None
    names = sorted(shares[0], key=lambda name: np.mean([s[name] for s in shares]))
    values = np.array([[s[name] for name in names] for s in shares])
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "x": _shorten(values.mean(0)),
        "marker": {"color": BLUE},
        "width": 0.6,
        "error_x": {"type": "data", "array": _shorten(values.std(0)), "color": "#333", "width": 5},
        "hovertemplate": "%{y}: %{x:.2f}<extra></extra>",
    }
    title = "What matters: fANOVA importance"
    small = f"{len(finished)} finished trials; bars ± standard deviation over {len(shares)} forests"
    return Figure(
        [bars],
        _layout(
            title,
            small,
            f"share of the variance of dev {monitor}",
            "",
            xaxis={"rangemode": "tozero"},
            yaxis={"automargin": True, "ticksuffix": " "},
        ),
    )


def _forest_importances(finished: Sequence[TrialRecord]) -> list[dict[str, float]]:
    """Importances from one random forest for each seed, until SECONDS have passed."""
    copy = optuna.create_study(direction="maximize")
    copy.add_trials([trial.frozen for trial in finished])
    shares: list[dict[str, float]] = []
    started = time.perf_counter()
    for seed in range(SEEDS):
        shares.append(FanovaImportanceEvaluator(seed=seed).evaluate(copy))
        if time.perf_counter() - started > SECONDS:
            break
    return [share for share in shares if share and all(map(math.isfinite, share.values()))]


def draw_scores(
    trials: Sequence[TrialRecord], monitor: str = ABNORMALITY_TASK.monitor
) -> Figure | None:
    """Each finished trial's dev score with its 95 % interval, the baseline and the best one marked,
    pruned ones as ticks at their last score; None before any trial has finished."""
    finished = [t for t in trials if t.state == TrialState.COMPLETE and t.has_dev]
    if not finished:
        return None
    best = max(finished, key=lambda t: (t.score, -t.number))
    baseline = [t for t in finished if t.role == BASELINE and t is not best]
    others = [t for t in finished if t is not best and t not in baseline]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.last_score is not None]
    so_far = np.maximum.accumulate([t.score for t in finished])
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "hoverinfo": "skip",
            "x": [*(t.number for t in finished), trials[-1].number],
            "y": _shorten([*so_far, so_far[-1]]),
            "line": {"shape": "hv", "color": "#d5d8dc", "width": 2},
        },
        _ticks(pruned),
        _dots("finished", others, BLUE, "circle", 8),
        _dots("baseline", baseline, AMBER, "diamond", 12),
        _dots(f"best: trial {best.number}", [best], RED, "star", 15),
    ]
    small = f"{best.dev.studies} dev studies; intervals by resampling patients"
    layout = _layout(f"Dev {monitor} with its 95 % interval", small, "trial", f"dev {monitor}")
    layout |= {"showlegend": True, "legend": {"orientation": "h", "y": -0.17, "yanchor": "top"}}
    return Figure([trace for trace in traces if trace["x"]], layout)


def _dots(
    name: str, trials: Sequence[TrialRecord], colour: str, symbol: str, size: int
) -> dict[str, Any]:
    """A trace of trials with their intervals."""
    estimates = [trial.dev for trial in trials]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [t.number for t in trials],
        "y": _shorten(e.value for e in estimates),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "thickness": 1.2,
            "width": 0,
            "array": _shorten(e.high - e.value for e in estimates),
            "arrayminus": _shorten(e.value - e.low for e in estimates),
        },
        "marker": {"color": colour, "symbol": symbol, "size": size},
        "hovertemplate": "trial %{x}: %{y:.3f}<extra></extra>",
    }


def _ticks(pruned: Sequence[TrialRecord]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "pruned, last score",
        "x": [t.number for t in pruned],
        "y": _shorten(t.last_score for t in pruned),
        "marker": {"symbol": "line-ew", "size": 9, "line": {"color": GREY, "width": 2}},
        "hovertemplate": "trial %{x}, pruned: %{y:.3f}<extra></extra>",
    }


def draw_seconds(trials: Sequence[TrialRecord]) -> Figure | None:
    """Seconds an epoch took in each trial, coloured by the number of stages that it trained."""
    timed = [t for t in trials if t.seconds_an_epoch is not None]
    if not timed:
        return None
    each = [t.seconds_an_epoch or 0.0 for t in timed]
    depths = [t.recipe.finetune.depth for t in timed]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": [t.number for t in timed],
        "y": _shorten(each),
        "customdata": depths,
        "marker": {
            "size": 11,
            "color": depths,
            "colorscale": "Viridis",
            "reversescale": True,
            "line": {"color": "white", "width": 1},
            "colorbar": {
                "title": {"text": "stages trained", "side": "right"},
                "thickness": 14,
                "dtick": 1,
                "outlinewidth": 0,
            },
        },
        "hovertemplate": "trial %{x}, %{customdata} stages: %{y:.3g} s<extra></extra>",
    }
    wide = max(each) > 20 * min(each) > 0
    axis = {"type": "log"} if wide else {"rangemode": "tozero"}
    small = "seconds of a trial over its epochs; colour: stages that fine-tuning trains"
    layout = _layout("What an epoch costs", small, "trial", "seconds an epoch", yaxis=axis)
    return Figure([dots], layout)


def _layout(title: str, small: str, x: str, y: str, **axes: Mapping[str, Any]) -> dict[str, Any]:
    """The layout of every chart: white on any theme, titles left, axes named, room for both."""
    grid = {"gridcolor": "#e6e8eb", "zeroline": False, "linecolor": "#b8bcc2", "automargin": True}
    names = {axis: {"text": text, "standoff": 8} for axis, text in (("xaxis", x), ("yaxis", y))}
    return {
        "title": {
            "text": f"<b>{title}</b><br><span style='font-size:13px'>{small}</span>",
            "x": 0.02,
            "xanchor": "left",
            "font": {"size": 17},
        },
        "font": {"size": 13, "color": "#333"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 65, "r": 20, "t": 75, "b": 60},
        "autosize": True,
        "showlegend": False,
        **{axis: {**grid, "title": names[axis], **axes.get(axis, {})} for axis in names},
    }


def _shorten(values: Iterable[Any]) -> list[float]:
    """Round numbers to four digits, all that a chart shows."""
    return [float(f"{value:.4g}") for value in values]
