"""Trials as Optuna stores them, read with one statement a table.

Optuna's own reader makes an object of every row, 120,000 of them for 10,000 trials, and asks for a
running trial's tables one by one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, String, Table, and_, cast, func, or_, select

from mura_tune.database.optuna_private import NOT_FOUND, TABLES, plain_score, plain_value

AT_ONCE = 1_000  # keys in one statement: SQLite takes some 32,000
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)

_SEARCHES, _TRIALS = TABLES["studies"], TABLES["trials"]


def read_search(connection: Connection, search: int, after: int = -1) -> list[FrozenTrial]:
    """The trials of a search, by its key, in the order of their keys.

    Args:
        after: only those with a higher key.

    Raises:
        KeyError: there is no such search.
    """
    if connection.execute(select(_SEARCHES.c.study_id).filter_by(study_id=search)).first() is None:
        raise KeyError(NOT_FOUND)
    return _read(connection, and_(_TRIALS.c.study_id == search, _TRIALS.c.trial_id > after))


def read_trials(connection: Connection, keys: Iterable[int]) -> list[FrozenTrial]:
    """Some trials, by their keys and in the order of them.

    Raises:
        KeyError: one of them is not there.
    """
    ordered, trials = sorted(keys), []
    for first in range(0, len(ordered), AT_ONCE):
        some = ordered[first : first + AT_ONCE]
        trials += _read(connection, _TRIALS.c.trial_id.in_(some))
    if len(trials) < len(ordered):
        raise KeyError(NOT_FOUND)
    return trials


def read_open(
    connection: Connection, search: int, first: int, newest: int
) -> dict[TrialState, set[int]]:
    """Keys of a search's trials, by state: of those after `newest`, and of unfinished ones.

    Args:
        first: no unfinished trial has a lower key.
    """
    keys = func.aggregate_strings(cast(_TRIALS.c.trial_id, String), ",")
    query = (
        select(_TRIALS.c.state, keys)
        .where(_TRIALS.c.study_id == search, _TRIALS.c.trial_id >= first)
        .where(or_(_TRIALS.c.trial_id > newest, _TRIALS.c.state.in_(UNFINISHED)))
        .group_by(_TRIALS.c.state)
    )
    return {state: {*map(int, each.split(","))} for state, each in connection.execute(query)}


def _read(connection: Connection, which: ColumnElement[bool]) -> list[FrozenTrial]:
    """The trials that a condition on their table holds for.

    A trial's own row comes first: one that it calls finished has all its other rows by then.
    """
    columns = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    query = select(*(_TRIALS.c[name] for name in columns)).where(which)
    trials = {
        key: FrozenTrial(
            number, state, None, _local(began), _local(ended), {}, {}, {}, {}, {}, trial_id=key
        )
        for key, number, state, began, ended in connection.execute(query.order_by("trial_id"))
    }

    def rows(table: str, *names: str) -> Iterator[tuple[FrozenTrial, Sequence[Any]]]:
        one = TABLES[table]
        found = connection.execute(_rows_of(one, which, names))
        return ((trials[row[0]], row) for row in found if row[0] in trials)  # else it is newer

    for trial, (_, name, value, text) in rows(
        "trial_params", "param_name", "param_value", "distribution_json"
    ):
        axis = _distribution(text)
        trial.params[name] = axis.to_external_repr(value)
        trial.distributions[name] = axis
    scores: dict[int, dict[int, float]] = {}
    for trial, (key, objective, value, kind) in rows(
        "trial_values", "objective", "value", "value_type"
    ):
        scores.setdefault(key, {})[objective] = plain_score(value, kind)
        trial.values = [scores[key][place] for place in sorted(scores[key])]
    for trial, (_, step, value, kind) in rows(
        "trial_intermediate_values", "step", "intermediate_value", "intermediate_value_type"
    ):
        trial.intermediate_values[step] = plain_value(value, kind)
    for trial, (_, name, text) in rows("trial_user_attributes", "key", "value_json"):
        trial.user_attrs[name] = json.loads(text)
    for trial, (_, name, text) in rows("trial_system_attributes", "key", "value_json"):
        trial.system_attrs[name] = json.loads(text)
    return list(trials.values())


def _rows_of(table: Table, which: ColumnElement[bool], names: Sequence[str]) -> Any:
    columns = [table.c[name] for name in ("trial_id", *names)]
    (own_key,) = table.primary_key
    joined = table.join(_TRIALS, table.c.trial_id == _TRIALS.c.trial_id)
    return select(*columns).select_from(joined).where(which).order_by(own_key)


@functools.lru_cache(maxsize=1_000)  # the trials of a search have some ten between them
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(stored: datetime | None) -> datetime | None:
    """A time as Optuna stores it, in UTC, as it gives it: by this machine's zone."""
    if stored is None:
        return None
    return stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
