"""A cache that travels is the dataset's own, to the last number, or it is refused in one line."""

import json
import logging
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import TINY, Ran
from serving import running

from mura_tune import config
from mura_tune.data.prepare import AreaImages, divide, open_area, open_dataset
from mura_tune.errors import InputError, MuraError
from mura_tune.transfer.area_caches import PushedCache, fetch_cache, push_cache
from mura_tune.transfer.stores import FolderStore, ObjectStore, open_store

WRIST = "XR_WRIST"
SPLIT = config.load_config(WRIST).split


@pytest.fixture(scope="module")
def images(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> AreaImages:
    return open_area(open_dataset(phantoms), WRIST, 32, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def pushed(images: AreaImages, tmp_path: Path) -> PushedCache:
    """A cache in tmp_path/store, which tests may change."""
    return push_cache(images, str(tmp_path / "store"))


def refusal(tmp_path: Path, url: str | None = None) -> str:
    """The line of a fetch that is refused; whatever was fetched is not used."""
    with pytest.raises(InputError) as caught:
        fetch_cache(url or str(tmp_path / "store"), WRIST, 32, tmp_path / "worker")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fetched_cache_is_the_datasets_own(
    images: AreaImages, pushed: PushedCache, phantoms: Path, tmp_path: Path
) -> None:
    fetched = fetch_cache((tmp_path / "store").as_uri(), WRIST, 32, tmp_path / "worker")
    ours, theirs = divide(images, SPLIT), divide(fetched, SPLIT)
    assert np.array_equal(ours.pixels, theirs.pixels)
    assert ours.frame.equals(theirs.frame)
    assert [*ours.pixel_sha] == [*theirs.pixel_sha]
    for name in ("area", "left_out", "near", "fingerprint", "split_hash", "found", "dataset"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert str(phantoms) not in "".join(
        file.read_text() for file in (tmp_path / "worker").rglob("*.json")
    )
    moved = pickle.loads(pickle.dumps(theirs))
    row = moved.frame.iloc[3]
    assert np.array_equal(moved.read_view(row["path"]), images.pixels[row["row"]])
    assert pushed.bytes > images.pixels.size


def test_an_area_of_a_table_without_a_test_split_is_divided_as_in_the_whole_dataset(
    phantoms: Path, tmp_path: Path
) -> None:
    """Whether a test set is published is a matter of every area, and travels with each."""
    frame = open_dataset(phantoms).frame
    frame.loc[frame["area"] == WRIST, "split"] = "train"  # only hands have a published one
    frame = frame.rename(columns={"study": "full"})
    frame["study"] = frame["full"].str.rpartition("/")[2]
    patients = frame["area"] + frame["patient"]
    frame = frame.assign(patient=patients, path=str(phantoms) + "/" + frame["path"])
    columns = ["path", "patient", "label", "area", "study", "split"]
    table = tmp_path / "all.csv"
    frame[columns].to_csv(table, index=False)
    whole = open_area(open_dataset(table), WRIST, 32, tmp_path / "cache")
    assert whole.publishes_test
    push_cache(whole, str(tmp_path / "store"))
    fetched = fetch_cache(str(tmp_path / "store"), WRIST, 32, tmp_path / "worker")
    for one in (whole, fetched):
        with pytest.raises(InputError, match="split test has 0 normal"):
            divide(one, SPLIT)


class Ranges(SimpleHTTPRequestHandler):
    """Gives the files of `folder` from any byte on, and notes from which."""

    folder: Path
    starts: list[int]

    def do_GET(self) -> None:
        content = (self.folder / self.path.lstrip("/")).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        pass


def test_a_download_that_was_cut_off_goes_on_over_http(
    images: AreaImages, pushed: PushedCache, tmp_path: Path
) -> None:
    home = tmp_path / "worker" / "fetched" / pushed.sha256
    home.mkdir(parents=True)
    (pixels,) = (tmp_path / "store").rglob("pixels-*.npy")
    half = pixels.read_bytes()[: pixels.stat().st_size // 2]
    (home / f"{pixels.name}.part").write_bytes(half)
    Ranges.folder, Ranges.starts = tmp_path / "store", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as serving, running(serving):
        url = f"http://127.0.0.1:{serving.server_port}"
        fetched = fetch_cache(url, WRIST, 32, tmp_path / "worker")
    assert np.array_equal(fetched.pixels, images.pixels)
    assert Ranges.starts == [0, 0, 0, len(half)]


def test_two_commands_on_a_machine_download_once(
    images: AreaImages, pushed: PushedCache, tmp_path: Path
) -> None:
    Ranges.folder, Ranges.starts = tmp_path / "store", []
    with ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as serving, running(serving):
        args = (f"http://127.0.0.1:{serving.server_port}", WRIST, 32, tmp_path / "worker")
        with ThreadPoolExecutor() as threads:
            both = [threads.submit(fetch_cache, *args) for _ in range(2)]
            assert all(np.array_equal(one.result().pixels, images.pixels) for one in both)
    assert len(Ranges.starts) == 2 + 3  # the list for each, and its files


def test_bytes_of_another_file_are_replaced(
    images: AreaImages, pushed: PushedCache, tmp_path: Path
) -> None:
    home = tmp_path / "worker" / "fetched" / pushed.sha256
    home.mkdir(parents=True)
    (pixels,) = (tmp_path / "store").rglob("pixels-*.npy")
    (home / f"{pixels.name}.part").write_bytes(b"other bytes")
    (home / pixels.name).write_bytes(b"damaged meanwhile")
    fetched = fetch_cache(str(tmp_path / "store"), WRIST, 32, tmp_path / "worker")
    assert np.array_equal(fetched.pixels, images.pixels)
    assert not [*home.glob("*.part")]


def test_a_pinned_cache_that_is_here_needs_no_store(pushed: PushedCache, tmp_path: Path) -> None:
    url = f"{tmp_path / 'store'}#sha256={pushed.sha256}"
    first = fetch_cache(url, WRIST, 32, tmp_path / "worker")
    (tmp_path / "store").rename(tmp_path / "gone")
    assert np.array_equal(fetch_cache(url, WRIST, 32, tmp_path / "worker").pixels, first.pixels)
    other = "0" * 64
    (tmp_path / "gone").rename(tmp_path / "store")
    assert "not the one asked for" in refusal(tmp_path, f"{tmp_path / 'store'}#sha256={other}")
    assert "64 hex digits" in refusal(tmp_path, f"{tmp_path / 'store'}#sha256=abc")


@pytest.mark.parametrize("file", ["pixels-*.npy", "index-*.json", "copies-*.json"])
def test_a_file_that_was_cut_off_or_changed_is_refused(
    pushed: PushedCache, tmp_path: Path, file: str
) -> None:
    (path,) = (tmp_path / "store").rglob(file)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert f"cut off after {len(whole) - 9} of {len(whole)} bytes" in refusal(tmp_path)
    path.write_bytes(whole[:-9] + b"\0" * 9)
    assert f"{path.name}: changed: its sha256 is not the one in cache.json" in refusal(tmp_path)
    path.write_bytes(whole + b"!")
    assert f"more than {len(whole)} bytes" in refusal(tmp_path)
    path.unlink()
    assert f"{path.name}: no such file" in refusal(tmp_path)
    path.write_bytes(whole)
    fetch_cache(str(tmp_path / "store"), WRIST, 32, tmp_path / "worker")


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("layout", 2, "layout is 2, and this version reads 1"),
        ("preprocessing", 1, "decodes images in another way (1; "),
        ("near_copies", 1, "finds near-copies in another way (1; "),
        ("size", 64, "holds XR_WRIST at 64 px, and not XR_WRIST at 32 px"),
        ("area", "XR_HAND", "holds XR_HAND at 32 px, and not XR_WRIST"),
        ("fingerprint", "0" * 64, "its pixels and its index are not of one dataset"),
        ("fingerprint", 3, "fingerprint is 3; it must be text"),
        ("pixels", {"name": "../x", "bytes": 1, "sha256": "0" * 64}, "the name of a file"),
        ("colour", "red", "unknown key colour"),
    ],
)
def test_another_list_is_refused(
    pushed: PushedCache, tmp_path: Path, key: str, value: object, line: str
) -> None:
    path = tmp_path / "store" / "XR_WRIST-32" / "cache.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert line in refusal(tmp_path)


def test_a_label_that_was_changed_with_its_digest_is_refused(
    images: AreaImages, tmp_path: Path
) -> None:
    """The fingerprint is that of the index: whoever rewrites the list has to change it as well."""
    frame = images.frame.assign(label=1 - images.frame["label"])
    forged = AreaImages(**{**vars(images), "frame": frame})
    push_cache(forged, str(tmp_path / "store"))
    assert "not of one dataset" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("nowhere", "no such file; is this where 'mura cache AREA --push URL' wrote?"),
        ("ftp://host/caches", "no place for a cache; name a folder, or a URL of file, http"),
        ("https://me:hidden@host/caches", "are not supported"),
        ("s3://key:hidden@bucket/caches", "a password in an address is not supported"),
        ("file://host/caches", "write file:///PATH"),
        ("https://host/a?b=c", "not the address of a cache"),
    ],
)
def test_an_address_without_a_cache_is_one_line(url: str, line: str, tmp_path: Path) -> None:
    told = refusal(tmp_path, url)
    assert line in told
    assert "hidden" not in told


def test_a_server_takes_no_cache(images: AreaImages) -> None:
    with pytest.raises(InputError, match="is read over http"):
        push_cache(images, "http://127.0.0.1:9/caches")


class Flaky(fsspec.AbstractFileSystem):
    """A file system in a folder whose every file breaks off after a third of its bytes."""

    cachable = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def open(self, path: str, mode: str = "rb", **options: object) -> "Cut":
        return Cut((self.folder / path).open(mode), (self.folder / path).stat().st_size // 3)


class Cut:
    """A file that reads at most `room` bytes and then fails, as a lost connection does."""

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def __enter__(self) -> "Cut":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, place: int) -> None:
        self.file.seek(place)

    def read(self, count: int) -> bytes:
        if not self.room:
            raise ConnectionError("connection lost")
        content = self.file.read(min(count, self.room))
        self.room -= len(content)
        return content


def test_an_object_store_that_breaks_off_goes_on_from_what_came(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(200)))
    store = ObjectStore("s3://bucket", Flaky(tmp_path), ".", tries=2, pause=0)
    store.append("file", tmp_path / "part", "", 200)
    assert (tmp_path / "part").read_bytes() == bytes(range(200))
    (tmp_path / "tiny").write_bytes(b"xy")  # a third of it is no byte
    with pytest.raises(MuraError, match="s3://bucket/tiny: connection lost; once that is mended"):
        store.append("tiny", tmp_path / "other", "", 2)


def test_an_object_store_takes_and_gives_files(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    store = ObjectStore("gs://bucket", system, "/bucket/caches")
    (tmp_path / "file").write_bytes(b"content")
    store.write("area/file", tmp_path / "file")
    assert store.read("area/file", 7) == b"content"
    with pytest.raises(InputError, match="more than 6 bytes"):
        store.read("area/file", 6)
    with pytest.raises(InputError, match="gs://bucket/area/none: no such file"):
        store.read("area/none", 6)
    with pytest.raises(InputError, match="no such file"):
        store.append("area/none", tmp_path / "part", "", 6)


@pytest.mark.parametrize(("url", "package"), [("s3://b/x", "s3fs"), ("gs://b/x", "gcsfs")])
def test_an_extra_that_is_not_installed_is_named(
    url: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ImportError(package)

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(InputError, match=f"{package} is not installed; pip install 'mura-tune"):
        open_store(url)


def test_an_object_stores_library_keeps_its_tracebacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        logging.getLogger("gcsfs.retry").error("out of retries", exc_info=True)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(InputError, match="gs://b/x: no route to host"):
        open_store("gs://b/x")
    assert caplog.records == []


def test_the_commands_push_and_search(
    run: Callable[..., Ran], phantoms: Path, tmp_path: Path
) -> None:
    store, small = tmp_path / "store", "--set=size=32"
    ran = run("cache", WRIST, f"--data={phantoms}", f"--push={store}", small)
    assert ran.code == 0
    *words, pinned, values = ran.out.splitlines()[-1].split()
    assert (words, values) == (["next:", "mura", "tune", "XR_WRIST", "--cache"], small)
    ran = run("cache", WRIST, f"--data={phantoms}", f"--push={store}", small, "--json")
    assert json.loads(ran.out)["pushed"]["sha256"] in pinned
    ran = run("tune", WRIST, "--cache=nowhere", *TINY)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "nowhere/XR_WRIST-32/cache.json: no such file" in ran.err
    ran = run("tune", "--every-area", f"--cache={store}")
    assert (ran.code, "name one AREA" in ran.err) == (2, True)


def test_a_folder_store_leaves_no_half_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    FolderStore(tmp_path / "store").write("area/file", tmp_path / "file")
    assert [path.name for path in (tmp_path / "store" / "area").iterdir()] == ["file"]
