"""cache: decodes once, rebuilds only what changed, and is whole or absent."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mura_tune.data import cache, scan
from mura_tune.data.index import Dataset, index_mura
from mura_tune.data.listing import IMAGE_COLUMNS
from mura_tune.data.pixels import open_pixels
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging import images

REPO = Path(__file__).parents[2]
SIZE = 16


def make(root: Path, count: int = 30) -> Dataset:
    """Write `count` different images of one patient each and index them."""
    rows = []
    for i in range(count):
        study, path = f"XR_A/p{i}/s", f"train/XR_A/p{i}/s/image1.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        paint(root / path, i)
        rows.append((path, "XR_A", f"p{i}", study, i % 2, "train"))
    return Dataset(root, pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), "XR_A")


def manifest_of(runs: Path) -> Path:
    """The one manifest of the folder that `build` writes into."""
    (file,) = (runs / "XR_A-16").glob("manifest*.json")
    return file


def pixel_files(runs: Path) -> set[Path]:
    return set((runs / "XR_A-16").glob("pixels-*.npy"))


def paint(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 30), np.uint8)
    Image.fromarray(pixels).save(file)


def uncompressed(file: Path, size: tuple[int, int], grey: int) -> None:
    """A picture of one grey but for its white middle; files of one size have equally many bytes."""
    image = Image.new("L", size, grey)
    image.putpixel((size[0] // 2, size[1] // 2), 255)
    image.save(file, format="BMP")


def build(dataset: Dataset, runs: Path, **options: object) -> cache.Cache:
    return cache.open_cache(dataset, SIZE, runs, progress=False, **options)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return make(tmp_path / "data")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


class Counted:
    """The decoder, counting its calls; the reads of files too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.decoded: list[str] = []
        self.loaded: list[str] = []
        decode, load = images.decode_image, images.read_file

        def counting_decode(data: bytes, path: object) -> object:
            self.decoded.append(str(path))
            return decode(data, path)

        def counting_load(path: Path) -> bytes:
            self.loaded.append(str(path))
            return load(path)

        monkeypatch.setattr(images, "decode_image", counting_decode)
        monkeypatch.setattr(images, "read_file", counting_load)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def assert_true_to_the_files(built: cache.Cache, dataset: Dataset) -> None:
    for row, path in enumerate(built.frame["path"]):
        expected = images.resize_to_square(images.read_image(dataset.root / path), SIZE)
        np.testing.assert_array_equal(built.pixels[row], expected)


def test_pixels_are_aligned_with_the_frame_and_read_only(dataset: Dataset, runs: Path) -> None:
    built = build(dataset, runs)
    assert isinstance(built.pixels, np.memmap)
    assert (built.pixels.shape, built.pixels.dtype) == ((30, SIZE, SIZE), np.uint8)
    assert not built.pixels.flags.writeable
    assert_true_to_the_files(built, dataset)
    assert built.frame["path"].tolist() == dataset.frame["path"].tolist()
    assert sorted(file.name[:6] for file in (runs / "XR_A-16").iterdir()) == [
        "lock",
        "manife",
        "pixels",
    ]


def test_the_second_call_reads_no_image(dataset: Dataset, runs: Path, counted: Counted) -> None:
    first = build(dataset, runs)
    assert len(counted.decoded) == 30
    counted.loaded.clear()
    second = build(dataset, runs)
    assert counted.loaded == []
    assert second.fingerprint == first.fingerprint
    assert list(second.pixel_sha) == list(first.pixel_sha)
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_an_absolute_path_is_trusted_too(
    dataset: Dataset, runs: Path, tmp_path: Path, counted: Counted
) -> None:
    frame = dataset.frame.assign(path=[str(dataset.root / path) for path in dataset.frame["path"]])
    elsewhere = Dataset(tmp_path, frame, "XR_A")
    build(elsewhere, runs)
    counted.loaded.clear()
    assert len(build(elsewhere, runs).pixels) == 30
    assert counted.loaded == []


def test_only_what_changed_is_decoded(dataset: Dataset, runs: Path, counted: Counted) -> None:
    before = build(dataset, runs)
    old = np.array(before.pixels)
    counted.decoded.clear()
    changed = dataset.root / dataset.frame["path"][4]
    paint(changed, 999)
    os.utime(changed, ns=(1, 1))
    after = build(dataset, runs)
    assert counted.decoded == [str(changed)]
    assert_true_to_the_files(after, dataset)
    assert after.fingerprint != before.fingerprint
    np.testing.assert_array_equal(before.pixels, old)  # who has it open keeps what it opened
    assert pixel_files(runs) == {before.file, after.file}
    del before
    build(dataset, runs)
    assert pixel_files(runs) == {after.file}


def test_added_and_removed_rows_decode_only_the_added(tmp_path: Path, counted: Counted) -> None:
    whole = make(tmp_path / "data", 12)
    paths = whole.frame["path"].tolist()
    build(whole.drop([paths[0], paths[5]]), tmp_path)
    counted.decoded.clear()
    more = build(whole.drop([paths[7]]), tmp_path)
    assert sorted(counted.decoded) == sorted(str(whole.root / paths[i]) for i in (0, 5))
    assert_true_to_the_files(more, whole)


def test_a_touched_or_moved_file_is_hashed_but_not_decoded(
    dataset: Dataset, runs: Path, tmp_path: Path, counted: Counted
) -> None:
    first = build(dataset, runs)
    counted.decoded.clear()
    shutil.copytree(dataset.root, tmp_path / "copy")  # other times, other root
    moved = build(Dataset(tmp_path / "copy", dataset.frame, "XR_A"), runs)
    assert counted.decoded == []
    assert moved.fingerprint == first.fingerprint
    np.testing.assert_array_equal(moved.pixels, first.pixels)
    counted.loaded.clear()
    build(Dataset(tmp_path / "copy", dataset.frame, "XR_A"), runs)
    assert counted.loaded == []


def test_a_file_replaced_with_size_and_time_kept_is_noticed(dataset: Dataset, runs: Path) -> None:
    """As rsync -t, unzip or exiftool -P replace one: only its time of change tells."""
    file = dataset.root / dataset.frame["path"][4]
    uncompressed(file, (40, 30), 10)
    status = file.stat()
    before = build(dataset, runs)
    uncompressed(file, (40, 30), 200)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = build(dataset, runs)
    assert_true_to_the_files(after, dataset)
    assert after.fingerprint != before.fingerprint


def twin(dataset: Dataset, root: Path) -> Dataset:
    """Other pictures with the same paths, sizes and times, as a zip or rsync -t leaves them."""
    for i, path in enumerate(dataset.frame["path"]):
        (root / path).parent.mkdir(parents=True)
        for file, grey in ((dataset.root / path, i), (root / path, 100 + i)):
            uncompressed(file, (9, 9), grey)
            os.utime(file, ns=(10**18, 10**18))
    return Dataset(root, dataset.frame, "XR_A")


def test_two_datasets_that_look_alike_keep_their_own_pixels(
    dataset: Dataset, runs: Path, tmp_path: Path, counted: Counted
) -> None:
    other = twin(dataset, tmp_path / "other")
    alone = [
        build(one, tmp_path / f"alone{i}").fingerprint for i, one in enumerate((dataset, other))
    ]
    counted.decoded.clear()
    for _ in range(2):  # neither deletes what the other one made
        for one, fingerprint in zip((dataset, other), alone, strict=True):
            built = build(one, runs)
            assert built.fingerprint == fingerprint
            np.testing.assert_array_equal(
                built.pixels[3],
                images.resize_to_square(images.read_image(one.root / one.frame["path"][3]), SIZE),
            )
    assert len(counted.decoded) == 60 + 4  # each once, and those that the test looks at
    assert alone[0] != alone[1]


def test_two_tables_in_one_folder_are_two_datasets(dataset: Dataset, runs: Path) -> None:
    halves = [
        Dataset(dataset.root, dataset.frame[i::2], "XR_A", table=dataset.root / f"{i}.csv")
        for i in range(2)
    ]
    files = [build(half, runs).file for half in halves]
    assert [build(half, runs).file for half in halves] == files
    assert pixel_files(runs) == {*files}


def test_pixels_that_a_process_uses_are_not_deleted(dataset: Dataset, runs: Path) -> None:
    """A worker that replaces another one opens them by their path."""
    before = build(dataset, runs)
    old = np.array(before.pixels)
    paint(dataset.root / dataset.frame["path"][4], 999)
    build(dataset, runs)
    np.testing.assert_array_equal(open_pixels(before.file), old)


def test_a_link_to_a_dataset_is_that_dataset(
    dataset: Dataset, runs: Path, tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, runs)
    (tmp_path / "link").symlink_to(dataset.root)
    monkeypatch.chdir(tmp_path)
    counted.loaded.clear()
    for root in (tmp_path / "link", Path("data"), runs / ".." / "data"):
        build(Dataset(root, dataset.frame, "XR_A"), runs)
    assert counted.loaded == []


def test_a_dataset_that_was_moved_takes_its_pixels_along(
    dataset: Dataset, runs: Path, tmp_path: Path, counted: Counted
) -> None:
    first = build(dataset, runs)
    counted.decoded.clear()
    dataset.root.rename(tmp_path / "moved")
    moved = build(Dataset(tmp_path / "moved", dataset.frame, "XR_A"), runs)
    assert counted.decoded == []
    assert (moved.file, moved.fingerprint) == (first.file, first.fingerprint)
    assert str(tmp_path / "moved") in manifest_of(runs).read_text()


def test_a_byte_that_changed_in_the_pixels_is_noticed(
    dataset: Dataset, runs: Path, counted: Counted
) -> None:
    built = build(dataset, runs)
    whole = built.file.read_bytes()
    built.file.write_bytes(whole[:-777] + bytes([whole[-777] ^ 1]) + whole[-776:])
    again = build(dataset, runs)
    assert_true_to_the_files(again, dataset)
    assert again.file.read_bytes() == whole
    assert len(counted.decoded) == 90  # built twice, and looked at once


def test_a_cache_of_an_earlier_version_is_decoded_once_more_and_goes(
    dataset: Dataset, runs: Path, counted: Counted
) -> None:
    """As the first version left it: one manifest, without a checksum of the pixels."""
    home = runs / "XR_A-16"
    home.mkdir(parents=True)
    np.save(home / "pixels-0123456789abcdef.npy", np.zeros((30, SIZE, SIZE), np.uint8))
    head = '{"preprocessing": 1, "size": 16, "pixels": "pixels-0123456789abcdef.npy", "images": [\n'
    (home / "manifest.json").write_text(f"{head}]}}\n")
    built = build(dataset, runs)
    assert_true_to_the_files(built, dataset)
    assert pixel_files(runs) == {built.file}
    assert manifest_of(runs).name != "manifest.json"


def test_names_that_are_not_utf_8_are_cached(tmp_path: Path, runs: Path) -> None:
    root = tmp_path / os.fsdecode(b"R\xf6ntgen")
    rows = []
    for i in range(2):
        path = os.fsdecode(b"Aufnahme_\xe4") + f"{i}.png"
        root.mkdir(exist_ok=True)
        paint(root / path, i)
        rows.append((path, "XR_A", f"p{i}", f"XR_A/p{i}/s", i, "valid"))
    dataset = Dataset(root, pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), root.name)
    first = build(dataset, runs)
    assert build(dataset, runs).fingerprint == first.fingerprint
    assert_true_to_the_files(first, dataset)


def test_a_label_changes_the_fingerprint_but_decodes_nothing(
    dataset: Dataset, runs: Path, counted: Counted
) -> None:
    first = build(dataset, runs)
    counted.loaded.clear()
    other = Dataset(dataset.root, dataset.frame.assign(label=1), "XR_A")
    assert build(other, runs).fingerprint != first.fingerprint
    assert counted.loaded == []


def test_a_new_preprocessing_version_decodes_all_again(
    dataset: Dataset, runs: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dataset, runs)
    monkeypatch.setattr(cache, "PREPROCESSING", cache.PREPROCESSING + 1)
    build(dataset, runs)
    assert len(counted.decoded) == 60


def test_another_size_is_another_folder(dataset: Dataset, runs: Path) -> None:
    build(dataset, runs)
    assert cache.open_cache(dataset, 8, runs, progress=False).pixels.shape == (30, 8, 8)
    assert {folder.name for folder in runs.iterdir()} == {"XR_A-16", "XR_A-8"}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("manifest-*.json", b""),
        ("manifest-*.json", b"[]"),
        ("manifest-*.json", b'{"layout": 2'),
        ("manifest-*.json", None),
        ("pixels-*.npy", b""),
        ("pixels-*.npy", None),
    ],
)
def test_a_damaged_cache_is_built_again(
    dataset: Dataset, runs: Path, name: str, damage: bytes | None, counted: Counted
) -> None:
    """None: it is cut short by one byte."""
    build(dataset, runs)
    (file,) = (runs / "XR_A-16").glob(name)
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert_true_to_the_files(build(dataset, runs), dataset)
    assert len(counted.decoded) == 90  # built twice, and looked at once


def test_a_manifest_of_an_earlier_layout_is_built_again(
    dataset: Dataset, runs: Path, counted: Counted
) -> None:
    first = build(dataset, runs)
    file = manifest_of(runs)
    file.write_text(json.dumps(json.loads(file.read_text()), indent=0))
    second = build(dataset, runs)
    assert len(counted.decoded) == 60
    assert second.fingerprint == first.fingerprint
    assert second.file == first.file
    build(dataset, runs)
    assert len(counted.decoded) == 60


def test_the_fingerprint_and_the_names_of_pixels_never_change(tmp_path: Path) -> None:
    """Studies and releases tell by them what they were made from."""
    rows = [
        (f"train/{name}.png", "XR_A", f"p{i}", f"XR_A/p{i}/s", i % 2, "train")
        for i, name in enumerate("bca")
    ]
    dataset = Dataset(tmp_path, pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), "XR_A")
    (tmp_path / "train").mkdir()
    for path in dataset.frame["path"]:
        uncompressed(tmp_path / path, (8, 8), len(path))
    built = build(dataset, tmp_path / "runs")
    shas = {
        path: hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
        for path in dataset.frame["path"]
    }
    lines = [
        f"{path}\t{shas[path]}\t{study}\t{label}\t{split}"
        for path, _, _, study, label, split in sorted(rows)
    ]
    assert built.fingerprint == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    name = "\n".join([str(images.PREPROCESSING), "16", *shas.values()])
    assert built.file.name == f"pixels-{hashlib.sha256(name.encode()).hexdigest()[:16]}.npy"


def test_a_disk_that_is_gone_leaves_the_cache(dataset: Dataset, runs: Path) -> None:
    first = build(dataset, runs)
    dataset.root.rename(dataset.root.with_name("elsewhere"))
    with pytest.raises(InputError, match="30 of 30 images"):
        build(dataset, runs)
    dataset.root.with_name("elsewhere").rename(dataset.root)
    assert first.file.exists()
    assert build(dataset, runs).file == first.file


def test_a_failure_before_the_manifest_leaves_the_old_cache(
    dataset: Dataset, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(dataset, runs).fingerprint
    kept = manifest_of(runs).read_bytes()
    paint(dataset.root / dataset.frame["path"][0], 77)
    os.utime(dataset.root / dataset.frame["path"][0], ns=(1, 1))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_records", stop)
        with pytest.raises(KeyboardInterrupt):
            build(dataset, runs)
    assert manifest_of(runs).read_bytes() == kept
    assert not list((runs / "XR_A-16").glob("*.tmp"))
    after = build(dataset, runs)
    assert after.fingerprint != first
    assert_true_to_the_files(after, dataset)
    assert pixel_files(runs) == {after.file}


CHILD = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_cache import build, make
from mura_tune.errors import InputError
import pandas as pd
from mura_tune.data.index import Dataset
dataset = Dataset(Path({root!r}), pd.read_json({frame!r}, orient="split"), "XR_A")
{before}
try:
    build(dataset, Path({runs!r}))
except InputError as error:
    sys.exit(f"told: {{error}}")
"""


def child(dataset: Dataset, runs: Path, before: str = "") -> subprocess.Popen[str]:
    frame = runs.parent / "frame.json"
    dataset.frame.to_json(frame, orient="split")
    code = CHILD.format(
        tests=str(Path(__file__).parent),
        root=str(dataset.root),
        frame=str(frame),
        runs=str(runs),
        before=before,
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=REPO
    )


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(dataset: Dataset, runs: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"  # the pixels need 7,808
    process = child(dataset, runs, limit)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert told.startswith(f"told: {runs / 'XR_A-16'}: disk full: XR_A at 16 px needs 1 MB there")
    assert "--runs" in told
    assert told.count("\n") == 1
    assert [file.name for file in (runs / "XR_A-16").iterdir()] == ["lock"]
    assert len(build(dataset, runs).pixels) == 30


def test_a_kill_at_any_moment_leaves_whole_or_absent(dataset: Dataset, runs: Path) -> None:
    slow = (
        "from mura_tune.data import cache; import time; old = cache.resize_to_square\n"
        "cache.resize_to_square = lambda *a: (time.sleep(0.1), old(*a))[1]"
    )
    process = child(dataset, runs, slow)
    temporary = runs / "XR_A-16" / "pixels.tmp"
    deadline = time.monotonic() + 60
    while not temporary.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert temporary.exists()
    assert not list((runs / "XR_A-16").glob("manifest*"))
    assert_true_to_the_files(build(dataset, runs), dataset)
    assert not temporary.exists()


def test_a_second_process_waits_and_then_only_opens(
    dataset: Dataset, runs: Path, counted: Counted
) -> None:
    build(dataset, runs)
    counted.loaded.clear()
    done: list[cache.Cache] = []
    with (runs / "XR_A-16" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: done.append(build(dataset, runs)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert done == []
    waiting.join(30)
    assert len(done) == 1
    assert counted.loaded == []


def test_a_folder_that_cannot_be_made_is_told(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written .*--runs"):
        build(dataset, tmp_path / "runs")


def spoil(dataset: Dataset, count: int) -> list[str]:
    """Truncate, empty, garble or delete the first `count` images, in turn."""
    paths: list[str] = dataset.frame["path"].tolist()[:count]
    for i, path in enumerate(paths):
        file = dataset.root / path
        whole = file.read_bytes()
        file.unlink()
        if i % 4 < 3:
            file.write_bytes((whole[:400], b"", b"text" * 50)[i % 4])
    return paths


def test_unreadable_images_are_named_and_left_out(tmp_path: Path, runs: Path) -> None:
    dataset = make(tmp_path / "data", 80)
    bad = spoil(dataset, 4)
    built = build(dataset, runs)
    assert [found.path for found in built.left_out] == bad
    assert {found.kind for found in built.left_out} == {"unreadable"}
    reasons = [found.detail.split(" (")[0].split(":")[0] for found in built.left_out]
    assert reasons == ["truncated after 400 bytes", "empty file", "not an image", "no such file"]
    assert len(built.frame) == len(built.pixel_sha) == 76
    assert set(built.records) == set(dataset.frame["path"])
    assert_true_to_the_files(built, dataset)
    again = build(dataset, runs)
    assert again.left_out == built.left_out


def test_a_repaired_image_comes_back(tmp_path: Path, runs: Path, counted: Counted) -> None:
    dataset = make(tmp_path / "data", 80)
    bad = spoil(dataset, 4)
    build(dataset, runs)
    counted.decoded.clear()
    for i, path in enumerate(bad):
        paint(dataset.root / path, i)
        os.utime(dataset.root / path, ns=(i, i))
    built = build(dataset, runs)
    assert built.left_out == ()
    assert sorted(counted.decoded) == sorted(str(dataset.root / path) for path in bad)
    assert_true_to_the_files(built, dataset)


def test_an_image_that_could_not_be_opened_is_tried_again(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(tmp_path / "data")
    shut = dataset.root / dataset.frame["path"][3]
    load = images.read_file

    def denied(path: Path) -> bytes:
        if path == shut:
            raise UnreadableImage(path, "cannot be opened: permission denied")
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(images, "read_file", denied)
        assert [found.path for found in build(dataset, runs).left_out] == [dataset.frame["path"][3]]
    assert build(dataset, runs).left_out == ()  # its size and time never changed


def test_strict_names_the_first_and_counts(tmp_path: Path, runs: Path) -> None:
    dataset = make(tmp_path / "data", 80)
    first = dataset.root / spoil(dataset, 2)[0]
    with pytest.raises(InputError, match=r"first of 2 unreadable.*without --strict") as told:
        build(dataset, runs, strict=True)
    assert str(told.value).startswith(f"{first}: truncated")


@pytest.mark.parametrize(("bad", "stops"), [(2, False), (3, True), (40, True)])
def test_more_than_five_percent_unreadable_stops(
    tmp_path: Path, runs: Path, bad: int, stops: bool
) -> None:
    dataset = make(tmp_path / "data", 40)
    spoil(dataset, bad)
    if not stops:
        assert len(build(dataset, runs).left_out) == bad
        return
    with pytest.raises(InputError, match=f"{bad} of 40 images .* more than 5%.*damaged") as told:
        build(dataset, runs)
    assert str(told.value).count("image1.png: ") == 3
    assert "\n" not in str(told.value)


def test_the_bar_goes_to_a_terminals_stderr_under_the_datasets_name(
    dataset: Dataset,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache.open_cache(dataset, SIZE, runs / "quiet")
    assert capsys.readouterr() == ("", "")  # a log file gets no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cache.open_cache(dataset, SIZE, runs)
    out, err = capsys.readouterr()
    assert out == ""
    assert "XR_A" in err
    assert "30/30" in err


@pytest.mark.parametrize(
    ("threads", "result_bytes", "bound"),
    [(2, 1, 2 * scan.AHEAD), (64, 1 << 20, scan.IN_FLIGHT >> 20), (64, scan.IN_FLIGHT, 1)],
)
def test_no_more_than_the_bound_is_in_flight(threads: int, result_bytes: int, bound: int) -> None:
    started: list[str] = []

    def work(path: str) -> tuple[images.Record, None]:
        started.append(path)
        return images.Record(0, 0, "a", "b", ""), None

    reads = scan.map_in_order(work, (str(i) for i in range(10_000)), threads, result_bytes)
    next(reads)
    time.sleep(0.1)
    assert bound <= len(started) <= bound + 1
    reads.close()


@pytest.mark.parametrize("reader", ["cache", "scan"])
def test_as_many_images_are_read_at_once_as_there_are_cores(
    dataset: Dataset, runs: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)))
    all_reading, examine = threading.Barrier(5, timeout=20), images.examine_image

    def together(*args: object) -> object:
        all_reading.wait()
        return examine(*args)

    monkeypatch.setattr(cache if reader == "cache" else scan, "examine_image", together)
    if reader == "cache":
        assert len(build(dataset, runs).pixels) == 30
    else:
        assert len(scan.scan_dataset(dataset, progress=False).records) == 30


def test_no_machine_has_too_many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(256)))
    assert scan.usable_threads() == scan.MOST_THREADS
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert scan.usable_threads() == 1


def test_the_manifest_tells_what_each_file_held(dataset: Dataset, runs: Path) -> None:
    built = build(dataset, runs)
    told = json.loads(manifest_of(runs).read_text())
    path, size, mtime, *shas, error, ctime = told["images"][0]
    status = (dataset.root / path).stat()
    assert (size, mtime, error) == (status.st_size, status.st_mtime_ns, "")
    assert ctime == status.st_ctime_ns
    assert shas == [built.records[path].file_sha, built.pixel_sha[0]]


def test_real_radiographs_are_cached_without_the_two_truncated_ones(runs: Path, real: Path) -> None:
    dataset = index_mura(real).for_area("XR_MIXED")
    built = build(dataset, runs)
    assert len(built.pixels) == 344
    assert [Path(found.path).name for found in built.left_out] == ["image99.png"] * 2
    assert_true_to_the_files(built, dataset)
