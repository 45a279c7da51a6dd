"""Dataclasses from plain values, strictly: every refusal names the key and the way out."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import reprlib
import sys
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

NAMES: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3


def check(ok: bool, key: str, value: object, wanted: str) -> None:
    """Raise ValueError that tells the key's value and what it must be, unless `ok`."""
    if not ok:
        raise ValueError(f"{key} is {shown(value)}; it must be {wanted}")


def build(cls: type, raw: Any, where: str) -> Any:
    """A dataclass from plain values: no unknown key, none missing, each of the declared type.

    Raises:
        ValueError: anything else, with the dotted path of the key, which begins with `where`.
    """
    check(isinstance(raw, Mapping), where or "it", raw, "a mapping of names to values")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = types_of(cls)
    for name in raw:
        if name not in fields:
            raise ValueError(f"unknown key {dotted(where, name)}{nearest(str(name), list(fields))}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise ValueError(f"{dotted(where, name)} is missing")
    values = {name: convert(hints[name], raw[name], dotted(where, name)) for name in raw}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(dotted(where, error)) from None


@functools.cache
def types_of(cls: type) -> Mapping[str, Any]:
    """The declared type of each field of a dataclass."""
    return get_type_hints(cls)


def convert(kind: Any, value: Any, where: str) -> Any:
    """A plain value as the type that a dataclass declares for it.

    Types are dataclasses, mappings of text to one type, tuples of one type, alternatives, and
    int, float, str, bool and None. A whole number serves as a float; nothing else is changed.

    Raises:
        ValueError: a value of another type, or a number beyond the largest float.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        check(isinstance(value, list | tuple), where, value, "a list of values")
        return tuple(convert(inner[0], one, where) for one in value)
    if origin in (Union, types.UnionType):
        return _alternative(inner, value, where)
    if origin is not None:
        check(isinstance(value, Mapping), where, value, "a mapping of names to values")
        return {str(k): convert(inner[1], v, dotted(where, k)) for k, v in value.items()}
    check(_is(kind, value), where, value, f"{NAMES[kind]}{hint(kind, value)}")
    return kind(value)


def _alternative(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first of the types that it has."""
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        if get_origin(kind) is not None:  # `tuple[X, ...] | None`: the one alternative to null
            return convert(kind, value, where)
        if type(value) is kind and _is(kind, value):
            return value
    known = [NAMES[kind] for kind in kinds if kind in NAMES and (kind, float) != (int, float)]
    raise ValueError(f"{where} is {shown(value)}; it must be {' or '.join(known)}")


def _is(kind: type, value: object) -> bool:
    """Whether a plain value may stand where this scalar type is declared."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and _finite(value)
    return isinstance(value, kind)


def _finite(number: float) -> bool:
    if isinstance(number, int):
        return abs(number) <= sys.float_info.max
    return math.isfinite(number)


def hint(kind: type, value: object) -> str:
    """How to write a number that is written otherwise: `224` for `0224`, `'224'` or `224.0`."""
    try:
        number = float(value) if isinstance(value, str | float) else math.nan
    except ValueError:
        return ""
    if kind is int and number.is_integer() and abs(number) < 2**53:
        return f": write {int(number)}"
    return f": write {number!r}" if kind is float and math.isfinite(number) else ""


def shown(value: object) -> str:
    """A value for a message: as Python writes it, cut where it is long or deep."""
    return _short.repr(value)


def nearest(name: str, known: list[str]) -> str:
    """What a misspelt name may mean, or all that is known, as the end of a message."""
    match = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(sorted(known))}"


def dotted(where: str, name: object) -> str:
    """The dotted path of a key below the path `where`, which may be empty."""
    return f"{where}.{name}" if where else str(name)
