"""The cache of an area as files that travel, so that a worker needs no dataset folder.

`mura cache AREA --push URL` writes a folder `URL/AREA-SIZE`: the pixels, the near-copies among
them, the index (path, patient, study, label, published split and digests of every image), and last
`cache.json`, which has size and sha256 of each. A file is named by its content, so that a reader of
an older cache finds its files while a newer one is pushed.

A worker downloads the folder once a machine, into `FOLDER/fetched/DIGEST`, where DIGEST is the
sha256 of `cache.json`. Every byte is compared with `cache.json` each time that it is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from mura_tune import files
from mura_tune.areas import ALL, WHOLE_DATASET_AREAS, stored_area
from mura_tune.data.cache import digest_contents, explain_full_disk, home_name
from mura_tune.data.duplicates import RULE_VERSION, copies_file_name, read_near_copies
from mura_tune.data.index import Finding, validate_frame
from mura_tune.data.listing import IMAGE_COLUMNS
from mura_tune.data.pixels import open_pixels
from mura_tune.data.prepare import AreaImages
from mura_tune.data.records import Digests
from mura_tune.errors import InputError
from mura_tune.imaging.images import PREPROCESSING
from mura_tune.release_format.checksums import sha256
from mura_tune.strict import build_dataclass, check_value, parse_json
from mura_tune.transfer.stores import Store, open_store

_LAYOUT = 1  # of the folder; raise it whenever older versions could not read it
LIST_FILE = "cache.json"
_LIST_BYTES = 2**16
_DIGEST = re.compile("[0-9a-f]{64}")
_AGAIN = "push it again: mura cache AREA --push URL"


@dataclass(frozen=True)
class CacheFile:
    """A file of a cache: its name in the folder, its size and its sha256."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        plain = PurePosixPath(self.name).name == self.name and not self.name.startswith(".")
        check_value(plain, "name", self.name, "the name of a file")
        check_value(self.bytes >= 0, "bytes", self.bytes, "a number of bytes")
        check_value(bool(_DIGEST.fullmatch(self.sha256)), "sha256", self.sha256, "64 hex digits")


@dataclass(frozen=True)
class CacheList:
    """What `cache.json` says: which area of which dataset, how it was decoded, and its files.

    Attributes:
        layout, preprocessing, near_copies: versions of the folder, of the decoding of images, and
            of the rule for near-copies.
        area: `ALL` for all areas together.
        size: pixels a side.
        dataset: the name of the dataset, for people.
        fingerprint, found, publishes_test: as in `AreaImages`.
    """

    layout: int
    preprocessing: int
    near_copies: int
    area: str
    size: int
    dataset: str
    fingerprint: str
    found: Mapping[str, int]
    publishes_test: bool
    pixels: CacheFile
    copies: CacheFile
    index: CacheFile

    @property
    def files(self) -> tuple[CacheFile, ...]:
        return (self.index, self.copies, self.pixels)


@dataclass(frozen=True)
class PushedCache:
    """Where a cache was written, its size in bytes, and the sha256 of its `cache.json`."""

    url: str
    bytes: int
    sha256: str


def push_cache(images: AreaImages, url: str) -> PushedCache:
    """Write the cache of an area below `url`, the list of its files last.

    Raises:
        InputError: a URL of no store, or of one that takes no files.
        MuraError: the store is out of reach.
    """
    store = open_store(url)
    folder = _folder_name(images.area, images.pixels.shape[1])
    copies = images.file.with_name(copies_file_name(images.file.name))
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch, "index.json")
        index.write_bytes(_write_index(images))
        listed = [_describe(path) for path in (images.file, copies, index)]
        content = CacheList(
            layout=_LAYOUT,
            preprocessing=PREPROCESSING,
            near_copies=RULE_VERSION,
            area=_cached_name(images.area),
            size=images.pixels.shape[1],
            dataset=images.dataset,
            fingerprint=images.fingerprint,
            found=images.found,
            publishes_test=images.publishes_test,
            pixels=listed[0],
            copies=listed[1],
            index=listed[2],
        )
        for file, path in zip(listed, (images.file, copies, index), strict=True):
            store.write(f"{folder}/{file.name}", path)
        written = Path(scratch, LIST_FILE)
        written.write_text(json.dumps(dataclasses.asdict(content), indent=1), encoding="utf-8")
        store.write(f"{folder}/{LIST_FILE}", written)
        total = sum(file.bytes for file in listed)
        return PushedCache(f"{store.url}/{folder}", total, sha256(written))


def fetch_cache(url: str, area: str, size: int, folder: Path) -> AreaImages:
    """Open the cache of an area that lies below `url`, downloaded into `folder` unless it is there.

    `URL#sha256=DIGEST` takes only the cache whose `cache.json` has that digest; once that is on
    this machine, no request is made.

    Args:
        area: as a search has it; the router and all areas together have one cache.
        size: pixels a side.

    Raises:
        InputError: no such cache, one of another version, area or size, or a file that differs
            from `cache.json`.
        MuraError: the store is out of reach; the same call goes on from what has come.
    """
    plain, _, pin = url.partition("#sha256=")
    if pin and not _DIGEST.fullmatch(pin):
        raise InputError(f"--cache: after #sha256= stand 64 hex digits, and not {pin[:80]!r}")
    store = open_store(plain)
    name = _folder_name(area, size)
    source = f"{store.url}/{name}"
    fetched = folder / "fetched"
    known = fetched / pin / LIST_FILE if pin else None
    if known is not None and known.is_file():
        content = known.read_bytes()
    else:
        content = store.read(f"{name}/{LIST_FILE}", _LIST_BYTES)
    digest = hashlib.sha256(content).hexdigest()
    if pin and digest != pin:
        raise InputError(
            f"{source}/{LIST_FILE}: its sha256 is {digest}, and not the one asked for; nothing of "
            "it was used"
        )
    listed = _read_list(content, f"{source}/{LIST_FILE}")
    _check_list(listed, source, _cached_name(area), size)
    home = fetched / digest
    total = sum(file.bytes for file in listed.files)
    with explain_full_disk(home, listed.area, size, total):
        files.refuse_releases(home)
        home.mkdir(parents=True, exist_ok=True)
        with files.hold_lock(fetched / f"{digest}.lock"):  # a second process finds the files there
            for file in listed.files:
                _bring(store, name, file, home)
            files.replace_file(home / LIST_FILE, content)
    return _open(home, listed, area, source)


def _cached_name(area: str) -> str:
    """The area whose pixels a search of `area` reads: one name for all areas together."""
    area = stored_area(area)
    return ALL if area in WHOLE_DATASET_AREAS else area


def _folder_name(area: str, size: int) -> str:
    return home_name(_cached_name(area), size)


def _describe(path: Path) -> CacheFile:
    digest = sha256(path)
    return CacheFile(
        f"{path.stem.partition('-')[0]}-{digest[:16]}{path.suffix}", path.stat().st_size, digest
    )


def _read_list(content: bytes, source: str) -> CacheList:
    plain = parse_json(content, source)
    try:
        if isinstance(plain, Mapping) and plain.get("layout") != _LAYOUT:
            raise ValueError(f"layout is {plain.get('layout')!r}, and this version reads {_LAYOUT}")
        listed: CacheList = build_dataclass(CacheList, plain, "")
    except ValueError as error:
        raise InputError(f"{source}: no list of a cache: {error}; {_AGAIN}") from None
    return listed


def _check_list(listed: CacheList, source: str, area: str, size: int) -> None:
    """Raise InputError for a cache of another area or size, or one made by another version."""
    if (listed.area, listed.size) != (area, size):
        raise InputError(
            f"{source}: holds {listed.area} at {listed.size} px, and not {area} at {size} px; "
            f"{_AGAIN}"
        )
    for what, theirs, ours in (
        ("decodes images", listed.preprocessing, PREPROCESSING),
        ("finds near-copies", listed.near_copies, RULE_VERSION),
    ):
        if theirs != ours:
            raise InputError(
                f"{source}: made by a version of mura-tune that {what} in another way ({theirs}; "
                f"this one: {ours}); use one version on all machines, and {_AGAIN}"
            )


def _bring(store: Store, folder: str, file: CacheFile, home: Path) -> None:
    """Have a file of the list in `home`, whole and unchanged; a wrong one does not stay."""
    path = home / file.name
    if path.is_file() and sha256(path) == file.sha256:
        return
    path.unlink(missing_ok=True)
    part, source = path.with_name(f"{file.name}.part"), f"{store.url}/{folder}/{file.name}"
    begun = part.is_file()
    store.append(f"{folder}/{file.name}", part, file.sha256, file.bytes)
    if begun and sha256(part) != file.sha256:  # the bytes that were there before may be wrong
        part.unlink()
        store.append(f"{folder}/{file.name}", part, file.sha256, file.bytes)
    if (came := part.stat().st_size) < file.bytes:
        raise InputError(f"{source}: cut off after {came} of {file.bytes} bytes; {_AGAIN}")
    if sha256(part) != file.sha256:
        part.unlink()
        raise InputError(f"{source}: changed: its sha256 is not the one in {LIST_FILE}; {_AGAIN}")
    part.replace(path)


def _write_index(images: AreaImages) -> bytes:
    columns = [images.frame[name].tolist() for name in IMAGE_COLUMNS]
    rows = zip(*columns, images.file_sha, images.pixel_sha, strict=True)
    left_out = [[finding.kind, finding.path, finding.detail] for finding in images.left_out]
    columns_of_rows = [*IMAGE_COLUMNS, "file_sha", "pixel_sha"]
    content = {"columns": columns_of_rows, "rows": [*rows], "left_out": left_out}
    return json.dumps(content, indent=0).encode()


def _open(home: Path, listed: CacheList, area: str, source: str) -> AreaImages:
    """The images of a downloaded cache.

    Raises:
        InputError: the files contradict one another, though each is as it was pushed.
    """
    try:
        plain = json.loads((home / listed.index.name).read_bytes())
        table = pd.DataFrame(plain["rows"], columns=plain["columns"])
        frame = validate_frame(table, f"{source}/{listed.index.name}")
        file_sha, pixel_sha = (
            Digests.of(table[name].tolist()) for name in ("file_sha", "pixel_sha")
        )
        left_out = tuple(Finding(*finding) for finding in plain["left_out"])
        near = read_near_copies(home / listed.copies.name)
        pixels = open_pixels(home / listed.pixels.name)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{source}: no cache of images: {error}; {_AGAIN}") from None
    fits = pixels.shape == (len(frame), listed.size, listed.size) and near is not None
    if not fits or digest_contents(frame, file_sha) != listed.fingerprint:
        raise InputError(f"{source}: its pixels and its index are not of one dataset; {_AGAIN}")
    assert near is not None
    return AreaImages(
        area=stored_area(area),
        pixels=pixels,
        file_sha=file_sha,
        pixel_sha=pixel_sha,
        frame=frame,
        left_out=left_out,
        near=near,
        fingerprint=listed.fingerprint,
        found=listed.found,
        publishes_test=listed.publishes_test,
        dataset=listed.dataset,
        root=None,
        file=home / listed.pixels.name,
    )
