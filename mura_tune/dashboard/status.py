"""Where searches stand: who runs which trial since when, what is done, and how long the rest takes.

It is read from the database alone, so any machine that reaches the database can say it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mura_tune.database.locks import WorkerLock, host_of
from mura_tune.database.optuna_private import search_id
from mura_tune.database.outages import WaitingStorage
from mura_tune.database.storage import load_study, using
from mura_tune.search.results import load_confirmation
from mura_tune.search.search_record import SearchRecord, Trials, reads_search
from mura_tune.search.slots import confirm_slots, empty_slots, standing
from mura_tune.search.trial_record import TrialRecord
from mura_tune.text import CONFIRM_SUFFIX

LAST = 20  # trials whose mean time is expected of those to come


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is running.

    Attributes:
        search: the name of the search, or of its confirmation.
        host: the name of the worker's machine; None for a worker of an earlier version.
        lives: whether the worker holds its lock. The trial of a worker that does not is run again.
        epochs: how many are trained.
        seconds: since it began.
        silent: seconds since its last sign of life; None before the first.
    """

    search: str
    trial: int
    slot: int | str | None
    worker: str | None
    host: str | None
    lives: bool
    epochs: int
    since: datetime | None
    seconds: float
    silent: float | None


@dataclass(frozen=True)
class SearchStatus:
    """Where a search and its confirmation stand.

    Attributes:
        done: trials that finished or were pruned, of `trials`.
        confirmed: runs of the confirmation that are done, of `confirmations`, which is the most
            there may be until the search is done.
        seconds_left: what the rest takes the workers that live now, if its trials take as long as
            the last 20 did; None where nobody works, or nothing has ended yet.
    """

    name: str
    done: int
    trials: int
    confirmed: int
    confirmations: int
    running: tuple[RunningTrial, ...]
    seconds_left: float | None

    @property
    def is_done(self) -> bool:
        return self.done == self.trials and self.confirmed == self.confirmations

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.line]
        if self.running:
            lines += _columns([_HEADS, *map(_cells, self.running)])
        return "\n".join(lines)

    @property
    def line(self) -> str:
        """How many trials and confirming runs are done, and what is left."""
        return f"{self.name}: {', '.join(self._facts())}"

    def _facts(self) -> list[str]:
        facts = [f"{self.done} of {self.trials} trials"]
        if self.confirmations:
            at_most = "" if self.done == self.trials else "at most "
            facts.append(f"{self.confirmed} of {at_most}{self.confirmations} confirming runs")
        if self.is_done:
            return [*facts, "done"]
        facts.append(f"{sum(trial.lives for trial in self.running)} running")
        if self.seconds_left is not None:
            facts.append(f"about {spell_seconds(self.seconds_left)} left")
        return facts


def read_status(url: str, names: Collection[str] = ()) -> list[SearchStatus]:
    """Where the searches of a database stand: those that are named, or all that are ours.

    Raises:
        InputError: no such search, one that was not started, or a database that cannot be read.
    """
    with using(url) as storage:
        known = [search.study_name for search in storage.get_all_studies()]
        wanted = names or [name for name in sorted(known) if not name.endswith(CONFIRM_SUFFIX)]
        searches = [SearchRecord(load_study(storage, name, url)) for name in wanted]
        ours = [search for search in searches if names or search.is_ours]
        return [_status(search, storage, WorkerLock(url)) for search in ours]


def spell_seconds(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = int(seconds)
    for unit, large, small, part in (("d", 86400, 3600, "h"), ("h", 3600, 60, "min")):
        if whole >= large:
            return f"{whole // large} {unit} {whole % large // small} {part}"
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


_HEADS = ("host", "worker", "search", "trial", "slot", "epochs", "since", "last sign of life")


@reads_search
def _status(search: SearchRecord, storage: WaitingStorage, lock: WorkerLock) -> SearchStatus:
    config, trials = search.config, search.trials()
    confirmation = load_confirmation(storage, search.name)
    reruns = confirmation.trials() if confirmation else Trials()
    now = standing(trials, empty_slots(config, trials))
    if now.done == now.slots:
        slots = confirm_slots(config, trials, search.identity)
        again = standing(reruns, slots)
        confirmed, confirmations = again.done, again.slots
    else:
        confirmed, confirmations = 0, config.budget.runs - config.budget.trials
    running = [
        *_running(search, trials, storage, lock),
        *(_running(confirmation, reruns, storage, lock) if confirmation else ()),
    ]
    left = now.slots - now.done + confirmations - confirmed
    return SearchStatus(
        search.name,
        now.done,
        now.slots,
        confirmed,
        confirmations,
        tuple(running),
        _seconds_left([*trials, *reruns], [trial for trial in running if trial.lives], left),
    )


def _running(
    search: SearchRecord, trials: Trials, storage: WaitingStorage, lock: WorkerLock
) -> list[RunningTrial]:
    running = trials.running
    if not running:
        return []
    living = lock.living({trial.worker for trial in running if trial.worker})
    silences = storage.read_silences(search_id(search.handle))
    return [_row(trial, living, silences) for trial in running]


def _row(
    trial: TrialRecord, living: Collection[str], silences: Mapping[int, float]
) -> RunningTrial:
    seconds = (datetime.now() - trial.started).total_seconds() if trial.started else 0.0
    return RunningTrial(
        search=trial.search,
        trial=trial.number,
        slot=trial.slot,
        worker=trial.worker,
        host=host_of(trial.worker) if trial.worker else None,
        lives=trial.worker in living,
        epochs=trial.epochs or 0,
        since=trial.started,
        seconds=max(0.0, seconds),
        silent=silences.get(trial.key),
    )


def _seconds_left(
    trials: Sequence[TrialRecord], running: Sequence[RunningTrial], left: int
) -> float | None:
    """Trials to come times their mean, less what the running ones have done, over the workers."""
    ended = sorted((t for t in trials if t.is_done and t.seconds), key=lambda t: str(t.ended))
    if not ended or not running:
        return None
    times = [t.seconds or 0.0 for t in ended[-LAST:]]
    mean = sum(times) / len(times)
    spent = sum(min(mean, trial.seconds) for trial in running)
    return max(0.0, left * mean - spent) / len(running)


def _cells(trial: RunningTrial) -> tuple[str, ...]:
    since = f"{trial.since:%Y-%m-%d %H:%M} ({spell_seconds(trial.seconds)})" if trial.since else ""
    sign = "" if trial.silent is None else f"{spell_seconds(trial.silent)} ago"
    if not trial.lives:
        sign = f"{sign}, its worker is gone".removeprefix(", ")
    facts = (trial.host, trial.worker, trial.search, trial.trial, trial.slot, trial.epochs)
    return (*("" if fact is None else str(fact) for fact in facts), since, sign)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
