"""Fetching from servers that cut, lie, dawdle and vanish: whole and checked, or not at all."""

import hashlib
import io
import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran
from PIL import Image
from serving import Answer, raw_server

from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.reading.fetch import fetch_release, is_fetched
from mura_tune.reading.locate import locate_release
from mura_tune.release_format import checksums
from mura_tune.transfer.connection import Redirects, normalise_url
from mura_tune.transfer.download import DownloadLimits

IMPATIENT = DownloadLimits(timeout=5, tries=2, pause=0.01)


class Server(ThreadingHTTPServer):
    """Serves a folder as /there/…, as badly as it is told.

    Attributes:
        asked: file names in the order they were asked for, with the byte to start from.
        cut: bytes after which a connection is closed; ranges: whether it can go on from one.
        claim: added to the length that it announces.
        pause, silence: seconds between its pieces, and before each answer but the sums.
        wrong: a file whose last byte it changes; status: what it answers with.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, int]] = []
        self.cut, self.ranges, self.claim = 10**9, True, 0
        self.pause, self.silence = 0.0, 0.0
        self.wrong, self.status = "", 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/there"

    def handle_error(self, *_: object) -> None:
        """A client that left is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, name = self.server, self.path.rpartition("/")[2]
        found = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(found[1]) if found and server.ranges else 0
        server.asked.append((name, start))
        path = server.folder / name
        if server.status != 200 or not path.is_file():
            self.send_error(server.status if server.status != 200 else 404)
            return
        content = path.read_bytes()
        if name == server.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if start >= len(content) and start:
            self.send_error(416)
            return
        rest = content[start:]
        time.sleep(server.silence if name != checksums.SUMS else 0)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        extra = server.claim if name != checksums.SUMS else 0
        self.send_header("Content-Length", str(len(rest) + extra))
        self.end_headers()
        for at in range(0, min(len(rest), server.cut), 4096):
            self.wfile.write(rest[at : min(at + 4096, server.cut)])
            time.sleep(server.pause)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a release as far as its sums go."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "served"
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "bundle.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(rng.bytes(50_000))
    checksums.write_checksums(folder)
    return folder


@pytest.fixture
def server(served: Path) -> Iterator[Server]:
    with Server(served) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def get(tmp_path: Path, said: list[str]) -> Callable[..., Path]:
    return lambda url, limits=IMPATIENT: fetch_release(url, said.append, tmp_path / "cache", limits)


Get = Callable[..., Path]


def assert_whole(folder: Path, served: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in served.iterdir())
    for path in served.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_release_is_fetched_once_and_used_offline(
    server: Server, served: Path, get: Get, said: list[str]
) -> None:
    folder = get(server.url)
    assert_whole(folder, served)
    assert [name for name, _ in server.asked] == ["SHA256SUMS", "bundle.json", "model.safetensors"]
    assert get(server.url + "/") == folder
    assert len(server.asked) == 4  # the sums alone again
    server.status = 503
    assert said == []
    assert get(server.url) == folder
    assert len(said) == 1
    assert "HTTP 503" in said[0]


def test_a_new_release_at_the_address_is_noticed(server: Server, served: Path, get: Get) -> None:
    old = get(server.url)
    (served / "bundle.json").write_text('{"new": true}')
    (served / "SHA256SUMS").unlink()
    checksums.write_checksums(served)
    assert_whole(get(server.url), served)
    assert (old / "bundle.json").read_text() == "{}"


def test_a_pinned_release_asks_nobody_once_it_is_there(
    server: Server, served: Path, get: Get
) -> None:
    digest = checksums.sha256(served / "SHA256SUMS")
    with pytest.raises(InputError, match="not the one asked for"):
        get(f"{server.url}#sha256={'0' * 64}")
    folder = get(f"{server.url}#sha256={digest}")
    asked = len(server.asked)
    assert get(f"{server.url}#sha256={digest}") == folder
    assert len(server.asked) == asked


def test_a_damaged_release_in_the_cache_is_fetched_again(
    server: Server, served: Path, get: Get, tmp_path: Path
) -> None:
    pinned = f"{server.url}#sha256={checksums.sha256(served / checksums.SUMS)}"
    folder = get(pinned)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    for url in (pinned, server.url):
        (folder / "model.safetensors").write_bytes(weights)
        server.asked.clear()
        assert_whole(get(url), served)
        assert [name for name, _ in server.asked] == ["SHA256SUMS", "model.safetensors"]
    (folder / "bundle.json").unlink()
    (folder / checksums.SUMS).write_bytes(b"")
    assert_whole(get(pinned), served)
    assert_whole(get(server.url), served)


def test_a_cache_folder_of_another_release_is_not_taken_for_the_pinned_one(
    server: Server, served: Path, get: Get
) -> None:
    folder = get(server.url)
    (served / "bundle.json").write_text('{"other": true}')
    (served / checksums.SUMS).unlink()
    checksums.write_checksums(served)
    wanted = checksums.sha256(served / checksums.SUMS)
    shutil.copytree(folder, folder.with_name(wanted))  # whole, but not what its name says
    assert_whole(get(f"{server.url}#sha256={wanted}"), served)


def test_a_damaged_release_is_not_used_offline(server: Server, get: Get, said: list[str]) -> None:
    folder = get(server.url)
    (folder / "bundle.json").write_text("[]")
    server.status = 503
    for url in (server.url, f"{server.url}#sha256={folder.name}"):
        with pytest.raises(MuraError, match=r"HTTP 503\), and what the cache has of it is damaged"):
            get(url)
    assert said == []


@pytest.mark.parametrize(
    ("listing", "reason"),
    [
        (b"", "lists no bundle.json"),
        (b"0" * 64 + b"  model.safetensors\n", "lists no bundle.json"),
        (b"<html>Log in to the hotel's network</html>\n", "line 1 is damaged"),
        (b"0" * 64 + b"  bundle.json\n" + b"0" * 64 + b"  " + b"x" * 300 + b"\n", "300 letters"),
    ],
)
def test_a_list_that_is_no_releases_replaces_none(
    server: Server, served: Path, get: Get, listing: bytes, reason: str
) -> None:
    folder = get(server.url)
    (served / checksums.SUMS).write_bytes(listing)
    with pytest.raises(InputError, match=reason):
        get(server.url)
    server.status = 503
    assert get(server.url) == folder


@pytest.mark.parametrize("status", [201, 203, 204, 206, 226, 304, 500])
def test_only_a_plain_answer_is_one(server: Server, get: Get, said: list[str], status: int) -> None:
    folder = get(server.url)
    server.status = status
    assert get(server.url) == folder
    assert f"out of reach (HTTP {status})" in said[0]
    with pytest.raises(MuraError, match=rf"HTTP {status}\), and nothing of it is in the cache"):
        get(f"{server.url}/elsewhere")


def endless(piece: bytes, first: bytes = b"", pause: float = 0.02) -> Answer:
    """Sends `first`, and `piece` again and again, until the client leaves."""

    def send(_: str, client: socket.socket) -> None:
        client.sendall(first)
        while True:
            client.sendall(piece)
            time.sleep(pause)

    return send


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless(b"X"), "timed out"),
        (endless(b"X", OK), "timed out"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n"), "timed out"),
        (endless(b"1\r\nx\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"), "timed out"),
        (endless(b"0", OK + b"Content-Length: 60000\r\n\r\n"), "timed out"),
        (endless(b"X: y\r\n" * 50, OK, 0), "got more than 100 headers"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 900, pause=0), "an answer without end"),
        (endless(b"x" * 2**16, b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", 0), "without end"),
    ],
)
def test_an_answer_that_never_ends_is_left(get: Get, answer: Answer, reason: str) -> None:
    seconds = 0.3 if reason == "timed out" else 60  # what ends by its size needs its time
    with raw_server(answer) as url, pytest.raises(MuraError, match=reason):
        get(url, DownloadLimits(timeout=5, answer=seconds))


def sending(served: Path, answer: Answer, name: str = "model.safetensors") -> Answer:
    """Serves a folder as it is, but for one of its files."""

    def send(asked: str, client: socket.socket) -> None:
        content = (served / asked).read_bytes()
        if asked == name:
            answer(name, client)
        else:
            client.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (OK, len(content), content))

    return send


@pytest.mark.parametrize(
    ("first", "limits"),
    [
        (OK + b"\r\n", DownloadLimits(timeout=5, rate=1000, window=0.3)),
        (OK + b"Content-Length: 50000\r\n\r\n", DownloadLimits(timeout=5, rate=1000, window=0.3)),
        (OK + b"\r\n", DownloadLimits(timeout=5, rate=1, whole=0.3)),
        (OK, DownloadLimits(timeout=5, answer=0.1, window=0.3, pause=0, tries=99)),
    ],
)
def test_a_file_that_trickles_is_given_up(
    served: Path, get: Get, first: bytes, limits: DownloadLimits
) -> None:
    slow = r"model.safetensors: slower than .* goes on from here"
    with (
        raw_server(sending(served, endless(b"x", first))) as url,
        pytest.raises(MuraError, match=slow),
    ):
        get(url, limits)


def test_a_server_that_begins_again_and_again_is_left(served: Path, get: Get) -> None:
    lengths = itertools.chain.from_iterable((n, 10) for n in itertools.count(2000))

    def send(_: str, client: socket.socket) -> None:  # each second answer has one byte more
        client.sendall(OK + b"Content-Length: 50000\r\n\r\n" + b"x" * next(lengths))

    often = "sent from its beginning 3 times"
    with raw_server(sending(served, send)) as url, pytest.raises(MuraError, match=often):
        get(url)
    assert next(lengths) < 2010


@pytest.mark.parametrize("length", ["²", "-1", "1e3", "5" * 5000, "9" * 18, "", "0x10"])
def test_a_length_that_is_none_of_a_file(served: Path, get: Get, length: str) -> None:
    def send(name: str, client: socket.socket) -> None:
        header = f"Content-Length: {length}\r\n\r\n".encode("latin-1")
        client.sendall(OK + header + (served / name).read_bytes())

    with raw_server(sending(served, send)) as url:
        assert_whole(get(url), served)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x1b[2J\x07 hello\r\n\r\n", r"no answer in HTTP: \\x1b\[2J\\x07 hello"),
        (b"", "closed connection without response"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://h/x\r\n\r\n", "sent on to an address"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://u:secret@h/\r\n\r\n", "sent on to an address"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://%s/\r\n\r\n" % (b"x" * 64), "sent on to an add"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://h:99999/\r\n\r\n", "sent on to an address"),
    ],
)
def test_an_answer_that_cannot_be_used_is_one_plain_line(
    get: Get, answer: bytes, reason: str
) -> None:
    with (
        raw_server(lambda _, client: client.sendall(answer)) as url,
        pytest.raises(MuraError, match=reason) as raised,
    ):
        get(url)
    assert str(raised.value).isprintable()
    assert "secret" not in str(raised.value)
    assert "Error" not in str(raised.value)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_cuts(server: Server, served: Path, get: Get, ranges: bool) -> None:
    server.cut, server.ranges = 20_000, ranges
    if not ranges:
        with pytest.raises(MuraError, match="cut, 2 times without a new byte"):
            get(server.url)
        server.cut = 10**9
    assert_whole(get(server.url), served)
    starts = [start for name, start in server.asked if name == "model.safetensors"]
    assert starts == ([0, 20_000, 40_000] if ranges else [0] * len(starts))


def test_a_list_that_was_cut_between_two_lines_is_no_release(
    server: Server, served: Path, get: Get, tmp_path: Path
) -> None:
    listing = (served / checksums.SUMS).read_bytes()
    server.cut = listing.index(b"\n") + 1
    with pytest.raises(MuraError, match=r"out of reach \(the connection was cut\)"):
        get(server.url)
    assert not (tmp_path / "cache").exists()
    server.cut = 10**9
    assert_whole(get(server.url), served)


def test_what_others_left_unfinished_goes_after_a_week(
    server: Server, get: Get, tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "releases"
    old = time.time() - 8 * 86_400
    drafts = {name: cache / f".{name * 64}.part" for name in "abc"}
    for draft in drafts.values():
        draft.mkdir(parents=True)
        (draft / "model.safetensors").write_bytes(b"half")
        os.utime(draft / "model.safetensors", (old, old))
        os.utime(draft, (old, old))
    (drafts["b"] / "bundle.json").write_text("came today")
    with files.hold_lock(cache / f"{'c' * 64}.lock"):  # somebody goes on with it right now
        get(server.url)
    assert [name for name, draft in drafts.items() if draft.exists()] == ["b", "c"]


def test_what_was_fetched_before_a_cut_is_not_fetched_again(
    server: Server, served: Path, get: Get
) -> None:
    server.cut = 20_000
    with pytest.raises(MuraError):
        get(server.url, DownloadLimits(timeout=5, tries=0, pause=0))
    assert not any(
        p.is_dir() and not p.name.startswith(".")
        for p in (get(server.url).parent / "nothing").glob("*")
    )
    starts = [start for name, start in server.asked if name == "model.safetensors"]
    assert starts == [0, 20_000, 40_000]


@pytest.mark.parametrize(("claim", "whole"), [(100, True), (-100, False)])
def test_a_server_that_lies_about_length(
    server: Server, served: Path, get: Get, claim: int, whole: bool
) -> None:
    (served / "bundle.json").write_bytes(b"x" * 500)
    (served / "SHA256SUMS").unlink()
    checksums.write_checksums(served)
    server.claim = claim
    if whole:
        assert_whole(get(server.url), served)
        return
    with pytest.raises(InputError, match=r"bundle.json: its sha256 is not the one"):
        get(server.url)


def test_wrong_bytes_are_refused_and_nothing_of_them_stays(
    server: Server, served: Path, get: Get, tmp_path: Path
) -> None:
    server.wrong = "model.safetensors"
    with pytest.raises(InputError, match=r"model.safetensors: its sha256"):
        get(server.url)
    assert [p.name for p in (tmp_path / "cache").rglob("model*")] == []
    assert not list((tmp_path / "cache" / "releases").glob("[0-9a-f]" * 64))
    server.wrong = ""
    assert_whole(get(server.url), served)


def test_a_part_that_was_damaged_meanwhile_is_fetched_anew(
    server: Server, served: Path, get: Get, tmp_path: Path
) -> None:
    server.cut = 20_000
    with pytest.raises(MuraError):
        get(server.url, DownloadLimits(timeout=5, tries=0, pause=0))
    (part,) = (tmp_path / "cache").rglob("model.safetensors")
    part.write_bytes(b"x" * 20_000)
    assert_whole(get(server.url), served)


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(
    server: Server, served: Path, get: Get
) -> None:
    server.pause = 0.03
    assert_whole(get(server.url, DownloadLimits(timeout=0.5, tries=1, pause=0)), served)
    (served / "bundle.json").write_text("new")
    (served / "SHA256SUMS").unlink()
    checksums.write_checksums(served)
    server.pause, server.silence = 0, 0.4
    with pytest.raises(MuraError, match="timed out"):
        get(server.url, DownloadLimits(timeout=0.1, tries=1, pause=0))


def test_sizes_are_capped(server: Server, served: Path, get: Get, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than 30000 bytes in total"):
        get(server.url, DownloadLimits(bytes=30_000))
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) < 1000
    (served / "SHA256SUMS").write_bytes(b"0" * 70_000)
    with pytest.raises(InputError, match="no list of files is that long"):
        get(server.url)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "a/b"])
def test_a_listed_path_that_climbs_out_is_refused(
    server: Server, served: Path, get: Get, tmp_path: Path, name: str
) -> None:
    (served / "SHA256SUMS").write_text(f"{hashlib.sha256(b'').hexdigest()}  {name}\n")
    with pytest.raises(InputError, match="line 1 is damaged"):
        get(server.url)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc/passwd",
        "http://",
        "http://host/x?y=1",
        "http://[::1/x",
        "http://host/a b",
        "http://host/x#sha256=12",
        "http://host/x#main",
        "http://host:x/y",
        "http://host:99999/x",
        f"http://{'h' * 64}/x",
        "http://a..b/x",
        "http://host/\udcff",
        "http://host/\x1b[2J",
        f"http://host/x#sha256={'²' * 64}",
    ],
)
def test_an_address_that_is_none_is_refused_before_anyone_is_asked(get: Get, url: str) -> None:
    with pytest.raises(InputError, match=r"not the address|after #"):
        get(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host/x",
        "HTTPS://secret@host/x",
        "http://u:secret@[::1/x",
        "http:u:secret@host/x",
        "http://u:sec/ret@host/x",
        "http://u:secret@host/x#main",
        "ftp://u:secret@host/x",
    ],
)
def test_a_password_in_an_address_is_refused_and_never_printed(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as raised:
        locate_release(url, None, tmp_path, None, print)
    assert "host/x" in str(raised.value) or "[::1/x" in str(raised.value)
    assert "sec" not in str(raised.value).replace("sha256", "")


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://host/x/", "http://host/x"),
        ("HTTPS://Host:8443/x", "https://Host:8443/x"),
        ("http://host/Röntgen", "http://host/R%C3%B6ntgen"),
        ("http://host/a%20b", "http://host/a%20b"),
        ("http://röntgen.example:81/x", "http://xn--rntgen-wxa.example:81/x"),
        ("http://[::1]:81/@v1/a+b(c)~", "http://[::1]:81/@v1/a+b(c)~"),
    ],
)
def test_an_address_is_written_as_http_knows_it(url: str, plain: str) -> None:
    assert normalise_url(url) == plain


def test_a_path_that_is_not_ascii_is_asked_for(server: Server, served: Path, get: Get) -> None:
    assert_whole(get(f"{server.url.replace('http', 'HTTP')}/Röntgen"), served)


def test_an_encrypted_address_is_not_left_for_a_plain_one() -> None:
    handler = Redirects()
    request = urllib.request.Request("HTTPS://host/x")
    with pytest.raises(InputError, match="not encrypted"):
        handler.redirect_request(request, io.BytesIO(), 302, "", HTTPMessage(), "http://host/x")


def test_nothing_there_and_nobody_there(server: Server, served: Path, get: Get) -> None:
    (served / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: HTTP 404, though SHA256SUMS lists"):
        get(server.url)
    (served / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="HTTP 404; is this where a release lies"):
        get(server.url)
    server.status = 500
    with pytest.raises(MuraError, match=r"out of reach \(HTTP 500\), and nothing"):
        get(server.url)
    with pytest.raises(MuraError, match="out of reach"):
        get("http://127.0.0.1:9/there")


def test_a_cache_that_cannot_be_written_names_the_way_out(
    server: Server, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(os.environ["XDG_CACHE_HOME"]).write_text("a file")
    with pytest.raises(InputError, match=r"releases: Not a directory; .* set XDG_CACHE_HOME"):
        fetch_release(server.url, print)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(InputError, match=r"no home folder .* set XDG_CACHE_HOME"):
        fetch_release(server.url, print)
    assert not is_fetched(served)
    here = locate_release("XR_TEST", None, served, None, print)  # no config.yaml either
    assert here == Path("XR_TEST")


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_full_disk_is_not_taken_for_a_bad_server(server: Server, served: Path, get: Get) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # as if the disk ended there
    try:
        with pytest.raises(InputError, match=r"model.safetensors: File too large; fetched .* kept"):
            get(server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [name for name, _ in server.asked].count("model.safetensors") == 1
    assert_whole(get(server.url), served)


@pytest.mark.parametrize("area", ["../victim", "..", "/etc", "a/../../b", "", ".hidden", "x" * 101])
def test_an_area_is_no_path(tmp_path: Path, area: str) -> None:
    (tmp_path / "victim").mkdir()
    with pytest.raises(InputError, match="area"):
        locate_release(None, area, tmp_path / "releases", "http://127.0.0.1:9", print)


def test_a_release_is_a_folder_here_or_a_name_under_the_base_address(
    server: Server, served: Path, tmp_path: Path
) -> None:
    base = server.url.rpartition("/")[0]
    releases = tmp_path / "releases"
    older = releases / "XR_HAND, left"  # a name from before there was a rule
    older.mkdir(parents=True)
    assert locate_release(None, older.name, releases, base, print) == older
    assert locate_release(str(older), None, releases, base, print) == older
    for name in ("Röntgen (1)", "R%C3%B6ntgen (1)", "hands/XR_HAND"):
        assert_whole(locate_release(name, None, releases, base, print), served)
    asked = len(server.asked)
    for path in ("/nowhere/XR_HAND", "../XR_HAND", "./XR_HAND"):
        assert locate_release(path, None, releases, base, print) == Path(path)
    assert len(server.asked) == asked


def test_two_processes_make_one_download(server: Server, served: Path, tmp_path: Path) -> None:
    server.pause = 0.02
    code = (
        "import sys; from mura_tune.reading.fetch import fetch_release; "
        "print(fetch_release(sys.argv[1], print))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ.copy(),
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert_whole(Path(ends[0][0].strip()), served)
    assert sorted(name for name, _ in server.asked) == [
        "SHA256SUMS",
        "SHA256SUMS",
        "bundle.json",
        "model.safetensors",
    ]


def test_infer_takes_an_address_a_base_address_and_the_config_file(
    server: Server,
    release: Path,
    run: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = tmp_path / "view.png"
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).save(image)
    local = json.loads(run("infer", f"--release={release}", f"--image={image}", "--json").out)
    server.folder = release.rename(tmp_path / "elsewhere")
    digest = run("verify", server.folder).out.partition("sha256=")[2].split()[0]
    base = server.url.rpartition("/")[0]
    away = run("verify", f"{server.url}#sha256={digest}")
    assert f"sha256={digest}" in away.out, away.err
    written = tmp_path / "written.pt"
    assert (
        run("export", "--release=XR_TEST", f"--base-url={base}", "--to=pt", f"--out={written}").code
        == 0
    )
    assert written.is_file()
    missing = run("infer", "--area=XR_TEST", f"--image={image}")
    assert missing.code == 2
    assert "no release there" in missing.err

    def answer(*args: str) -> None:
        ran = run("infer", f"--image={image}", "--json", *args)
        assert ran.code == 0, ran.err
        found = json.loads(ran.out)
        assert found["probability"] == local["probability"]
        assert str(tmp_path / "home" / "mura-tune") in found["release"]

    answer(f"--release={server.url}#sha256={digest}")
    answer("--area=XR_TEST", f"--base-url={base}")
    monkeypatch.setenv("MURA_BASE_URL", base)
    answer("--area=XR_TEST")
    answer(f"--release=XR_TEST#sha256={digest}")
    monkeypatch.delenv("MURA_BASE_URL")
    config = tmp_path / "config" / "mura-tune" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(f"base_url: {base}\n")
    answer("--area=XR_TEST")
    config.write_text("base: x\n")
    refused = run("infer", "--area=XR_TEST", f"--image={image}")
    assert (refused.code, refused.out) == (2, "")
    assert "config.yaml: holds one line, base_url" in refused.err
