"""The artifacts of a finished trial: pictures, a table of scores and a note."""

from __future__ import annotations

import contextlib
import csv
import functools
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.artifacts import upload_artifact
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path
from PIL import Image

from mura_tune.dashboard.notes import write_trial_note
from mura_tune.dashboard.panels import PANELS, TaskPanel, trial_monitor
from mura_tune.dashboard.trial_charts import Fits
from mura_tune.database.pictures import PictureStore
from mura_tune.metrics.estimates import StudyScores
from mura_tune.search.trial import SaveArtifacts
from mura_tune.search.trial_record import TrialWriter
from mura_tune.training.tasks import TASKS

SCORES_FILE = "dev-scores.csv"
_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class TrialArtifacts:
    """Saves the artifacts of one worker's trials, with files in `store`. One thread uses it."""

    store: PictureStore

    def __call__(self, task: str) -> SaveArtifacts:
        """Return the function that saves the artifacts of a trial of `task`."""
        return functools.partial(self.save, panel=PANELS[TASKS[task]]())

    def save(self, trial: optuna.Trial, fits: Fits, studies: StudyScores, panel: TaskPanel) -> None:
        """Store a trial's pictures, scores and note.

        Call it once the trial's dev score and recipe are stored, and before the trial ends: a
        finished trial takes no files. An error in a picture costs the picture, not the
        trial; an error of Optuna (such as a lost trial) is raised.

        Args:
            fits: each fit with the dev split it was scored on; one pair, or one a patient fold.
            studies: the dev studies of all pairs.
            panel: the pictures and the table of its task.
        """
        started = time.perf_counter()
        pictures: dict[str, str] = {}
        with self._logging_errors(trial) as errors:
            pictures = self._upload_pictures(trial, panel.pictures(trial, fits, studies))
        with self._logging_errors(trial), tempfile.TemporaryDirectory() as folder:
            path = Path(folder, SCORES_FILE)
            _write_table([panel.columns, *panel.rows(fits, studies)], path)
            self._upload(trial, path)
        alone, monitor = [fit for fit, _ in fits], trial_monitor(trial, panel.task)
        missing = errors[0] if errors else "none"
        save_note(trial, write_trial_note(trial, alone, pictures, missing, monitor, panel.caption))
        seconds = float(f"{time.perf_counter() - started:.3g}")
        TrialWriter(trial).store_artifact_seconds(seconds)

    @contextlib.contextmanager
    def _logging_errors(self, trial: optuna.Trial) -> Iterator[list[str]]:
        """Log an error that is raised inside and go on; raise an error of Optuna.

        The yielded list holds the error in words, once there is one.
        """
        errors: list[str] = []
        try:
            yield errors
        except optuna.exceptions.OptunaError:
            raise
        except Exception as error:
            # Of a full disk, Pillow, matplotlib or a store: the trial is trained by now, and would
            # be lost for its pictures. They are missing, and the log and the trial's note say why.
            errors.append(f"not kept ({type(error).__name__}: {error})")
            _LOG.warning("trial %d: artifacts %s", trial.number, errors[0])

    def _upload_pictures(
        self, trial: optuna.Trial, pictures: Mapping[str, Image.Image]
    ) -> dict[str, str]:
        """Upload pictures; return the path at which the dashboard serves each, by file name."""
        with tempfile.TemporaryDirectory() as folder:
            return {
                name: self._upload(trial, _write_picture(picture, Path(folder, name)))
                for name, picture in pictures.items()
            }

    def _upload(self, trial: optuna.Trial, path: Path) -> str:
        """Store a file with a trial; return the path at which the dashboard serves it."""
        artifact = upload_artifact(
            artifact_store=self.store, file_path=str(path), study_or_trial=trial
        )
        return str(get_artifact_path(trial, artifact))


def _write_picture(picture: Image.Image, path: Path) -> Path:
    picture.save(path, compress_level=1)  # a third of the default's time, a quarter more bytes
    return path


def _write_table(rows: Iterable[Sequence[str]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
