"""Bodies of requests: what is read, and what is refused before it is read."""

import contextlib
import io
import random
from typing import Any

import pytest
from rooms import BOUNDARY, form

from mura_tune.room import requests
from mura_tune.room.requests import RefusedRequest, Upload, read_form, read_json

KIND = f"multipart/form-data; boundary={BOUNDARY}"


class Slow(io.BytesIO):
    """Gives a few bytes at a time, and counts them."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self.most, self.given = most, 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0, "a read without an end waits for a client that sends no more"
        chunk = super().read(min(size, self.most))
        self.given += len(chunk)
        return chunk


def environ(body: bytes, kind: str = KIND, most: int = 1000, **more: str) -> dict[str, Any]:
    return {
        "CONTENT_TYPE": kind,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": Slow(body, most),
        **more,
    }


def refusal(request: dict[str, Any]) -> int:
    with pytest.raises(RefusedRequest) as refused:
        read_form(request)
    assert refused.value.reason
    assert "\n" not in refused.value.reason
    return refused.value.status


@pytest.mark.parametrize("most", [1, 7, 64, 10**6])
def test_files_and_fields_come_out_as_they_went_in(most: int) -> None:
    tricky = b"\r\n--" + BOUNDARY.encode()[:-1] + b"x\r\n--\r\n\r\n\0\xff" * 3
    files = [("a/1.png", tricky), ("Ärm/b c.png", b"")]
    found = read_form(environ(form(files, area="auto", group="one"), most=most))
    assert found.fields == {"area": "auto", "group": "one"}
    assert [(upload.name, upload.content) for upload in found.uploads] == files


def test_a_form_without_a_chosen_file_has_none() -> None:
    assert read_form(environ(form([("", b"")]))).uploads == ()


def test_names_are_text_that_prints() -> None:
    found = read_form(environ(form([('<img src=x onerror="a">.png', b"1")])))
    # a quote ends the name, as RFC 7578 has it; browsers write %22
    assert [upload.name for upload in found.uploads] == ["<img src=x onerror="]
    found = read_form(environ(form([("a%22b%0Ac\x1b[31m.png", b"1")])))
    assert [upload.name for upload in found.uploads] == ['a"b\\nc\\x1b[31m.png']


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../b.png", "a//b.png", "a\\b", "a\0b", "x" * 501]
)
def test_a_name_that_is_no_path_below_is_refused(name: str) -> None:
    assert refusal(environ(form([(name, b"1")]))) == 400


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"CONTENT_LENGTH": ""}, 411),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": "-1"}, 400),
        ({"CONTENT_LENGTH": "1e3"}, 400),
        ({"CONTENT_LENGTH": str(2**31)}, 413),
        ({"CONTENT_LENGTH": "9" * 30}, 400),
        ({"CONTENT_TYPE": "application/json"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data; boundary=\r\nx"}, 415),
        ({"CONTENT_TYPE": "multipart/form-data; boundary=é"}, 415),
    ],
)
def test_what_is_no_form_is_refused_before_a_byte_of_it_is_read(
    changes: dict[str, str], status: int
) -> None:
    request = environ(form([("a.png", b"1")]), **changes)
    assert refusal(request) == status
    assert request["wsgi.input"].given == 0


WHOLE = form([("a.png", b"12345")], area="auto")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        WHOLE[:-10],
        WHOLE[: WHOLE.index(b"12345") + 2],
        WHOLE.replace(b"form-data", b"attachment"),
        WHOLE.replace(b' name="file";', b""),
        WHOLE.replace(b"auto", b"a" * 5000),
        WHOLE.replace(b"filename", b"x" * 9000 + b"=1; filename"),
        WHOLE.replace(
            b"\r\n--" + BOUNDARY.encode() + b"\r\n", b"\r\n--" + BOUNDARY.encode() + b"?!"
        ),
    ],
)
def test_a_malformed_form_is_refused(body: bytes) -> None:
    assert refusal(environ(body)) == 400


def test_a_form_that_ends_early_is_refused_and_waits_for_nothing() -> None:
    request = environ(WHOLE)
    request["CONTENT_LENGTH"] = str(len(WHOLE) + 1000)  # announced, and never sent
    assert refusal(request) == 400


def test_ten_thousand_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    body = form([(f"{number}.png", b"1") for number in range(10_000)])
    request = environ(body, most=2**18)
    assert refusal(request) == 413
    assert request["wsgi.input"].given < len(body)
    assert refusal(environ(form([], **{f"f{number}": "" for number in range(9)}))) == 413
    monkeypatch.setattr(requests, "MOST_FILES", 2)
    assert len(read_form(environ(form([("a", b"1"), ("b", b"1")]))).uploads) == 2


def test_a_form_that_anything_was_done_to_is_read_or_refused() -> None:
    """Bytes changed, cut out, put in and cut off: nothing else is raised, and nothing waits."""
    whole = form([("a/1.png", bytes(range(256))), ("b.dcm", b"\0" * 50)], area="auto", group="one")
    mark = b"--" + BOUNDARY.encode()
    pieces = [b"\r\n", b"\r\n\r\n", mark, b"\r\n" + mark, b'filename="', b'"', b";", b"\0", b"\xff"]
    chance = random.Random(0)
    read = 0
    for _ in range(1000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(body))
            change = chance.randrange(4)
            if change == 0:
                body[at] = chance.randrange(256)
            elif change == 1:
                del body[at + 1 : at + chance.randrange(2, 40)]
            elif change == 2:
                body[at:at] = chance.choice(pieces)
            else:
                del body[at + 1 :]
        with contextlib.suppress(RefusedRequest):
            read_form(environ(bytes(body)))
            read += 1
    assert 0 < read < 1000


def test_json_is_an_object_of_few_bytes() -> None:
    def status(body: bytes, kind: str = "application/json") -> int:
        with pytest.raises(RefusedRequest) as refused:
            read_json(environ(body, kind))
        return refused.value.status

    assert read_json(environ(b'{"area": "auto"}', "application/json")) == {"area": "auto"}
    assert status(b"[1]") == status(b"{") == status(b"[" * 4000) == status(b"\xff") == 400
    assert status(b"{" + b" " * 5000 + b"}") == 413
    assert status(b"{}", "text/plain") == 415  # a form of another site may send that


def test_a_file_is_held_once() -> None:
    assert Upload("a", b"1") != Upload("a", b"1")
    assert "content" not in repr(Upload("a", b"1"))  # no patient's pixels in a traceback
