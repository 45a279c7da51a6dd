"""Outages of a database: which are waited out, and how one that lasts is told.

Another program may hold SQLite's write lock, a PostgreSQL server may restart, a disk may be full.
None of these says anything about the trial that meets it.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from mura_tune import console
from mura_tune.errors import InputError
from mura_tune.tuning.damage import decoded, is_locked, reason_of, refusal
from mura_tune.tuning.urls import database

PATIENCE = 300.0  # seconds that a search waits for its database, beside SQLite's own 60
PAUSES = (0.2, 5.0)  # seconds from one try to the next: the first, and the longest
# SQLSTATE classes of PostgreSQL that time does not mend: wrong password, no such database, no room.
LASTING = ("28", "3D", "53")
CROWDED = "53300"  # too many connections: some will end

T = TypeVar("T")


class Outage(InputError, StorageInternalError):
    """The database cannot be read or written. Says which one, why, and what to do.

    It is also what Optuna calls such an error, so that nothing takes it for a trial's own.
    """


@dataclass
class Patience:
    """How long one process waits for the database at `url`, measured from an outage's start."""

    url: str
    seconds: float
    _began: float | None = None
    _pause: float = PAUSES[0]

    def call(self, attempt: Callable[[], T]) -> T:
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
                self._began, self._pause = None, PAUSES[0]
                return result

    def _wait(self, error: Exception) -> None:
        """Until the next try. Raises Outage where there is none."""
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if isinstance(cause, DataError):
            raise error
        now = time.monotonic()
        if self._began is None:
            self._began = now
            if passes(cause) and self.seconds:
                console.note(
                    f"{database(self.url)}: out of reach ({reason_of(error)}); waiting up to "
                    f"{self.seconds:.0f} s"
                )
        if not passes(cause) or now - self._began >= self.seconds:
            self.seconds = 0.0  # whoever is told leaves, and must not wait as long again for that
            raise Outage(str(refusal(self.url, error))) from error
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, PAUSES[1])


class WaitingStorage(RDBStorage):
    """Optuna's storage, whose every call waits while the database is out of reach.

    Attributes:
        on_heartbeat: called with every sign of life of a running trial, in that one's thread.
    """

    def __init__(self, url: str, patience: float, **options: Any) -> None:
        self.patience = Patience(url, patience)
        self.on_heartbeat: Callable[[], None] | None = None
        super().__init__(url, **options)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """As Optuna has it. A try may have been stored although its connection was lost then: a
        trial that is in the wanted state after a failed try was brought there by that one."""
        tried = False

        def attempt() -> bool:
            nonlocal tried
            if tried and RDBStorage.get_trial(self, trial_id).state == state:
                return True
            tried = True
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)

        return self.patience.call(attempt)

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life; one that cannot be stored is left out, and the next one tried."""
        try:
            if self.on_heartbeat:
                self.on_heartbeat()
            super().record_heartbeat(trial_id)
        except Exception:  # this runs in a thread, which would end with a traceback and for good
            return


def _waiting(name: str) -> Callable[..., Any]:
    """The storage's method `name`, tried again during an outage. Storing twice is storing once.

    One that only reads tells rows that Optuna cannot read as damage of the database.
    """
    guard = decoded if name.startswith(("get_", "_get_trials")) else contextlib.nullcontext

    @functools.wraps(getattr(RDBStorage, name))
    def method(self: WaitingStorage, *args: Any, **options: Any) -> Any:
        with guard(self.patience.url):
            return self.patience.call(lambda: getattr(RDBStorage, name)(self, *args, **options))

    return method


# A new trial that is stored twice leaves one that nobody runs, which `slots` takes for lost.
for _name in (
    "_create_new_trial",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
    "_get_trials",
    "_set_trial_param",
    "create_new_study",
    "delete_study",
    "get_all_studies",
    "get_study_directions",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_system_attrs",
    "get_study_user_attrs",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "set_study_system_attr",
    "set_study_user_attr",
    "set_trial_intermediate_value",
    "set_trial_system_attr",
    "set_trial_user_attr",
):
    setattr(WaitingStorage, _name, _waiting(_name))


def passes(error: BaseException | None) -> bool:
    """Whether time may mend it: another program's lock, a lost connection, a server's restart."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return is_locked(error.orig)
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    state = getattr(error.orig, "sqlstate", None) or ""
    return state == CROWDED or not state.startswith(LASTING)
