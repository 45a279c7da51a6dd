"""Ways to spoil a value, a document and its bytes, each decided by a random generator."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

# Values without a space, as a person, a program or an attacker may write them in YAML or JSON.
_WORDS = r"""
~ null true no 'no' 0 -0 1 -1 2 3.5 -2.5 0224 0x10 1_000 1:30 1e3 1e-3 1.0e-3 1e400 -1e400 1e-400
.nan .inf -.inf nan NaN Infinity -Infinity 4294967295 4294967296 9223372036854775808 1000000000
1e308 all none x '1' "5" 2020-13-45 2026-01-01 !x &a *a [*a] [] {} [1] [[1]] [a] {a:1} [ { ] } ' "
--- @x `x` # | > % , : ? - .. ../../up /etc/passwd a/b a\b C:\x ~root $HOME %s {0} resnet18.nope cnn
resnet81 hybrid- hybrid-nope imagenet bce focal plateau cosine é 骨 😀 ١٢ inf 1e5 1_ _1 +1 0.0 1e+3
"""
# The others, of which some are long, deep, or not to be shown by a terminal.
PHRASES = (
    *("", " ", "a b", "a: b: c", "a #b", "- a", "a\tb", "a\nb", "a\r\nb", "--- 1\n--- 2", "? [1]"),
    *("{a: 1}", "{1: 2}", "{a: 1, a: 2}", "{? [1] : 2}", "{<<: {a: 1}}", "%YAML 3.0", "[1, x]"),
    *("!!int x", "!!float 'x'", "!!bool x", "!!timestamp x", "!!binary aGVsbG8=", "!!set {a, b}"),
    *(
        "!!omap [a: 1]",
        "!!str 5",
        "!x y",
        "!!python/name:os.system",
        "&a b",
        "&a [*a]",
        "[&a x, *a]",
    ),
    *("9" * 30, "9" * 400, "9" * 5000, "0." + "0" * 500 + "1", "x" * 300, "y" * 100_000),
    *("[" * 100, "[" * 3000 + "]" * 3000, "{a: " * 100 + "1" + "}" * 100, "- " * 200),
    *("\x1b[31mred", "\x00", "\x07", "\u202eabc", "\u2028", "\udcff", "2026-01-01 10:00:00"),
)
AXES = (
    *("{low: 0, high: 1}", "{low: 0.1, high: 0.5}", "{low: 1, high: 3}", "{low: 1, high: 0}"),
    *("{low: 1, high: 4, log: true}", "{low: 0, high: 1, log: true}", "{high: all}", "{low: x}"),
    *(
        "{low: 0, high: 10, step: 0.5}",
        "{low: 0, high: 1, step: 0.3}",
        "{low: 0, high: 1, step: x}",
    ),
    *("{low: 0, high: 10000000}", "{low: 0, high: 1e12}", "{low: 0, high: 1, step: 1e-300}"),
    *("{low: 1, high: all, log: true}", "{low: 0, high: all}", "{step: true}", "{log: [1]}"),
    *("{choices: [0.0, 0.5]}", "{choices: [1, 2]}", "{choices: [cnn]}", "{choices: [a, 1]}"),
    *("{choices: []}", "{choices: 5}", "{choices: [[1]]}", "{choices: [null]}"),
    "{low: 0, high: 1, choices: [0]}",
)
LITERALS = (*_WORDS.split(), *PHRASES, *AXES)

# What spoils documents that are built as values before they are written.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.5, 1e308, -1e308, 5e-324, 2**63, 10**30, 10**400),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "x", "0", "nan", "../up", "/etc/passwd"),
    *("a/b", "\x1b[31m", "a\nb", "\x00", "\u202e", "é", "\ud800", "x" * 300, "y" * 100_000),
    *("cnn", "resnet18", "resnet18.nope", "part", "multitask"),
    *([], {}, [0], [[]], {"a": 1}, {"": None}, [None] * 1000),
)


def literal(random: Random) -> str:
    """A nasty value as text; now and then two of them run together."""
    text = random.choice(LITERALS)
    if random.random() < 0.1:
        text = splice(random, text, random.choice(LITERALS))
    return text


def alike(random: Random, usual: Any) -> str:
    """A value of the same type, which may well do, as text."""
    if isinstance(usual, bool):
        return random.choice(("true", "false"))
    if isinstance(usual, int):
        return random.choice(("0", "1", "2", "3", "5", "8", "32", "64", "100", "1000"))
    if isinstance(usual, float):
        return random.choice(("0.0", "0.1", "0.25", "0.5", "1", "1.0", "2", "1e-4", "1.0e-3"))
    return random.choice((str(usual), str(usual), "cnn", "none", "focal", "sgd", "kappa", "all"))


def value(random: Random) -> Any:
    """A nasty value; a list or mapping may be deep."""
    made = copy.deepcopy(random.choice(VALUES))
    if random.random() < 0.05:
        for _ in range(random.choice((3, 60, 100, 600))):
            made = [made] if random.random() < 0.5 else {"a": made}
    return made


def spoiled(random: Random, document: Any) -> Any:
    """A copy of nested lists and mappings with one to three places changed."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        place = _somewhere(random, document)
        if place is None:
            return value(random)
        holder, key = place
        random.choice(_CHANGES)(random, holder, key)
    return document


def spoiled_text(random: Random, text: str) -> bytes:
    """A text with a line or some bytes changed, or in another encoding."""
    if random.random() < 0.1:
        return text.encode(random.choice(("utf-16", "utf-8-sig", "utf-32", "utf-7")), "replace")
    if random.random() < 0.5:
        return _lines_changed(random, text).encode("utf-8", "surrogatepass")
    return _bytes_changed(random, text.encode("utf-8", "surrogatepass"))


def splice(random: Random, text: str, piece: str) -> str:
    """A text with a piece put in somewhere, over some of it or not."""
    at = random.randrange(len(text) + 1)
    return text[:at] + piece + text[at + random.choice((0, 0, 1, 5)) :]


def _somewhere(random: Random, document: Any) -> tuple[Any, Any] | None:
    """A random place in nested lists and mappings: what holds it, and its key or index."""
    places: list[tuple[Any, Any]] = []
    level = [document]
    while level:
        holder = level.pop()
        keys: Sequence[Any] = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(len(holder))
        places += [(holder, key) for key in keys]
        level += [holder[key] for key in keys]
    return random.choice(places) if places else None


def _delete(random: Random, holder: Any, key: Any) -> None:
    del holder[key]


def _replace(random: Random, holder: Any, key: Any) -> None:
    holder[key] = value(random)


def _repeat(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[random.choice((f"{key}2", "", "schema", "\x1b", key.upper()))] = holder[key]


def _rename(random: Random, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[splice(random, key, random.choice("x_. é\n"))] = holder.pop(key)


def _wrap(random: Random, holder: Any, key: Any) -> None:
    holder[key] = random.choice(([holder[key]], {"value": holder[key]}, str(holder[key])))


def _scale(random: Random, holder: Any, key: Any) -> None:
    """Another number of the same type."""
    if isinstance(holder[key], int | float):
        holder[key] *= random.choice((-1, 0, 2, 10**6, 10**20))


def _swap(random: Random, holder: Any, key: Any) -> None:
    other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    holder[key], holder[other] = holder[other], holder[key]


_CHANGES: tuple[Callable[[Random, Any, Any], None], ...] = (
    *(_delete, _replace, _replace, _replace, _repeat, _rename, _wrap, _scale, _swap),
)


def _lines_changed(random: Random, text: str) -> str:
    lines = text.splitlines(keepends=True) or [""]
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(lines))
        match random.randrange(6):
            case 0:
                lines[at] = ""
            case 1:
                lines.insert(at, lines[random.randrange(len(lines))])
            case 2:
                lines[at] = "  " + lines[at]
            case 3:
                lines[at] = splice(random, lines[at], literal(random))
            case 4:  # another value in the place of the last number or word
                piece = literal(random).replace("\\", "\\\\")
                lines[at] = re.sub(r"[\w.+-]+(?=\W*$)", piece, lines[at], count=1)
            case _:
                other = random.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
    return "".join(lines)


def _bytes_changed(random: Random, content: bytes) -> bytes:
    spoilt = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(spoilt) + 1)
        match random.randrange(5):
            case 0:
                spoilt[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                del spoilt[at : at + random.choice((1, 2, 40))]
            case 2:
                spoilt[at:at] = random.choice(
                    (b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\t", b'"')
                )
            case 3:
                spoilt[at:at] = spoilt[at : at + random.choice((1, 10, 200))]
            case _:
                del spoilt[at:]
    return bytes(spoilt)


def as_json(document: Any) -> str:
    """JSON as Python writes it, NaN and all."""
    return json.dumps(document, indent=2)
