"""Fetching from servers that cut, lie, dawdle and vanish: whole and checked, or not at all."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran
from PIL import Image

from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.reading.fetch import Limits, fetch
from mura_tune.release import sums

IMPATIENT = Limits(timeout=5, tries=2, pause=0.01)


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
        time.sleep(server.silence if name != sums.SUMS else 0)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        extra = server.claim if name != sums.SUMS else 0
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
    sums.write(folder)
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
    return lambda url, limits=IMPATIENT: fetch(url, said.append, tmp_path / "cache", limits)


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
    sums.write(served)
    assert_whole(get(server.url), served)
    assert (old / "bundle.json").read_text() == "{}"


def test_a_pinned_release_asks_nobody_once_it_is_there(
    server: Server, served: Path, get: Get
) -> None:
    digest = sums.sha256(served / "SHA256SUMS")
    with pytest.raises(InputError, match="not the one asked for"):
        get(f"{server.url}#sha256={'0' * 64}")
    folder = get(f"{server.url}#sha256={digest}")
    asked = len(server.asked)
    assert get(f"{server.url}#sha256={digest}") == folder
    assert len(server.asked) == asked


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
    listing = (served / sums.SUMS).read_bytes()
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
    with files.exclusive(cache / f"{'c' * 64}.lock"):  # somebody goes on with it right now
        get(server.url)
    assert [name for name, draft in drafts.items() if draft.exists()] == ["b", "c"]


def test_what_was_fetched_before_a_cut_is_not_fetched_again(
    server: Server, served: Path, get: Get
) -> None:
    server.cut = 20_000
    with pytest.raises(MuraError):
        get(server.url, Limits(timeout=5, tries=0, pause=0))
    assert not any(p.is_dir() and not p.name.startswith(".") for p in
                   (get(server.url).parent / "nothing").glob("*"))  # fmt: skip
    starts = [start for name, start in server.asked if name == "model.safetensors"]
    assert starts == [0, 20_000, 40_000]


@pytest.mark.parametrize(("claim", "whole"), [(100, True), (-100, False)])
def test_a_server_that_lies_about_length(
    server: Server, served: Path, get: Get, claim: int, whole: bool
) -> None:
    (served / "bundle.json").write_bytes(b"x" * 500)
    (served / "SHA256SUMS").unlink()
    sums.write(served)
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
        get(server.url, Limits(timeout=5, tries=0, pause=0))
    (part,) = (tmp_path / "cache").rglob("model.safetensors")
    part.write_bytes(b"x" * 20_000)
    assert_whole(get(server.url), served)


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(
    server: Server, served: Path, get: Get
) -> None:
    server.pause = 0.03
    assert_whole(get(server.url, Limits(timeout=0.5, tries=1, pause=0)), served)
    (served / "bundle.json").write_text("new")
    (served / "SHA256SUMS").unlink()
    sums.write(served)
    server.pause, server.silence = 0, 0.4
    with pytest.raises(MuraError, match="timed out"):
        get(server.url, Limits(timeout=0.1, tries=1, pause=0))


def test_sizes_are_capped(server: Server, served: Path, get: Get, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than 30000 bytes in a release"):
        get(server.url, Limits(bytes=30_000))
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
    ["ftp://host/x", "file:///etc/passwd", "http://", "http://host/x?y=1", "http://[::1/x",
     "http://host/a b", "http://host/x#sha256=12", "http://host/x#main"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_anyone_is_asked(get: Get, url: str) -> None:
    with pytest.raises(InputError, match=r"not the address|after #"):
        get(url)


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


def test_two_processes_make_one_download(server: Server, served: Path, tmp_path: Path) -> None:
    server.pause = 0.02
    code = ("import sys; from mura_tune.reading.fetch import fetch; "
            "print(fetch(sys.argv[1], print))")  # fmt: skip
    both = [
        subprocess.Popen([sys.executable, "-c", code, server.url], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert_whole(Path(ends[0][0].strip()), served)
    assert sorted(name for name, _ in server.asked) == [
        "SHA256SUMS", "SHA256SUMS", "bundle.json", "model.safetensors",
    ]  # fmt: skip


def test_infer_takes_an_address_a_base_address_and_the_config_file(
    server: Server, release: Path, run: Callable[..., Ran], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = tmp_path / "view.png"
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).save(image)
    local = json.loads(run("infer", f"--release={release}", f"--image={image}", "--json").out)
    server.folder = release.rename(tmp_path / "elsewhere")
    digest = run("verify", server.folder).out.partition("sha256=")[2].split()[0]
    base = server.url.rpartition("/")[0]
    away = run("verify", f"{server.url}#sha256={digest}")
    assert f"sha256={digest}" in away.out, away.err
    written = tmp_path / "written.pt"
    assert run("export", "--release=XR_TEST", f"--base-url={base}", "--to=pt",
               f"--out={written}").code == 0  # fmt: skip
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
