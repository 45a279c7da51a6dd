"""Records: a compact table that reads like a dict; its file is written a record at a time."""

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mura_tune.data.records import Digests, Records, read_head, read_records, write_records
from mura_tune.imaging.images import Record

ABOUT = {"preprocessing": 1, "size": 16}
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


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_records(tmp_path / "manifest.json", ABOUT | {"pixels": "x.npy"}, records())
    return tmp_path / "manifest.json"


def test_what_was_written_is_read(file: Path) -> None:
    head, found = read_records(file, ABOUT, [])
    assert head == ABOUT | {"pixels": "x.npy"}
    assert dict(found) == KINDS
    assert list(file.parent.iterdir()) == [file]


def test_it_is_a_json_document(file: Path) -> None:
    told = json.loads(file.read_text())
    assert told["pixels"] == "x.npy"
    assert [path for path, *_ in told["images"]] == [*KINDS]


def test_paths_that_are_known_are_held_once(file: Path) -> None:
    known = ["".join([*path]) for path in KINDS]  # equal strings, not the same
    _, found = read_records(file, ABOUT, known)
    assert all(one is other for one, other in zip(found, known, strict=True))
    _, found = read_records(file, ABOUT, ["z.png", *known[1:3]])  # others, and fewer
    assert list(found) == [*KINDS]


def line(number: int, change: Callable[[str], str]) -> Callable[[str], str]:
    def changed(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines[number] = change(lines[number])
        return "".join(lines)

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[: len(text) // 2],
        lambda text: "".join(text.splitlines(keepends=True)[:-1]),
        lambda text: "".join(text.splitlines(keepends=True)[:3]),
        lambda text: text.removesuffix("\n") + "," + text,
        lambda text: json.dumps(json.loads(text), indent=0),  # as it was laid out before
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(json.loads(text)["images"]),
        line(0, lambda head: "[]\n"),
        line(0, lambda head: head.replace('"size": 16', '"size": 8')),
        line(0, lambda head: head.replace('"preprocessing": 1, ', "")),
        line(2, lambda row: "\n"),
        line(2, lambda row: "{}\n"),
        line(2, lambda row: '["b.png"],\n'),
        line(1, lambda row: row.replace("1234", '"1234"')),
        line(1, lambda row: row.replace(sha("file a"), sha("file a")[1:])),
        line(1, lambda row: row.replace(sha("pixels a"), "")),
    ],
)
def test_what_is_not_whole_is_no_manifest(file: Path, damage: Callable[[str], str]) -> None:
    before = file.read_text()
    file.write_text(damage(before))
    assert file.read_text() != before
    with pytest.raises(ValueError, match=r"manifest\.json: not a whole manifest"):
        read_records(file, ABOUT, KINDS)


def test_a_byte_that_changes_is_noticed_wherever_it_is(file: Path) -> None:
    whole = file.read_bytes()
    for at in range(0, len(whole), 7):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"manifest\.json: not a whole manifest"):
            read_records(file, ABOUT, KINDS)


def test_the_head_alone_is_read_without_the_records(file: Path) -> None:
    assert read_head(file, ABOUT) == ABOUT | {"pixels": "x.npy"}
    with pytest.raises(ValueError, match="about something else"):
        read_head(file, ABOUT | {"size": 8})


def test_reading_takes_the_records_alone(tmp_path: Path) -> None:
    rows = 3000
    paths = [f"train/XR_A/patient{i:05d}/study1/image1.png" for i in range(rows)]
    many = records(**{path: Record(10**6, 10**18, sha(path), sha(path), "") for path in paths})
    file = tmp_path / "manifest.json"
    tracemalloc.start()
    write_records(file, ABOUT, many)
    _, writing = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    _, found = read_records(file, ABOUT, [*KINDS, *paths])
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == rows + 4
    assert writing < 200_000  # buffers, whatever the number of rows
    assert reading - before < 200_000 + 110 * rows  # parsed as a whole it is above 1,300
