"""JSON and YAML that are read strictly: each refusal is one line that names its source."""

import json

import pytest

from mura_tune import strict
from mura_tune.errors import InputError

REFUSED = ["", "{", "[1,]", "nan", "NaN", "[Infinity]", "-Infinity", "1e999", '{"a": 1, "a": 2}']
REFUSED += ["9" * 101, "[" * 3000 + "]" * 3000, "[" * 100_000, "[" * 70 + "]" * 70, "{} {}"]
REFUSED += [b"\xff\xfe{}", b'"\xed\xa0\x80"']


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_plain_json_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"^x\.json: not valid JSON: .") as refusal:
        strict.parse_json(text, "x.json")
    assert "\n" not in str(refusal.value)


def test_plain_values_come_back() -> None:
    value = {"a": [1, 2.5, "é", None, True, {"b": []}], "n": 10**99}
    assert strict.parse_json(json.dumps(value), "x") == value
    assert strict.parse_json(json.dumps(value).encode(), "x") == value


NO_YAML = {
    "tag": "a: !!int x",
    "own tag": "!x 5",
    "no tag": "! 5",
    "timestamp": "!!timestamp 2020-13-45",
    "binary": "!!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "python": "!!python/object:x.Y {}",
    "anchor": "a: &x 1",
    "alias": "[*x]",
    "laughs": "a: &a [x, x]\nb: [*a, *a]",
    "twice": "size: 64\nsize: 224",
    "list as a name": "? [1]\n: 2",
    "two documents": "--- 1\n--- 2",
    "nan": ".nan",
    "inf": "[-.inf]",
    "beyond": "1e999",
    "digits": "9" * 101,
    "open": "[",
    "tab": "\ta",
    "deep lists": "[" * 5000,
    "deep mappings": "{a: " * 100,
    "deep blocks": "- " * 100,
    "escape": "\x1b[31m",
    "null": "a\0",
    "UTF-16": "base: x".encode("utf-16"),
    "latin-1": b"a: \xe9",
    "surrogate": "a\udcff",
    "long": " " * (strict.YAML_BYTES + 1),
}


@pytest.mark.parametrize("text", NO_YAML.values(), ids=NO_YAML)
def test_what_is_no_plain_yaml_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"^x\.yaml: not valid YAML: .") as refusal:
        strict.parse_yaml(text, "x.yaml")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("a:", {"a": None}),
        ("''", ""),
        ("yes", True),
        ("Off", False),
        ("1_000", 1000),
        ("-0", 0),
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        (".5", 0.5),
        ("+1.", 1.0),
        ("'5'", "5"),
        ("0224", "0224"),
        ("1:30", "1:30"),
        ("0x10", "0x10"),
        ("nan", "nan"),
        ("2026-01-01", "2026-01-01"),
        ("5: 1", {"5": 1}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
        ("{a: [1, {b: c}]}", {"a": [1, {"b": "c"}]}),
        (b"\xef\xbb\xbfa: \xc3\xa9", {"a": "é"}),
        ("k: |\n  two\n  lines\n", {"k": "two\nlines\n"}),
    ],
)
def test_what_yaml_stands_for(text: str | bytes, value: object) -> None:
    read = strict.parse_yaml(text, "x.yaml")
    assert read == value
    assert type(read) is type(value)


def test_a_tree_is_flattened_to_dotted_paths() -> None:
    tree = {"a": 1, "b": {"c": {"d": [2, {"e": 3}]}, "f": None}, "g": {}}
    assert strict.flatten(tree) == {"a": 1, "b.c.d": [2, {"e": 3}], "b.f": None}
    assert strict.flatten({"x": 1}, "recipe") == {"recipe.x": 1}
