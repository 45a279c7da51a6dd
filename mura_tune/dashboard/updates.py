"""Updates of the dashboard's notes and charts while searches run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from optuna.storages import RDBStorage

from mura_tune.dashboard import search_charts
from mura_tune.dashboard.notes import write_study_note
from mura_tune.database.outages import PATIENCE, Outage
from mura_tune.database.refusals import legible
from mura_tune.database.storage import load_study, using
from mura_tune.search.results import load_confirmation
from mura_tune.search.search import SearchEvent, SearchJob, TrialEnded
from mura_tune.search.search_record import SearchRecord
from mura_tune.text import CONFIRM_SUFFIX

PAUSE = 15.0  # seconds between two notes of a search: a note costs a few writes


@dataclass
class DashboardUpdates:
    """Writes each search's note now and then, and its charts at the end. The parent has it.

    Attributes:
        resume: the command that goes on with each search, by name.
        finalize: the command that releases its winner, by name.
    """

    url: str
    jobs: Sequence[SearchJob]
    resume: Mapping[str, str]
    finalize: Mapping[str, str]
    _last: dict[str, float] = field(default_factory=dict)
    _storage: RDBStorage = field(init=False, repr=False)  # of `around`

    def __call__(self, event: SearchEvent) -> None:
        """Handle an event: when a trial ends, write the note again if it is older than PAUSE."""
        name = event.search.removesuffix(CONFIRM_SUFFIX)
        if isinstance(event, TrialEnded) and time.monotonic() - self._last.get(name, 0.0) > PAUSE:
            self._note(next(job for job in self.jobs if job.name == name))

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Write the notes before and after the block, however it ends; then draw the charts."""
        with using(self.url, patience=PATIENCE) as self._storage:
            for job in self.jobs:
                self._note(job)
            try:
                yield
            except (Outage, OSError):
                raise  # nothing can be stored now, and the error already has its line
            except BaseException:
                self._close()
                raise
            self._close()

    def _close(self) -> None:
        for job in self.jobs:
            self._note(job)
            with legible(self.url, f"search {job.name}"):
                search = SearchRecord(load_study(self._storage, job.name, self.url))
                search_charts.refresh_charts(search)

    def _note(self, job: SearchJob) -> None:
        self._last[job.name] = time.monotonic()
        with legible(self.url, f"search {job.name}"):
            write_study_note(
                SearchRecord(load_study(self._storage, job.name, self.url)),
                load_confirmation(self._storage, job.name),
                resume=self.resume[job.name],
                finalize=self.finalize[job.name],
                split_counts=job.prepared.counts(),
            )
