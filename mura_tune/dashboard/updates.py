"""Keeps the notes and plots of the studies on the dashboard up to date while they are searched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.storages import RDBStorage

from mura_tune.dashboard import plots
from mura_tune.dashboard.notes import write_study_note
from mura_tune.database.outages import PATIENCE, Outage, legible
from mura_tune.database.storage import load_study, open_storage
from mura_tune.search.records import SearchRecord
from mura_tune.search.results import load_confirmation
from mura_tune.search.search import SearchEvent, SearchJob, TrialEnded
from mura_tune.text import CONFIRM_SUFFIX

PAUSE = 15.0  # seconds between two notes of a study: a note costs a few writes


@dataclass
class DashboardUpdates:
    """Writes each study's note now and then, and its plots at the end. The parent owns it.

    Attributes:
        resume: the command that goes on with each study, by name; `finalize` the one that
            releases its winner.
    """

    url: str
    jobs: Sequence[SearchJob]
    resume: Mapping[str, str]
    finalize: Mapping[str, str]
    _last: dict[str, float] = field(default_factory=dict)
    _storage: RDBStorage | None = None

    def __call__(self, event: SearchEvent) -> None:
        """Take in an event; a trial that ended may bring the note up to date."""
        name = event.search.removesuffix(CONFIRM_SUFFIX)
        if isinstance(event, TrialEnded) and time.monotonic() - self._last.get(name, 0.0) > PAUSE:
            self._note(next(job for job in self.jobs if job.name == name))

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Notes before and after what happens inside, however it ends; then the plots."""
        for job in self.jobs:
            self._note(job)
        try:
            yield
        except (Outage, OSError):
            raise  # nothing can be stored now, and what has been said is enough
        except BaseException:
            self._close()
            raise
        self._close()

    def _close(self) -> None:
        for job in self.jobs:
            self._note(job)
            with legible(self.url, f"study {job.name}"):
                search = SearchRecord(load_study(self._opened(), job.name, self.url))
                plots.refresh(search)

    def _note(self, job: SearchJob) -> None:
        self._last[job.name] = time.monotonic()
        storage = self._opened()
        with legible(self.url, f"study {job.name}"):
            write_study_note(
                SearchRecord(load_study(storage, job.name, self.url)),
                load_confirmation(storage, job.name),
                resume=self.resume[job.name],
                finalize=self.finalize[job.name],
                parts=job.prepared.counts(),
            )

    def _opened(self) -> RDBStorage:
        self._storage = self._storage or open_storage(self.url, patience=PATIENCE)
        return self._storage
