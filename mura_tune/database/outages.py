"""Outages of a database: which are waited out, and how one that lasts is told.

Another program may hold SQLite's write lock, a PostgreSQL server may restart, a disk may be full.
None of these says anything about the trial that meets it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, bindparam, func, select
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from mura_tune import console
from mura_tune.database.optuna_private import STORAGE_CALLS, TABLES, TrialStorage
from mura_tune.database.refusals import decoded, is_locked, reason_of, refusal
from mura_tune.database.trial_rows import (
    add_trial,
    check_axis,
    read_open,
    read_search,
    read_trials,
    store_beat,
    store_rows,
    store_state,
)
from mura_tune.database.urls import database, hide_passwords
from mura_tune.errors import InputError

_LOG = logging.getLogger(__name__)
_Returned = TypeVar("_Returned")
PATIENCE = 300.0  # seconds that a search waits for its database, beside SQLite's own 60
PAUSES = (0.2, 5.0)  # seconds from one try to the next: the first, and the longest
# SQLSTATE classes of PostgreSQL that time does not mend: wrong password, no such database, no room.
LASTING = ("28", "3D", "53")
CROWDED = "53300"  # too many connections: some will end


class Outage(InputError, StorageInternalError):
    """The database cannot be read or written. Says which one, why, and what to do.

    It is also what Optuna calls such an error, so that nothing takes it for a trial's own.
    """


@dataclass
class Patience:
    """How long one process waits for the database at `url`, measured from an outage's start."""

    url: str = field(repr=False)
    seconds: float
    _began: float | None = None
    _told: bool = False
    _pause: float = PAUSES[0]

    def call(self, attempt: Callable[[], _Returned]) -> _Returned:
        """What `attempt` returns, tried again for as long as the database is out of reach.

        Raises:
            Outage: it still is when patience ends, or for a reason that time does not mend.
        """
        while True:
            try:
                result = attempt()
            except (Outage, DataError):
                raise
            except (SQLAlchemyError, StorageInternalError) as error:
                self._wait(error)
            else:
                self._began, self._told, self._pause = None, False, PAUSES[0]
                return result

    def _wait(self, error: Exception) -> None:
        """Until the next try. Raises Outage where there is none."""
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if isinstance(cause, DataError):
            raise error
        now = time.monotonic()
        if self._began is None:
            self._began = now
            if _is_dropped(cause):
                return  # another connection is made at once: to look before each use takes longer
        if not self._told and passes(cause) and self.seconds:
            self._told = True
            console.print_note(
                f"{database(self.url)}: out of reach "
                f"({hide_passwords(self.url, reason_of(error))}); waiting up to "
                f"{self.seconds:.0f} s"
            )
        if not passes(cause) or now - self._began >= self.seconds:
            self.seconds = 0.0  # whoever is told leaves, and must not wait as long again for that
            raise Outage(str(refusal(self.url, error))) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, PAUSES[1])


_TRIALS, _BEATS = TABLES["trials"], TABLES["trial_heartbeats"]
_OLDEST_BEAT = (
    select(func.min(_BEATS.c.heartbeat), func.now())
    .join(_TRIALS, _BEATS.c.trial_id == _TRIALS.c.trial_id)
    .where(_TRIALS.c.study_id == bindparam("search"), _TRIALS.c.state == TrialState.RUNNING)
)


class WaitingStorage(TrialStorage):
    """Optuna's storage, whose every call waits while the database is out of reach.

    Attributes:
        on_heartbeat: called with every sign of life of a running trial, in that one's thread. It
            may return a connection to store it on, which nobody else uses while the trial runs.
    """

    _head_version: ClassVar[str | None] = None

    def __init__(self, url: str, patience: float, **options: Any) -> None:
        self.patience = Patience(url, patience)
        self.on_heartbeat: Callable[[], Connection | None] = lambda: None
        super().__init__(url, **options)

    def get_head_version(self) -> str:
        """As Optuna has it, found once a process: it is found by running all its migrations."""
        if WaitingStorage._head_version is None:
            WaitingStorage._head_version = super().get_head_version()
        return WaitingStorage._head_version

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna has it. A try may have been stored although its connection was lost then: a
        trial that is in the wanted state after a failed try was brought there by that one."""
        tried = False

        def store(connection: Connection) -> bool:
            nonlocal tried
            if tried and read_trials(connection, [trial_id])[0].state == state:
                return True
            tried = True
            return store_state(connection, trial_id, state, values or ())

        return self._transact(store)

    def add_trial(self, study_id: int, trial: FrozenTrial) -> tuple[int, int]:
        """Add a trial to a search; returns its key and its number."""
        # One that is stored twice leaves one that nobody runs, which `slots` takes for lost.
        return self._transact(lambda connection: add_trial(connection, study_id, trial))

    def check_axis(self, study_id: int, name: str, axis: BaseDistribution) -> None:
        """Raise ValueError if a search has values of another kind under a name."""
        self._transact(lambda connection: check_axis(connection, study_id, name, axis))

    def store_rows(self, trial_id: int, trial: FrozenTrial) -> None:
        """Store what `trial` holds with a trial that has not ended: all of it, or nothing.

        Raises:
            KeyError: there is no such trial.
            UpdateFinishedTrialError: it has ended.
        """
        self._transact(lambda connection: store_rows(connection, trial_id, trial))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna has it."""
        return self.read_trials([trial_id])[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """As Optuna has it: those after a key, and some before."""
        after = trial_id_greater_than
        before = [key for key in included_trial_ids if key <= after]
        trials = self.read_trials(before) if before else []
        trials += self._query(lambda connection: read_search(connection, study_id, after))
        return [trial for trial in trials if states is None or trial.state in states]

    def read_trials(self, keys: Iterable[int]) -> list[FrozenTrial]:
        """Some trials, by their keys and in the order of them.

        Raises:
            KeyError: one of them is not there.
        """
        keys = [*keys]
        return self._query(lambda connection: read_trials(connection, keys))

    def read_open(self, study_id: int, first: int, newest: int) -> dict[TrialState, set[int]]:
        """See `trial_rows.read_open`."""
        return self._query(lambda connection: read_open(connection, study_id, first, newest))

    def read_silences(self, study_id: int) -> dict[int, float]:
        """Seconds since the last heartbeat of each running trial of a search, by its key."""
        query = (
            select(_TRIALS.c.trial_id, _BEATS.c.heartbeat, func.now())
            .join(_BEATS, _BEATS.c.trial_id == _TRIALS.c.trial_id)
            .where(_TRIALS.c.study_id == study_id, _TRIALS.c.state == TrialState.RUNNING)
        )
        rows = self._query(lambda connection: connection.execute(query).all())
        return {key: (now.replace(tzinfo=None) - beat).total_seconds() for key, beat, now in rows}

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Keys of the running trials whose heartbeat is older than the grace period.

        Optuna's own reads every running trial whole. Here the oldest heartbeat comes first.
        """
        grace = self.grace_period or 0
        bound = {"search": study_id}
        beat, now = self._query(lambda connection: connection.execute(_OLDEST_BEAT, bound).one())
        if beat is None or (now.replace(tzinfo=None) - beat).total_seconds() <= grace:
            return []
        return [key for key, silent in self.read_silences(study_id).items() if silent > grace]

    def _query(self, read: Callable[[Connection], _Returned]) -> _Returned:
        """What is read on a connection. Rows that nobody could read are told as damage."""

        def attempt() -> _Returned:
            with self._alone.connect() as connection:
                return read(connection)

        with decoded(self.patience.url):
            return self.patience.call(attempt)

    def _transact(self, store: Callable[[Connection], _Returned]) -> _Returned:
        """What a function returns that runs within a transaction. Storing twice is storing once."""

        def attempt() -> _Returned:
            with self.engine.begin() as connection:
                return store(connection)

        return self.patience.call(attempt)

    @functools.cached_property
    def _alone(self) -> Engine:
        """Of connections on which each statement stands alone. A transaction of PostgreSQL's takes
        two statements more; SQLite has none around what is read."""
        if self.engine.name == "sqlite":
            return self.engine
        return self.engine.execution_options(isolation_level="AUTOCOMMIT")

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; one that cannot be stored is left out, and the next one tried."""
        try:
            if (connection := self.on_heartbeat()) is not None:
                store_beat(connection, trial_id)
                return
            with self.engine.begin() as connection:
                store_beat(connection, trial_id)
        except Exception as error:
            # Optuna's thread ends by an error of any kind, and sends no sign of life any more:
            # others would take the trial for lost while it runs. The next beat says what this one
            # could not.
            _LOG.debug("trial %d: no sign of life: %s", trial_id, type(error).__name__)


def _waiting(name: str) -> Callable[..., Any]:
    """The storage's method `name`, tried again during an outage. Storing twice is storing once.

    One that only reads tells rows that Optuna cannot read as damage of the database.
    """
    guard = decoded if name.startswith("get_") else contextlib.nullcontext

    @functools.wraps(getattr(RDBStorage, name))
    def method(self: WaitingStorage, *args: Any, **options: Any) -> Any:
        with guard(self.patience.url):
            return self.patience.call(lambda: getattr(RDBStorage, name)(self, *args, **options))

    return method


for _name in STORAGE_CALLS:
    setattr(WaitingStorage, _name, _waiting(_name))


def passes(error: BaseException | None) -> bool:
    """Whether time may mend it: another program's lock, a lost connection, a server's restart."""
    if not isinstance(error, DBAPIError):
        return False
    if _is_dropped(error):
        return True
    if isinstance(error.orig, sqlite3.Error):
        return is_locked(error.orig)
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    return state == CROWDED or not state.startswith(LASTING)


def _is_dropped(error: BaseException | None) -> bool:
    """Whether a connection was lost, by a restart of the server or a firewall."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
