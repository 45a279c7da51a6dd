"""A search from outside: what is searched, what its workers need to know, what they report.

`start_search` makes or reopens a search; `worker.run_worker` and a `pool.Pool` bring it to its
count; `results.load_result` says what it came to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from mura_tune.config import SearchConfig
from mura_tune.data.prepare import Prepared
from mura_tune.database.locks import WorkerLock, lock_of
from mura_tune.database.outages import PATIENCE
from mura_tune.database.storage import GRACE, using
from mura_tune.search.comparable import same_or_refuse, same_software_or_refuse
from mura_tune.search.results import load_confirmation
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.space import as_started, space_of, space_to_json
from mura_tune.search.trial import SaveArtifacts, TrialProgress
from mura_tune.search.trial_record import TrialRecord
from mura_tune.search.warm_start import AUTO, warm_starts
from mura_tune.software import Software, running_software
from mura_tune.text import CONFIRM_SUFFIX, check_search_name
from mura_tune.training.compiling import SAVED
from mura_tune.training.preflight import check_networks
from mura_tune.training.tasks import task_of


@dataclass(frozen=True, eq=False)
class SearchJob:
    """A search to bring to its count: its name in the database, its settings and its data."""

    name: str
    config: SearchConfig
    prepared: Prepared


def save_nothing(_task: str) -> SaveArtifacts:
    """For trials of a task whose record in the database is enough."""
    return lambda trial, fits, studies: None


@dataclass(frozen=True)
class WorkerSettings:
    """What is the same for every worker of a call.

    Attributes:
        url: of the database.
        grace: seconds without a sign of life after which a trial counts as lost.
        warm_start: `auto`, `none`, or names of searches with commas between them.
        artifacts: for a task, the function that saves what people look at of a trial.
        features: the folder of frozen stages' features; None computes them always.
        feature_bytes: what the features may take on disk.
        sharers: how many workers at most share the memory of a device.
        compiled: the folder of compiled passes; None compiles nothing.
        compile: a word of `COMPILE_RULES`.
        patience: seconds to wait while the database is out of reach.
        until: when the last trial may start, in seconds since 1970; None sets no end.
        software: what has to run on the machine of a worker; None accepts whatever does.
    """

    url: str = field(repr=False)
    grace: int = GRACE
    warm_start: str = AUTO
    artifacts: Callable[[str], SaveArtifacts] = save_nothing
    features: Path | None = None
    feature_bytes: int = 20 * 10**9
    sharers: int = 1
    compiled: Path | None = None
    compile: str = "off"
    patience: float = PATIENCE
    until: float | None = None
    software: Software | None = None

    def is_over(self) -> bool:
        """Whether no further trial may start."""
        return self.until is not None and time.time() >= self.until


@dataclass(frozen=True)
class TrialEnded:
    """A trial of a search that ended."""

    search: str
    trial: TrialRecord


@dataclass(frozen=True)
class WorkerNote:
    """A line on what a worker of a search does beside training."""

    search: str
    line: str


SearchEvent = TrialProgress | TrialEnded | WorkerNote

# Whether to compile a pass, by the device's kind, the seconds that it takes, and the seconds of
# training that it would serve. A CPU's results stay what they were to the bit.
COMPILE_RULES: Mapping[str, Callable[[str, float, float], bool]] = {
    "auto": lambda device, cost, served: device == "cuda" and SAVED * served > cost,
    "on": lambda device, cost, served: True,
    "off": lambda device, cost, served: False,
}


def start_search(
    job: SearchJob, settings: WorkerSettings, *, allow_space_change: bool = False
) -> dict[str, int]:
    """Make the search, or see that it may go on.

    Returns how many trials the search has, and how many its confirmation, by name.

    Raises:
        InputError: the search exists with another space, recipe, dataset or split; workers run it
            with another version of this program; or its name belongs to a confirmation.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if job.name.endswith(CONFIRM_SUFFIX):
        check_search_name(job.name, "study")
    space = space_of(job.config)
    check_networks(job.config)
    task_of(job.config.task).outputs(len(job.prepared.areas))  # or refuse a router of one area
    with using(settings.url, create=True, patience=settings.patience) as storage:
        with lock_of(settings.url, job.name, settings.patience):
            handle = optuna.create_study(
                storage=storage, study_name=job.name, direction="maximize", load_if_exists=True
            )
            search, confirmation = SearchRecord(handle), load_confirmation(storage, job.name)
            records = [search, confirmation] if confirmation else [search]
            running = [trial for record in records for trial in record.trials().running]
            workers = {trial.worker for trial in running if trial.worker}
            lock = WorkerLock(settings.url, patience=settings.patience)
            same_software_or_refuse(search, running_software(), workers, lock.living)
            space = as_started(space, search.comparable)
            same_or_refuse(
                search,
                job.config,
                space_to_json(space),
                job.prepared,
                allow_space_change=allow_space_change,
            )
        if settings.warm_start != AUTO:  # or refuse what is named
            warm_starts(storage, job.name, job.config, space, settings.warm_start)
        return {
            job.name: len(search.trials()),
            job.name + CONFIRM_SUFFIX: len(confirmation.trials()) if confirmation else 0,
        }
