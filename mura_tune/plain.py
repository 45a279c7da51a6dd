"""Plain values (text, numbers, lists, mappings) from text, strictly: nothing else, no surprise."""

from __future__ import annotations

import json
import math
from typing import Any

from mura_tune.errors import InputError

DEEPEST = 64  # levels of lists and mappings; nothing of ours has more than eight
DIGITS = 100  # of a whole number
JSON_BYTES = 64 * 2**20  # largest document that is read; a bundle.json has some 20 kB


def from_json(text: str | bytes, source: object, *, most: int = JSON_BYTES) -> Any:
    """The value of one JSON document in UTF-8.

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
            parse_float=_finite,
        )
    except RecursionError:
        raise InputError(f"{source}: not valid JSON: nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        raise InputError(f"{source}: not valid JSON: {error}") from None
    if _depth(value) > DEEPEST:
        raise InputError(f"{source}: not valid JSON: more than {DEEPEST} levels deep")
    return value


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
    if len(text) > DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the largest number")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and mappings, counted without recursion."""
    deepest, level = 0, [value]
    while level:
        inner = [v for v in level if isinstance(v, (list, dict))]
        deepest += bool(inner)
        level = [w for v in inner for w in (v.values() if isinstance(v, dict) else v)]
    return deepest
