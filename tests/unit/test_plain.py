"""JSON that is read strictly: each refusal is one line that names its source."""

import json

import pytest

from mura_tune import plain
from mura_tune.errors import InputError

REFUSED = ["", "{", "[1,]", "nan", "NaN", "[Infinity]", "-Infinity", "1e999", '{"a": 1, "a": 2}']
REFUSED += ["9" * 101, "[" * 3000 + "]" * 3000, "[" * 100_000, "[" * 70 + "]" * 70, "{} {}"]
REFUSED += [b"\xff\xfe{}", b'"\xed\xa0\x80"']


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_plain_json_is_refused_by_name(text: str | bytes) -> None:
    with pytest.raises(InputError, match=r"^x\.json: not valid JSON: .") as refusal:
        plain.from_json(text, "x.json")
    assert "\n" not in str(refusal.value)


def test_plain_values_come_back() -> None:
    value = {"a": [1, 2.5, "é", None, True, {"b": []}], "n": 10**99}
    assert plain.from_json(json.dumps(value), "x") == value
    assert plain.from_json(json.dumps(value).encode(), "x") == value
