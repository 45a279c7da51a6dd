"""The panel of each task: the pictures of a trial, and its table of dev studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import optuna
from PIL import Image

from mura_tune.dashboard.error_sheet import draw_area_error_sheet, draw_error_sheet
from mura_tune.dashboard.trial_charts import AreaCharts, Fits, TrialCharts
from mura_tune.metrics.areas import softmax
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import youden_threshold
from mura_tune.search.trial_record import TrialWriter
from mura_tune.training.tasks import (
    ABNORMALITY_TASK,
    MULTI_TASK,
    ROUTER_TASK,
    Task,
    study_logits,
    task_of,
)

CHARTS, ERRORS, AREAS = "charts.png", "worst-errors.png", "areas.png"


class TaskPanel(Protocol):
    """The pictures and the table of a trial of one task. One thread uses it.

    Attributes:
        task: the task of the trials.
        caption: the text above the pictures.
        columns: the head of the table.
    """

    task: Task
    caption: str
    columns: Sequence[str]

    def pictures(
        self, trial: optuna.Trial, fits: Fits, studies: StudyScores
    ) -> dict[str, Image.Image]:
        """Draw the pictures, by file name; `studies` are the dev studies of all `fits`."""

    def rows(self, fits: Fits, studies: StudyScores) -> Iterator[Sequence[str]]:
        """A row for every dev study, the worst answer first."""


class AbnormalityPanel:
    """Learning curves, ROC and confusion matrix, and the surest errors on either side."""

    task = ABNORMALITY_TASK
    caption = "The threshold has the best Youden index on these very studies: its figures flatter."
    columns: Sequence[str] = ("study", "patient", "label", "probability")

    def __init__(self) -> None:
        self._charts: TrialCharts | None = None

    def pictures(
        self, trial: optuna.Trial, fits: Fits, studies: StudyScores
    ) -> dict[str, Image.Image]:
        self._charts = self._charts or TrialCharts()
        threshold, auc = youden_threshold(studies), TrialWriter(trial).read().dev_auc
        monitor = trial_monitor(trial, self.task)
        return {
            CHARTS: self._charts.draw(fits, studies, auc, threshold, monitor),
            ERRORS: draw_error_sheet(fits, studies, threshold),
        }

    def rows(self, fits: Fits, studies: StudyScores) -> Iterator[Sequence[str]]:
        for row in np.argsort(-np.abs(studies.scores - studies.labels), kind="stable"):
            label = "abnormal" if studies.labels[row] else "normal"
            yield studies.names[row], studies.patients[row], label, f"{studies.scores[row]:.4f}"


class MultitaskPanel(AbnormalityPanel):
    """The same, and the confusion matrix of the areas."""

    task = MULTI_TASK

    def __init__(self) -> None:
        super().__init__()
        self._areas: AreaCharts | None = None

    def pictures(
        self, trial: optuna.Trial, fits: Fits, studies: StudyScores
    ) -> dict[str, Image.Image]:
        self._areas = self._areas or AreaCharts()
        area_fits = [(replace(fit, logits=fit.logits[:, 1:]), dev) for fit, dev in fits]
        accuracy, monitor = TrialWriter(trial).read().dev_area, trial_monitor(trial, self.task)
        assert accuracy is not None  # a multi-task trial stores it
        area_charts = {AREAS: self._areas.draw(area_fits, accuracy, monitor)}
        return super().pictures(trial, fits, studies) | area_charts


class AreaPanel:
    """Learning curves, the confusion matrix of the areas, and the surest errors."""

    task = ROUTER_TASK
    caption = "An area is that of the largest logit, averaged over a study's views."
    columns: Sequence[str] = ("study", "patient", "area", "called", "probability")

    def __init__(self) -> None:
        self._charts: AreaCharts | None = None

    def pictures(
        self, trial: optuna.Trial, fits: Fits, studies: StudyScores
    ) -> dict[str, Image.Image]:
        self._charts = self._charts or AreaCharts()
        accuracy = TrialWriter(trial).read().dev
        return {
            CHARTS: self._charts.draw(fits, accuracy, ROUTER_TASK.monitor),
            ERRORS: draw_area_error_sheet(fits),
        }

    def rows(self, fits: Fits, studies: StudyScores) -> Iterator[Sequence[str]]:
        rows = []
        for fit, dev in fits:
            table = study_logits(fit.logits, dev)
            for row, chances in enumerate(softmax(table.logits)):
                called, area = int(chances.argmax()), int(table.areas[row])
                right, sure = called == area, float(chances[called])
                cells = (
                    str(table.names[row]),
                    str(table.patients[row]),
                    dev.areas[area],
                    dev.areas[called],
                    f"{sure:.4f}",
                )
                rows.append((right, sure if right else -sure, cells))
        yield from (cells for _, _, cells in sorted(rows))


PANELS: Mapping[Task, Callable[[], TaskPanel]] = {
    ABNORMALITY_TASK: AbnormalityPanel,
    MULTI_TASK: MultitaskPanel,
    ROUTER_TASK: AreaPanel,
}


def trial_monitor(trial: optuna.Trial, task: Task) -> str:
    """The name of a trial's score, such as study AUC."""
    return task_of(task.name, TrialWriter(trial).read().recipe).monitor
