"""Strict reading: plain values from JSON and YAML, and dataclasses from plain values.

Plain values are text, numbers, true, false, null, lists and mappings. Every error names the key,
and what to write instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import reprlib
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from mura_tune.errors import InputError

TYPE_NAMES: Mapping[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}

NOT_STORED = {"stored": False}  # metadata of a dataclass field that plain values never hold

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3


def check_value(ok: bool, key: str, value: object, rule: str) -> None:
    """Raise ValueError unless `ok`: the message has the key, its value and the rule for it."""
    if not ok:
        raise ValueError(f"{key} is {show_value(value)}; it must be {rule}")


def build_dataclass(cls: type, raw: Any, where: str) -> Any:
    """Build a dataclass from a mapping of plain values.

    Raises:
        ValueError: an unknown key, a missing key, or a value of another type than declared; the
            message begins with the dotted path of the key, which begins with `where`.
    """
    check_value(isinstance(raw, Mapping), where or "it", raw, "a mapping of names to values")
    fields = {f.name: f for f in stored_fields(cls)}
    hints = field_types(cls)
    for name in raw:
        if name not in fields:
            below = [join_path(where, path) for path in _paths_below(cls) if _last(path) == name]
            meant = f"; did you mean {' or '.join(below)}?" if below else ""
            meant = meant or suggest_name(str(name), list(fields))
            raise ValueError(f"unknown key {join_path(where, name)}{meant}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise ValueError(f"{join_path(where, name)} is missing")
    values = {name: convert(hints[name], raw[name], join_path(where, name)) for name in raw}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(join_path(where, error)) from None


def _paths_below(cls: type) -> Iterator[str]:
    """The dotted paths of the fields of the dataclasses that a dataclass holds."""
    for name, kind in field_types(cls).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from (join_path(name, f.name) for f in stored_fields(kind))
            yield from (join_path(name, path) for path in _paths_below(kind))


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def stored_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that plain values hold: those without `NOT_STORED`."""
    return [f for f in dataclasses.fields(cls) if f.metadata.get("stored", True)]


@functools.cache
def field_types(cls: type) -> Mapping[str, Any]:
    """Return the declared type of each field of a dataclass."""
    return get_type_hints(cls)


def convert(kind: Any, value: Any, where: str) -> Any:
    """Convert a plain value to the type that a dataclass declares for it.

    Types are dataclasses, mappings of text to one type, tuples of one type, alternatives, and
    int, float, str, bool and None. A whole number serves as a float; nothing else is changed.

    Raises:
        ValueError: a value of another type, or a number beyond the largest float.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build_dataclass(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        check_value(isinstance(value, list | tuple), where, value, "a list of values")
        return tuple(convert(inner[0], item, where) for item in value)
    if origin in (Union, types.UnionType):
        return _alternative(inner, value, where)
    if origin is not None:
        check_value(isinstance(value, Mapping), where, value, "a mapping of names to values")
        return {str(k): convert(inner[1], v, join_path(where, k)) for k, v in value.items()}
    check_value(_is(kind, value), where, value, f"{TYPE_NAMES[kind]}{suggest_number(kind, value)}")
    return kind(value)


def _alternative(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return the value as the first of the alternative types that fits it."""
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        if get_origin(kind) is not None:  # `tuple[X, ...] | None`: the one alternative to null
            return convert(kind, value, where)
        if type(value) is kind and _is(kind, value):
            return value
    known = [
        TYPE_NAMES[kind] for kind in kinds if kind in TYPE_NAMES and (kind, float) != (int, float)
    ]
    raise ValueError(f"{where} is {show_value(value)}; it must be {' or '.join(known)}")


def _is(kind: type, value: object) -> bool:
    """Return whether a plain value may stand where this scalar type is declared."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, int | float) and _finite(value)
    return isinstance(value, kind)


def _finite(number: float) -> bool:
    if isinstance(number, int):
        return abs(number) <= sys.float_info.max
    return math.isfinite(number)


def suggest_number(kind: type, value: object) -> str:
    """Return the end of a message: how to write a number that stands as text or as a float."""
    try:
        number = float(value) if isinstance(value, str | float) else math.nan
    except ValueError:
        return ""
    if kind is int and number.is_integer() and abs(number) < 2**53:
        return f": write {int(number)}"
    return f": write {number!r}" if kind is float and math.isfinite(number) else ""


def show_value(value: object) -> str:
    """Return a value for a message: as Python writes it, cut where it is long or deep."""
    return _short.repr(value)


def suggest_name(name: str, known: list[str]) -> str:
    """Return the end of a message: the known name nearest to a misspelt one, or all of them."""
    match = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known: {', '.join(sorted(known))}"


def join_path(where: str, name: object) -> str:
    """Return the dotted path of a key below the path `where`, which may be empty."""
    return f"{where}.{name}" if where else str(name)


def flatten(tree: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Every value of a nested mapping by its dotted path, which begins with `where`."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        path = join_path(where, name)
        values |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return values


MOST_LEVELS = 64  # levels of lists and mappings; no document of ours has more than eight
MOST_DIGITS = 100  # of a whole number
JSON_BYTES = 64 * 2**20  # largest document that is read; a bundle.json has some 20 kB
YAML_BYTES = 2**20  # largest file that a person writes; a study has some 3 kB

# Scalars without quotes that are a number, true, false or null. As PyYAML reads them, but
# `1e-3` is a number, as in JSON and YAML 1.2, and `0224` and `1:30` are text, not 148 and 90.
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9]+[eE][-+]?[0-9]+"
)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    word: value
    for words, value in (
        ("~ null", None),
        ("true yes on", True),
        ("false no off", False),
    )
    for plain in words.split()
    for word in (plain, plain.capitalize(), plain.upper())
} | {"": None}


def parse_json(text: str | bytes, source: object, *, most: int = JSON_BYTES) -> Any:
    """Parse one JSON document in UTF-8.

    Raises:
        InputError: not JSON, a name that stands twice, a number that is not finite or has over
            100 digits, more than 64 levels, or more than `most` bytes. `source` opens the message.
    """
    if len(text) > most:
        raise InputError(f"{source}: not valid JSON: larger than {most // 2**20} MiB")
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(
            decoded,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_whole,
            parse_float=_finite_number,
        )
    except RecursionError:
        raise InputError(f"{source}: not valid JSON: nested too deeply") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: not valid JSON: not UTF-8") from None
    except ValueError as error:  # JSONDecodeError among them
        raise InputError(f"{source}: not valid JSON: {error}") from None
    if _depth(value) > MOST_LEVELS:
        raise InputError(f"{source}: not valid JSON: more than {MOST_LEVELS} levels deep")
    return value


def parse_yaml(text: str | bytes, source: object) -> Any:
    """Parse one YAML document in UTF-8; an empty one is None.

    Names are text. Values are text, numbers, true, false and null, in lists and mappings; tags,
    anchors and aliases are refused, so that no document is larger than its text.

    Raises:
        InputError: not YAML, a name that stands twice, a number that is not finite or has over
            100 digits, more than 64 levels, or more than 1 MiB. `source` opens the message.
    """
    import yaml

    if len(text) > YAML_BYTES:
        raise InputError(f"{source}: not valid YAML: larger than {YAML_BYTES // 2**20} MiB")
    try:
        decoded = text.encode() if isinstance(text, str) else text
        decoded.decode("utf-8")
    except UnicodeError:
        raise InputError(f"{source}: not valid YAML: not UTF-8; save it as UTF-8") from None
    try:
        return _Document(decoded).value()
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace(' in "<byte string>"', "").split())
        raise InputError(f"{source}: not valid YAML: {reason}") from None
    except ValueError as error:
        raise InputError(f"{source}: not valid YAML: {error}") from None


class _Document:
    """A YAML document as a stream of events, from which plain values alone are made."""

    def __init__(self, text: bytes) -> None:
        import yaml  # what only prints help does without it

        self._yaml = yaml
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C reads ten times as fast
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=loader))

    def value(self) -> Any:
        """Return the value of the one document. Raises ValueError for other than plain values."""
        value, documents = None, 0
        for event in self._events:
            if isinstance(event, self._yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise ValueError(f"{_line(event)}: another document begins; write one")
                value = self._value(next(self._events), 0)
        return value

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, self._yaml.AliasEvent) or event.anchor is not None:
            raise ValueError(
                f"{_line(event)}: anchors (&) and aliases (*) are not read; "
                "write the value out, or put it in quotes"
            )
        if event.tag is not None:
            raise ValueError(
                f"{_line(event)}: tags (!) are not read; leave it out, or put the value in quotes"
            )
        if isinstance(event, self._yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if depth == MOST_LEVELS:
            raise ValueError(f"{_line(event)}: more than {MOST_LEVELS} levels deep")
        if isinstance(event, self._yaml.SequenceStartEvent):
            return [self._value(item, depth + 1) for item in self._until("SequenceEndEvent")]
        return self._mapping(depth + 1)

    def _mapping(self, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for event in self._until("MappingEndEvent"):
            if not isinstance(event, self._yaml.ScalarEvent):
                raise ValueError(f"{_line(event)}: a name must be text")
            self._value(event, depth)  # refuses a tag or an anchor
            name = event.value
            if name in mapping:
                raise ValueError(f"{_line(event)}: {name[:80]!r} stands twice in one mapping")
            mapping[name] = self._value(next(self._events), depth)
        return mapping

    def _until(self, end: str) -> Iterator[Any]:
        """Yield events up to the end of the list or mapping that has begun."""
        for event in self._events:
            if isinstance(event, getattr(self._yaml, end)):
                return
            yield event


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def _scalar(text: str) -> Any:
    """Return the value that a scalar without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text):
        return _whole(text)
    if _FLOAT.fullmatch(text):
        return _finite_number(text.replace("_", ""))
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise ValueError(f"{name!r} stands twice in one object")
        mapping[name] = value
    return mapping


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the largest number")
    return value


def _depth(value: Any) -> int:
    """Count the levels of lists and mappings, without recursion."""
    deepest, level = 0, [value]
    while level:
        inner = [v for v in level if isinstance(v, (list, dict))]
        deepest += bool(inner)
        level = [w for v in inner for w in (v.values() if isinstance(v, dict) else v)]
    return deepest
