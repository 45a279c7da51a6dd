"""Dataclasses from plain values, strictly: every refusal names the key and the way out."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints


def check(ok: bool, what: str, value: object, wanted: str) -> None:
    """Raise ValueError that tells the value and what it must be, unless `ok`."""
    if not ok:
        raise ValueError(f"{what} is {value!r}; it must be {wanted}")


def build(cls: type, raw: Any, where: str) -> Any:
    """A dataclass from plain values: no unknown key, none missing, each of the declared type."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where} is {raw!r}; it must be a mapping of names to values")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    for name in raw:
        if name not in fields:
            raise ValueError(f"unknown key {_join(where, name)}{nearest(str(name), list(fields))}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise ValueError(f"{_join(where, name)} is missing")
    values = {name: _convert(hints[name], raw[name], _join(where, name)) for name in raw}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(_join(where, str(error))) from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    if get_origin(kind) is not None and dataclasses.is_dataclass(get_args(kind)[-1]):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r}; it must be a mapping of names to values")
        return {k: build(get_args(kind)[-1], v, _join(where, str(k))) for k, v in value.items()}
    if kind in (int, float, str):
        right = isinstance(value, (int, float) if kind is float else kind)
        if not right or isinstance(value, bool):
            name = {int: "a whole number", float: "a number", str: "text"}[kind]
            raise ValueError(f"{where} is {value!r}; it must be {name}{hint(value)}")
        return kind(value)
    return tuple(value) if isinstance(value, list) else value


def hint(value: object) -> str:
    """YAML reads `1e-3` as text: say how to write it."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        return ""
    if number is None:
        return ""
    mantissa, _, exponent = str(value).lower().partition("e")
    return f": write {mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent or 0):+d}"


def nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(sorted(known))}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else str(name)
