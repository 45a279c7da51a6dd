"""records: a compact table that reads like a dict of records."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from mura_tune.data.records import Digests, Records
from mura_tune.imaging.images import Record

ZEROS_AT_THE_ENDS = "00" + "ab" * 30 + "00"


def sha(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


KINDS = {
    "a.png": Record(
        1234,
        1_790_000_000_123_456_789,
        sha("file a"),
        sha("pixels a"),
        "",
        1_790_000_000_987_654_321,
    ),
    "b.png": Record(-1, -1, "", "", "no such file"),
    "c.png": Record(0, 7, sha("file c"), "", "empty file"),
    "d.png": Record(2**40, -5, ZEROS_AT_THE_ENDS, ZEROS_AT_THE_ENDS, ""),
}


def records(**more: Record) -> Records:
    found = Records()
    for path, record in {**KINDS, **more}.items():
        found.add(path, record)
    return found


def test_every_kind_of_record_comes_back() -> None:
    found = records()
    assert dict(found) == KINDS
    assert [found.at(row) for row in range(4)] == [*KINDS.values()]
    assert list(found) == found.paths == [*KINDS]
    assert found.errors == {"b.png": "no such file", "c.png": "empty file"}
    assert list(found.file_sha) == [KINDS[path].file_sha for path in ("a.png", "d.png")]
    assert list(found.pixel_sha) == [KINDS[path].pixel_sha for path in ("a.png", "d.png")]
    assert "e.png" not in found
    assert found.get("e.png") is None


def test_what_is_added_after_a_look_is_found_too() -> None:
    found = records()
    before = found.file_sha
    assert "e.png" not in found
    found.add("e.png", Record(1, 2, sha("e"), sha("e"), ""))
    assert found["e.png"].pixel_sha == sha("e")
    assert [*found.file_sha] == [*before, sha("e")]


def test_no_records_are_no_rows() -> None:
    assert dict(Records()) == {}
    assert len(Records().pixel_sha) == 0
    assert Records().pixel_sha.find(sha(1)) is None


@pytest.mark.parametrize("text", ["ab", "ab" * 31, "ab" * 33, "xy" * 32])
def test_what_is_no_sha256_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sha256|hexadecimal"):
        Records().add("a.png", Record(1, 2, text, sha(1), ""))


def test_digests_are_found_by_their_first_row() -> None:
    texts = [ZEROS_AT_THE_ENDS, *(sha(i % 50) for i in range(120)), ""]
    found = Digests.of(texts)
    assert list(found) == texts
    assert [found.find(text) for text in texts] == [texts.index(text) for text in texts]
    assert found.find(sha("another")) is None
    assert list(found.take(np.array([3, 0]))) == [texts[3], texts[0]]


def test_a_record_takes_88_bytes_and_a_place_for_its_path() -> None:
    rows, paths = 3000, [f"train/XR_A/patient{i:05d}/study1/image1.png" for i in range(3000)]
    shas = [sha(i) for i in range(rows)]
    tracemalloc.start()
    found = Records()
    for i, path in enumerate(paths):
        found.add(path, Record(10**6 + i, 10**18 + i, shas[i], shas[-1 - i], ""))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.at(7).pixel_sha == shas[-8]
    assert kept < 120 * rows  # room to grow included; as objects in a dict it is about 600
