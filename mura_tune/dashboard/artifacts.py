"""What a finished trial leaves to look at: pictures, a table of scores and a note with both."""

from __future__ import annotations

import contextlib
import csv
import functools
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import save_note
from optuna_dashboard.artifact import get_artifact_path
from PIL import Image

from mura_tune.dashboard.notes import trial_note
from mura_tune.dashboard.panels import EXHIBITS, Exhibit, monitor_of
from mura_tune.dashboard.trial_pictures import Fits
from mura_tune.metrics.estimates import StudyScores
from mura_tune.search.trial import SaveArtifacts

SCORES = "dev-scores.csv"
_LOG = logging.getLogger(__name__)


@dataclass
class Allowance:
    """Seconds a worker may spend on what its trials leave: a share of those it has trained.

    A cost is expected to be what it was the last time. So the sum stays within the share but for
    what a single trial takes beyond expectation, and that is saved up again before the next.

    Attributes:
        expected: seconds by kind; on two slow cores, until this worker has measured its own.
    """

    share: float = 0.05
    trained: float = 0.0
    spent: float = 0.0
    expected: dict[str, float] = field(default_factory=lambda: {"table": 0.05, "pictures": 0.4})

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; it must be between 0 and 1")

    def earn(self, seconds: float) -> None:
        """Count seconds of training; those of a pruned trial count as well."""
        self.trained += seconds

    def covers(self, *kinds: str) -> bool:
        """Whether there is room for all of these now."""
        return self.spent + sum(self.expected[k] for k in kinds) <= self.share * self.trained

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count what happens inside, and expect the same the next time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.expected[kind] = time.perf_counter() - started
            self.spent += self.expected[kind]


@dataclass(eq=False)
class TrialArtifacts:
    """Keeps what one worker's trials leave, with their files in `folder`. One thread uses it."""

    folder: Path
    allowance: Allowance = field(default_factory=Allowance)

    def __call__(self, task: str) -> SaveArtifacts:
        """What keeps a trial of a task."""
        return functools.partial(self.keep, exhibit=EXHIBITS[task]())

    def keep(self, trial: optuna.Trial, fits: Fits, studies: StudyScores, exhibit: Exhibit) -> None:
        """Store a trial's pictures, scores and note, as far as the allowance covers them.

        Call it in the objective once the trial's `dev_score` and `recipe` are stored, and before it
        returns: a finished trial takes no files. What goes wrong with a picture costs the
        picture, not the trial; what Optuna raises (the trial was lost, say) is passed on.

        Args:
            fits: each fit with the dev split it was scored on; one pair, or one a patient fold.
            studies: the dev studies of all pairs.
            exhibit: what is shown of its task.
        """
        self.allowance.earn(sum(epoch.seconds for fit, _ in fits for epoch in fit.epochs))
        before = self.allowance.spent
        if not self.allowance.covers("table"):
            return
        pictures: dict[str, str] = {}
        missing = f"left out, to keep within {self.allowance.share:.0%} of the time trained"
        if self.allowance.covers("table", "pictures"):
            with self.allowance.timed("pictures"), self._survived(trial) as told:
                pictures = self._pictures(trial, exhibit.pictures(trial, fits, studies))
            missing = told.get("why", missing)
        with self.allowance.timed("table"):
            with self._survived(trial), tempfile.TemporaryDirectory() as folder:
                path = Path(folder, SCORES)
                _write_table([exhibit.columns, *exhibit.rows(fits, studies)], path)
                self._upload(trial, path)
            alone, monitor = [fit for fit, _ in fits], monitor_of(trial, exhibit.task)
            note = trial_note(trial, alone, pictures, missing, monitor, exhibit.caption)
            save_note(trial, note)
        spent = self.allowance.spent - before
        trial.set_user_attr("artifact_seconds", float(f"{spent:.3g}"))

    @contextlib.contextmanager
    def _survived(self, trial: optuna.Trial) -> Iterator[dict[str, str]]:
        """Tell what is raised inside, but for what Optuna raises, and go on."""
        told: dict[str, str] = {}
        try:
            yield told
        except optuna.exceptions.OptunaError:
            raise
        except Exception as error:  # a full disk or a bug here must not cost hours of training
            told["why"] = f"not kept ({type(error).__name__}: {error})"
            _LOG.warning("trial %d: artifacts %s", trial.number, told["why"])

    def _pictures(self, trial: optuna.Trial, drawn: Mapping[str, Image.Image]) -> dict[str, str]:
        """Upload pictures; where the dashboard serves each, by title."""
        with tempfile.TemporaryDirectory() as folder:
            return {
                name: self._upload(trial, _write_picture(picture, Path(folder, name)))
                for name, picture in drawn.items()
            }

    def _upload(self, trial: optuna.Trial, path: Path) -> str:
        """Store a file with a trial; where the dashboard serves it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        artifact = upload_artifact(
            artifact_store=FileSystemArtifactStore(self.folder),
            file_path=str(path),
            study_or_trial=trial,
        )
        return str(get_artifact_path(trial, artifact))


def _write_picture(picture: Image.Image, path: Path) -> Path:
    picture.save(path, compress_level=1)  # a third of the default's time, a quarter more bytes
    return path


def _write_table(rows: Iterable[Sequence[str]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(rows)
