"""Trials as Optuna stores them, read and stored with few statements.

Optuna's own reader makes an object of every row, 120,000 of them for 10,000 trials, and asks for a
running trial's tables one by one. Its writer takes a transaction for each value. A statement costs
half a millisecond of a worker's processor, and to wait for its answer costs as much again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Enum,
    Float,
    Integer,
    Select,
    String,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from mura_tune.database.optuna_private import (
    NOT_FOUND,
    SCORE_TYPES,
    TABLES,
    TRIAL_TABLES,
    VALUE_TYPES,
    facts_by_table,
    plain_score,
    plain_value,
    stored_score,
    stored_value,
)

AT_ONCE = 1_000  # keys in one statement: SQLite takes some 32,000
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)

_SEARCHES, _TRIALS, _BEATS = (TABLES[name] for name in ("studies", "trials", "trial_heartbeats"))
_IS_OPEN = or_(*(_TRIALS.c.state == state for state in UNFINISHED))
_PARAMS, _SCORES, _STEPS, _SHOWN, _HIDDEN = TRIAL_TABLES
# Of the tables whose rows belong to a trial: the columns that hold a whole number, a word, a number
# and a text. A trial has one row for each of the first, or for each word where that is None.
_COLUMNS: Mapping[str, tuple[str | None, str, str | None, str | None]] = {
    _PARAMS: (None, "param_name", "param_value", "distribution_json"),
    _SCORES: ("objective", "value_type", "value", None),
    _STEPS: ("step", "intermediate_value_type", "intermediate_value", None),
    _SHOWN: (None, "key", None, "value_json"),
    _HIDDEN: (None, "key", None, "value_json"),
}
_TYPES = (Integer, String, Float, Text)
Row = tuple[int | None, Any, float | None, str | None]


def read_search(connection: Connection, search: int, after: int = -1) -> list[FrozenTrial]:
    """The trials of a search, by its key, in the order of their keys.

    Args:
        after: only those with a higher key.

    Raises:
        KeyError: there is no such search.
    """
    if connection.execute(_FIND_SEARCH, {"search": search}).first() is None:
        raise KeyError(NOT_FOUND)
    return _read(connection, _OF_SEARCH, {"search": search, "after": after})


def read_trials(connection: Connection, keys: Iterable[int]) -> list[FrozenTrial]:
    """Some trials, by their keys and in the order of them.

    Raises:
        KeyError: one of them is not there.
    """
    ordered, trials = sorted(keys), []
    for first in range(0, len(ordered), AT_ONCE):
        trials += _read(connection, _BY_KEY, {"keys": ordered[first : first + AT_ONCE]})
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
    bound = {"search": search, "first": min(first, newest + 1), "newest": newest}
    rows = connection.execute(_READ_OPEN, bound)
    return {state: {*map(int, keys.split(","))} for state, keys in rows}


def add_trial(connection: Connection, search: int, trial: FrozenTrial) -> tuple[int, int]:
    """Add a trial to a search, by its key. Within a transaction; returns its key and its number.

    As Optuna does it, this locks the search's row: no other program numbers a trial meanwhile.

    Raises:
        KeyError: there is no such search.
        ValueError: the search has values of another kind under a name of the trial's.
    """
    if connection.execute(_LOCK_SEARCH, {"search": search}).first() is None:
        raise KeyError(NOT_FOUND)
    for name, axis in trial.distributions.items():
        check_axis(connection, search, name, axis)
    bound = {
        "search": search,
        "new_state": trial.state,
        "start": _utc(trial.datetime_start),
        "complete": _utc(trial.datetime_complete),
    }
    if connection.dialect.insert_returning:
        key, number = connection.execute(_ADD_TRIAL.returning(*_KEY_AND_NUMBER), bound).one()
    else:  # SQLite before 3.35
        own_key = _TRIALS.c.trial_id == connection.execute(_ADD_TRIAL, bound).lastrowid
        key, number = connection.execute(select(*_KEY_AND_NUMBER).where(own_key)).one()
    for name, rows in _rows(trial).items():
        _insert(connection, name, key, rows)
    return key, number


def store_rows(connection: Connection, key: int, trial: FrozenTrial) -> None:
    """Store what `trial` holds with the trial of a key. Within a transaction.

    Raises:
        KeyError: there is no such trial.
        UpdateFinishedTrialError: it has ended.
    """
    for name, rows in _rows(trial).items():
        if not rows:
            continue
        bound = [_bound(name, key, row, "new_") for row in rows]
        statement = _upsert(name, connection.dialect.name)
        counted = {"preserve_rowcount": True}
        if connection.execute(statement, bound, execution_options=counted).rowcount < len(rows):
            _refuse_ended(connection, key)


def store_state(
    connection: Connection, key: int, state: TrialState, scores: Sequence[float]
) -> bool:
    """Store the state of a trial that has not ended, and its scores. Within a transaction.

    Returns:
        False for a trial that should begin, and has begun already.

    Raises:
        KeyError: there is no such trial.
        UpdateFinishedTrialError: it has ended.
    """
    begins = state == TrialState.RUNNING
    changed: dict[str, Any] = {"state": state}
    if begins or state.is_finished():
        changed["datetime_start" if begins else "datetime_complete"] = _utc(datetime.now())
    may_change = _TRIALS.c.state == TrialState.WAITING if begins else _IS_OPEN
    statement = update(_TRIALS).where(_TRIALS.c.trial_id == key, may_change).values(changed)
    if not connection.execute(statement).rowcount:
        _refuse_ended(connection, key)
        return False
    _insert(connection, _SCORES, key, _score_rows(scores))
    return True


def store_beat(connection: Connection, key: int) -> None:
    """Store a sign of life of a trial."""
    statement = _insert_into(_BEATS, connection.dialect.name)
    statement = statement.values(trial_id=key, heartbeat=func.now())
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["trial_id"], set_={"heartbeat": statement.excluded.heartbeat}
        )
    )


def check_axis(connection: Connection, search: int, name: str, axis: BaseDistribution) -> None:
    """Raise ValueError if a search has values of another kind under a name."""
    params = TABLES[_PARAMS]
    query = select(params.c.distribution_json).select_from(_joined(params))
    query = query.where(_TRIALS.c.study_id == search, params.c.param_name == name).limit(1)
    text = connection.execute(query).scalar()
    if text is not None:
        check_distribution_compatibility(_distribution(text), axis)


class _Reads(NamedTuple):
    """What reads the trials that a condition on their table holds for.

    Attributes:
        trials: their own rows.
        rows: those of all other tables, in columns that they share: the table, the row's own key,
            the trial's key, and what `_COLUMNS` names.
    """

    trials: Select[Any]
    rows: CompoundSelect[Any]


def _read(connection: Connection, reads: _Reads, bound: Mapping[str, Any]) -> list[FrozenTrial]:
    """Some trials, with two statements.

    A trial's own row comes first: one that it calls finished has all its other rows by then.
    """
    trials = {
        key: FrozenTrial(
            number, state, None, _local(began), _local(ended), {}, {}, {}, {}, {}, trial_id=key
        )
        for key, number, state, began, ended in connection.execute(reads.trials, bound)
    }
    if not trials:
        return []
    scores: dict[int, dict[int, float]] = {}
    for table, _, key, number, word, value, text in connection.execute(reads.rows, bound):
        trial = trials.get(key)
        if trial is None:
            continue  # it is newer
        match table:
            case "trial_params":
                axis = _distribution(text)
                trial.params[word] = axis.to_external_repr(value)
                trial.distributions[word] = axis
            case "trial_values":
                scores.setdefault(key, {})[number] = plain_score(value, SCORE_TYPES[word])
            case "trial_intermediate_values":
                trial.intermediate_values[number] = plain_value(value, VALUE_TYPES[word])
            case _:
                facts_by_table(trial)[table][word] = json.loads(text)
    for key, by_place in scores.items():
        trials[key].values = [by_place[place] for place in sorted(by_place)]
    return list(trials.values())


def _reads(which: ColumnElement[bool]) -> _Reads:
    columns = ("trial_id", "number", "state", "datetime_start", "datetime_complete")
    trials = select(*(_TRIALS.c[name] for name in columns)).where(which)
    rows = union_all(*(_rows_of_table(name, which) for name in _COLUMNS))
    return _Reads(trials.order_by("trial_id"), rows.order_by("own_key"))


def _rows_of_table(name: str, which: ColumnElement[bool]) -> Select[Any]:
    table = TABLES[name]
    (own_key,) = table.primary_key
    cells: list[ColumnElement[Any]] = []
    for column, cell_type in zip(_COLUMNS[name], _TYPES, strict=True):
        cell = null() if column is None else table.c[column]
        of_kind = column is not None and not isinstance(cell.type, Enum)
        cells.append(cell if of_kind else cast(cell, cell_type))
    columns = (literal_column(f"'{name}'"), own_key.label("own_key"), table.c.trial_id, *cells)
    return select(*columns).select_from(_joined(table)).where(which)


def _rows(trial: FrozenTrial) -> dict[str, list[Row]]:
    """What a trial holds, as rows of each table."""
    rows: dict[str, list[Row]] = {
        _PARAMS: [
            (None, name, axis.to_internal_repr(trial.params[name]), distribution_to_json(axis))
            for name, axis in trial.distributions.items()
        ],
        _SCORES: _score_rows(trial.values or ()),
        _STEPS: [
            (step, kind, value, None)
            for step, (value, kind) in (
                (step, stored_value(value)) for step, value in trial.intermediate_values.items()
            )
        ],
    }
    for table, facts in facts_by_table(trial).items():
        rows[table] = [(None, key, None, json.dumps(fact)) for key, fact in facts.items()]
    return rows


def _score_rows(scores: Sequence[float]) -> list[Row]:
    return [
        (place, kind, value, None)
        for place, (value, kind) in enumerate(stored_score(score) for score in scores)
    ]


def _insert(connection: Connection, name: str, key: int, rows: Sequence[Row]) -> None:
    """Add rows of a table to a new trial, or to one that has just changed its state."""
    if rows:
        connection.execute(insert(TABLES[name]), [_bound(name, key, row) for row in rows])


def _bound(name: str, key: int, row: Row, prefix: str = "") -> dict[str, Any]:
    cells = zip(_COLUMNS[name], row, strict=True)
    named = {f"{prefix}{column}": cell for column, cell in cells if column is not None}
    return {f"{prefix}trial_id": key, **named}


@functools.cache
def _upsert(name: str, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Add a row to a trial that has not ended, or change the one that is there."""
    table = TABLES[name]
    columns = ["trial_id", *(column for column in _COLUMNS[name] if column is not None)]
    unique = ["trial_id", next(column for column in _COLUMNS[name] if column is not None)]
    cells = (bindparam(f"new_{column}", type_=table.c[column].type) for column in columns)
    source = select(*cells).select_from(_TRIALS)
    source = source.where(_TRIALS.c.trial_id == bindparam("new_trial_id"), _IS_OPEN)
    statement = _insert_into(table, dialect).from_select(columns, source)
    return statement.on_conflict_do_update(
        index_elements=unique,
        set_={name: statement.excluded[name] for name in columns if name not in unique},
    )


def _insert_into(table: Table, dialect: str) -> postgresql.Insert | sqlite.Insert:
    """An insertion into a table that may say what happens where a row is there."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _refuse_ended(connection: Connection, key: int) -> None:
    """Raise unless a trial is there and has not ended."""
    query = select(_TRIALS.c.number, _TRIALS.c.state).where(_TRIALS.c.trial_id == key)
    row = connection.execute(query).first()
    if row is None:
        raise KeyError(NOT_FOUND)
    number, state = row
    if state.is_finished():
        raise UpdateFinishedTrialError(f"trial {number} has ended; nothing is stored in it")


@functools.lru_cache(maxsize=1_000)  # the trials of a search have some ten between them
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _joined(table: Table) -> Any:
    return table.join(_TRIALS, table.c.trial_id == _TRIALS.c.trial_id)


def _local(stored: datetime | None) -> datetime | None:
    """A time as Optuna stores it, in UTC, as it gives it: by this machine's zone."""
    if stored is None:
        return None
    return stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _utc(local: datetime | None) -> datetime | None:
    """A time by this machine's zone, as Optuna stores it."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


# Statements are made once: to make one takes as long as its execution.
_OF_ONE_SEARCH = _TRIALS.c.study_id == bindparam("search")
_OF_SEARCH = _reads(and_(_OF_ONE_SEARCH, _TRIALS.c.trial_id > bindparam("after")))
_BY_KEY = _reads(_TRIALS.c.trial_id.in_(bindparam("keys", expanding=True)))
_FIND_SEARCH = select(_SEARCHES.c.study_id).where(_SEARCHES.c.study_id == bindparam("search"))
_LOCK_SEARCH = _FIND_SEARCH.with_for_update()
_READ_OPEN = (
    select(_TRIALS.c.state, func.aggregate_strings(cast(_TRIALS.c.trial_id, String), ","))
    .where(_OF_ONE_SEARCH, _TRIALS.c.trial_id >= bindparam("first"))
    .where(or_(_TRIALS.c.trial_id > bindparam("newest"), _IS_OPEN))
    .group_by(_TRIALS.c.state)
)
_KEY_AND_NUMBER = (_TRIALS.c.trial_id, _TRIALS.c.number)
_ADD_TRIAL = insert(_TRIALS).values(
    study_id=bindparam("search"),
    state=bindparam("new_state"),
    number=select(func.count()).where(_OF_ONE_SEARCH).scalar_subquery(),
    datetime_start=bindparam("start"),
    datetime_complete=bindparam("complete"),
)
