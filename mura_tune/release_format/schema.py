"""Entries of a JSON document as frozen dataclasses that check what they are read from.

An entry declares each field with its type and its form: a function that takes a plain JSON value
and its dotted path, and gives the field's value or raises ValueError. So the table of what
may stand in a document is the dataclass itself:

    class EpochEntry(Entry):
        number: Annotated[int, whole(1)]
        score: Annotated[float, number(-1, 1)]
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self, dataclass_transform, get_type_hints

from mura_tune.errors import InputError
from mura_tune.metrics.estimates import Estimate
from mura_tune.strict import check_value, join_path
from mura_tune.text import check_name

_LARGEST = 10**9  # of counts
_LONGEST = 10_000  # characters of a text
_FILE = re.compile(r"[A-Za-z0-9][\w.-]{0,99}\.safetensors", re.ASCII)

Form = Callable[[Any, str], Any]  # of a plain value and its dotted path; raises ValueError


@dataclass(frozen=True)
class Key:
    """The name of a field in JSON, where its attribute has another one."""

    name: str


class Mark:
    """A property of a field that stands beside its form."""


LATER = Mark()  # older versions did not write it: it may be absent, and `missing` names it
NULL = Mark()  # None is written as null; without this mark an optional field is left out
FLAT = Mark()  # its form reads the entry's own mapping, among whose keys the value's keys stand


@dataclass(frozen=True)
class _Field:
    """What `Entry` has to know of one of its fields."""

    name: str
    key: str
    form: Form
    required: bool
    marks: frozenset[Mark]


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False)
class Entry:
    """A mapping with known names; every subclass is a frozen dataclass.

    A field without a default is required, or marked LATER. To read a LATER field that is absent
    raises InputError. A field with a default of None stands only in some documents.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True, kw_only=True, eq=False, repr=False)(cls)

    @classmethod
    def parse(cls, value: Any, where: str = "") -> Self:
        """The entry that a plain value stands for; keys that no field has are passed over.

        Raises:
            ValueError: a key that is missing, or a value that cannot be, by its path below `where`.
        """
        check_value(
            isinstance(value, Mapping), where or "it", value, "a mapping of names to values"
        )
        fields = _fields(cls)
        for field in fields:
            if field.required and field.key not in value:
                raise ValueError(f"{join_path(where, field.key)} is missing")
        present = {}
        for field in fields:
            if FLAT in field.marks:
                present[field.name] = field.form(value, where)
            elif field.key in value:
                present[field.name] = field.form(value[field.key], join_path(where, field.key))
        entry = cls.partial(**present)
        entry.check_agreement(where)
        return entry

    @classmethod
    def partial(cls, **values: Any) -> Self:
        """An entry of some fields, unchecked; those that are left out are absent."""
        entry = object.__new__(cls)
        entry.__dict__.update(values)
        return entry

    def changed(self, **values: Any) -> Self:
        """A copy with other values of some fields; what is absent here stays absent."""
        return self.partial(**{**self.__dict__, **values})

    def check_agreement(self, where: str) -> None:
        """Raise ValueError where values that are right by themselves do not belong together."""

    def has(self, name: str) -> bool:
        """Whether a field is there and is not None."""
        return self.__dict__.get(name) is not None

    def to_json(self) -> dict[str, Any]:
        """The mapping that `parse` reads: plain values under their keys, in the fields' order."""
        plain: dict[str, Any] = {}
        for field in _fields(type(self)):
            if field.name not in self.__dict__:
                continue
            value = self.__dict__[field.name]
            if FLAT in field.marks:
                plain |= to_plain(value)
            elif value is not None or field.required or field.marks & {LATER, NULL}:
                plain[field.key] = to_plain(value)
        return plain

    def missing(self, where: str = "") -> Iterator[str]:
        """Dotted paths of LATER fields that are absent, here and below."""
        for field in _fields(type(self)):
            value = self.__dict__.get(field.name)
            if isinstance(value, Entry):
                yield from value.missing(join_path(where, field.key))
            elif LATER in field.marks and field.name not in self.__dict__:
                yield join_path(where, field.key)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(type(self))  # fields may be mappings, which have no hash

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"

    if not TYPE_CHECKING:  # a type checker would take every attribute for one of Any

        def __getattr__(self, name: str) -> Any:
            """Called for an attribute that is not there, such as a LATER field."""
            for field in dataclasses.fields(self):
                if field.name == name:
                    raise InputError(
                        f"{type(self).__name__}: lacks {name}, which an older version did not "
                        "store; run 'mura finalize' again"
                    )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_KNOWN: dict[type[Entry], tuple[_Field, ...]] = {}  # what `_fields` has worked out


def _fields(cls: type[Entry]) -> tuple[_Field, ...]:
    """The fields of an entry, as their annotations declare them."""
    if cls not in _KNOWN:
        _KNOWN[cls] = tuple(_resolved(cls))
    return _KNOWN[cls]


def _resolved(cls: type[Entry]) -> Iterator[_Field]:
    hints = get_type_hints(cls, include_extras=True)
    subclass: Any = cls  # a dataclass, which mypy cannot see: `__init_subclass__` makes it one
    for field in dataclasses.fields(subclass):
        hint = hints[field.name]
        metadata = getattr(hint, "__metadata__", ())  # of Annotated; a bare entry reads itself
        (form,) = [item for item in metadata if not isinstance(item, Key | Mark)] or [hint.parse]
        marks = frozenset(item for item in metadata if isinstance(item, Mark))
        (key,) = [item.name for item in metadata if isinstance(item, Key)] or [field.name]
        required = field.default is dataclasses.MISSING and not marks & {LATER, FLAT}
        yield _Field(field.name, key, form, required, marks)


def to_plain(value: Any) -> Any:
    """A field's value as JSON has it."""
    if isinstance(value, Entry | Estimate):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value


def _check_mapping(value: Any, where: str) -> None:
    check_value(isinstance(value, Mapping), where, value, "a mapping of names to values")


def number(low: float = -1e9, high: float = 1e9) -> Form:
    """A finite number within bounds."""

    def form(value: Any, where: str) -> float:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        inside = real and math.isfinite(value) and low <= value <= high
        check_value(inside, where, value, f"a number from {low:g} to {high:g}")
        checked: float = value  # a whole number stays one
        return checked

    return form


def whole(low: int = 0, high: int = _LARGEST) -> Form:
    """A whole number within bounds."""

    def form(value: Any, where: str) -> int:
        inside = type(value) is int and low <= value <= high
        check_value(inside, where, value, f"a whole number from {low} to {high}")
        return int(value)

    return form


def text(value: Any, where: str) -> str:
    """Text that can be written in UTF-8."""
    right = isinstance(value, str) and len(value) <= _LONGEST
    check_value(right and not re.search("[\ud800-\udfff]", value), where, value, "text")
    return str(value)


def one_of(*choices: str) -> Form:
    """One of a few texts."""

    def form(value: Any, where: str) -> str:
        check_value(value in choices, where, value, f"one of: {', '.join(choices)}")
        return str(value)

    return form


def flag(value: Any, where: str) -> bool:
    """True or false."""
    check_value(isinstance(value, bool), where, value, "true or false")
    return bool(value)


def area_name(value: Any, where: str) -> str:
    """The name of an area, or of what stands for several."""
    text(value, where)
    try:
        check_name(value, where)
    except InputError as error:
        raise ValueError(str(error)) from None
    return str(value)


def weights_file(value: Any, where: str) -> str:
    """The name of a file of weights in the release's own folder."""
    right = isinstance(value, str) and _FILE.fullmatch(value) is not None
    check_value(right, where, value, "the name of a .safetensors file")
    return str(value)


def tree(value: Any, where: str) -> Mapping[str, Any]:
    """Nested mappings of plain values, as a recipe or a configuration is stored."""
    _check_mapping(value, where)
    for key, inner in value.items():
        path = f"{where}.{key}"
        if isinstance(inner, Mapping):
            tree(inner, path)
            continue
        for leaf in inner if isinstance(inner, list) else [inner]:
            check_value(not isinstance(leaf, list | dict), path, inner, "plain values")
            if isinstance(leaf, str):
                text(leaf, path)
    return dict(value)


def estimate(value: Any, where: str) -> Estimate:
    """An estimate between -1 and 1 with its interval; one without a value has no ends."""
    return _read_estimate(_EstimateEntry.parse(value, where), value, where)


def real_estimate(value: Any, where: str) -> Estimate:
    """The same of any numbers."""
    return _read_estimate(_RealEstimateEntry.parse(value, where), value, where)


def _read_estimate(fields: _EstimateEntry, value: Any, where: str) -> Estimate:
    ends = (fields.low, fields.high)
    if fields.value is not None:
        check_value(None not in ends, where, value, "a value with both ends")
    counts = {"studies": 0, "patients": 0} | fields.to_json()
    middle, low, high = (
        math.nan if number_ is None else number_ for number_ in (fields.value, *ends)
    )
    return Estimate(middle, low, high, counts["studies"], counts["patients"], fields.images)


def estimates(names: Iterable[str], later: Iterable[str] = ()) -> Form:
    """Estimates by name, all of them required but `later` ones, which older versions did not write;
    other names are passed over."""
    known, optional = tuple(names), frozenset(later)

    def form(value: Any, where: str) -> Mapping[str, Estimate]:
        check_value(
            isinstance(value, Mapping), where or "it", value, "a mapping of names to values"
        )
        for key in known:
            if key not in value and key not in optional:
                raise ValueError(f"{join_path(where, key)} is missing")
        present = (key for key in known if key in value)
        return {key: estimate(value[key], join_path(where, key)) for key in present}

    return form


def maybe(inner: Form) -> Form:
    """A value, or null."""
    return lambda value, where: None if value is None else inner(value, where)


def each(inner: Form, *, least: int = 0, most: int = _LARGEST) -> Form:
    """A list of values of one form, as a tuple."""

    def form(value: Any, where: str) -> tuple[Any, ...]:
        right = isinstance(value, list) and least <= len(value) <= most
        check_value(right, where, value, f"a list of {least} or more")
        return tuple(inner(item, f"{where}[{index}]") for index, item in enumerate(value))

    return form


def named(inner: Form, *, least: int = 0) -> Form:
    """A mapping from any names to values of one form."""

    def form(value: Any, where: str) -> Mapping[str, Any]:
        right = isinstance(value, Mapping) and len(value) >= least
        check_value(right, where, value, f"a mapping of {least} names or more to values")
        values = {}
        for key, item in value.items():
            text(key, f"a name in {where}")
            values[key] = inner(item, f"{where}.{key}")
        return values

    return form


class _EstimateEntry(Entry):
    value: Annotated[float | None, maybe(number(-1, 1))]
    low: Annotated[float | None, maybe(number(-1, 1))]
    high: Annotated[float | None, maybe(number(-1, 1))]
    studies: Annotated[int, whole(), LATER]
    patients: Annotated[int, whole(), LATER]
    images: Annotated[int | None, whole()] = None


class _RealEstimateEntry(_EstimateEntry):
    value: Annotated[float | None, maybe(number())]
    low: Annotated[float | None, maybe(number())]
    high: Annotated[float | None, maybe(number())]


MOST_AREAS = 999  # more than any dataset has
SHARE = number(0, 1)


def area_names(least: int = 1) -> Form:
    """A list of names of areas."""
    return each(area_name, least=least, most=MOST_AREAS)
