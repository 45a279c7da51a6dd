"""The store of features: whole or absent, shared, never waited for, and under its budget."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch

from mura_tune.errors import InputError
from mura_tune.training.feature_cache import FeatureCache, FeatureMemory, FeatureStore

CPU = torch.device("cpu")
SIZES = [3, 3, 2]


def rows(seed: int = 0, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(n, *(shape or (5,)), generator=generator) for n in SIZES]


def get(
    store: FeatureCache, name: str, batches: list[torch.Tensor]
) -> tuple[list[torch.Tensor], bool]:
    """An entry's batches, and whether they had to be computed."""
    computed = False

    def compute() -> Iterator[torch.Tensor]:
        nonlocal computed
        computed = True
        yield from batches

    found = list(store.batches({"name": name}, SIZES, CPU, compute))
    assert all(torch.equal(a, b) for a, b in zip(found, batches, strict=True))
    return found, computed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 2, 2)])
def test_what_was_computed_once_is_read_in_its_dtype(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    store, batches = FeatureStore(tmp_path / "a" / "b"), [b.to(dtype) for b in rows(0, *shape)]
    assert get(store, "x", batches)[1]
    found, computed = get(store, "x", batches)
    assert not computed
    assert {b.dtype for b in found} == {dtype}
    assert get(store, "y", batches)[1]


def test_channels_last_features_come_back_so(tmp_path: Path) -> None:
    batches = [b.to(memory_format=torch.channels_last) for b in rows(0, 3, 4, 4)]
    get(FeatureStore(tmp_path), "x", batches)
    found, computed = get(FeatureStore(tmp_path), "x", batches)
    assert not computed
    assert [b.stride() for b in found] == [b.stride() for b in batches]


def test_memory_gives_what_it_saw_and_asks_no_file(tmp_path: Path) -> None:
    store = FeatureMemory(FeatureStore(tmp_path), 8 * 5 * 4 * 2)  # two entries
    for name in "ab":
        assert get(store, name, rows())[1]
    shutil.rmtree(tmp_path)
    found, computed = get(store, "a", rows())  # used now, and so not the one that makes room
    assert not computed
    found[0].zero_()  # a copy: what is kept stays as it was
    tmp_path.mkdir()
    assert get(store, "c", rows())[1]
    assert not get(store, "a", rows())[1]
    assert get(store, "b", rows())[1]
    assert store.bytes == store.budget


def test_memory_that_an_entry_does_not_fit_leaves_it_to_the_file(tmp_path: Path) -> None:
    store = FeatureMemory(FeatureStore(tmp_path), 8 * 5 * 4 - 1)
    assert get(store, "x", rows())[1]
    assert not get(store, "x", rows())[1]
    next(tmp_path.glob("*.bin")).unlink()
    assert get(store, "x", rows())[1]
    assert store.bytes == 0


def test_channels_last_features_come_from_memory_as_they_were(tmp_path: Path) -> None:
    batches = [b.to(memory_format=torch.channels_last) for b in rows(0, 3, 4, 4)]
    store = FeatureMemory(FeatureStore(tmp_path, budget=0), 10**6)
    with torch.inference_mode():
        get(store, "x", batches)
    found, computed = get(store, "x", batches)
    assert not computed
    assert [b.stride() for b in found] == [b.stride() for b in batches]
    (found[0] * torch.ones(1, requires_grad=True)).sum().backward()  # no tensor of inference


STORES = {
    "file": FeatureStore,
    "memory": lambda folder: FeatureMemory(FeatureStore(folder, budget=0), 10**6),
}


@pytest.mark.parametrize("store_at", STORES.values(), ids=STORES)
def test_an_entry_that_is_not_read_to_its_end_is_not_kept(
    tmp_path: Path, store_at: Callable[[Path], FeatureCache]
) -> None:
    store = store_at(tmp_path)
    midway = store.batches({"name": "x"}, SIZES, CPU, lambda: rows())
    next(midway)
    assert isinstance(midway, Generator)
    midway.close()
    assert list(tmp_path.glob("*.tmp")) == []
    assert get(store, "x", rows())[1]
    assert not get(store, "x", rows())[1]


def test_who_meets_a_writer_computes_and_does_not_wait(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    writing = store.batches({"name": "x"}, SIZES, CPU, lambda: rows())
    next(writing)
    assert get(FeatureStore(tmp_path), "x", rows())[1]
    assert list(tmp_path.glob("*.bin")) == []  # the second writer left the first's file alone
    list(writing)
    assert not get(FeatureStore(tmp_path), "x", rows())[1]


# What another process runs: it says when it is midway through an entry, then stops there.
WRITER = """
import sys, time, torch
from pathlib import Path
from mura_tune.training.feature_cache import FeatureCache, FeatureMemory, FeatureStore
def compute():
    generator = torch.Generator().manual_seed(0)
    for number, n in enumerate([3, 3, 2]):
        if number == 2:
            print("midway", flush=True)
            time.sleep(60)
        yield torch.rand(n, 5, generator=generator)
store = FeatureStore(Path(sys.argv[1]))
list(store.batches({"name": "x"}, [3, 3, 2], torch.device("cpu"), compute))
"""


def test_a_writer_killed_midway_leaves_nothing_that_is_read_or_waited_for(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "midway\n"
        started = time.monotonic()
        assert get(store, "x", rows())[1]  # while the other lives and writes
        assert [file.suffix for file in tmp_path.iterdir() if file.stem != "lock"] == [".tmp"]
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert get(store, "x", rows())[1]  # its half is not taken for whole
        assert not get(store, "x", rows())[1]  # and the entry is kept by the next
        assert time.monotonic() - started < 30  # the other would have slept for 60
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()


def test_what_dead_writers_left_is_swept_with_the_next_entry(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for name in ("dead.tmp", "dead.new", "orphan.bin"):
        (tmp_path / name).write_bytes(b"half")
    get(store, "x", rows())
    assert sorted(file.suffix for file in tmp_path.iterdir()) == ["", ".bin", ".json"]


@pytest.mark.parametrize("damage", ["cut", "gone", "json", "empty"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, damage: str) -> None:
    store = FeatureStore(tmp_path)
    get(store, "x", rows())
    data, manifest = next(tmp_path.glob("*.bin")), next(tmp_path.glob("*.json"))
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "gone":
        data.unlink()
    else:
        manifest.write_text("{" if damage == "json" else "{}")
    assert get(store, "x", rows())[1]
    assert not get(store, "x", rows())[1]


def test_the_entry_used_longest_ago_makes_room(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=3 * 8 * 5 * 4)  # three entries of 8 rows of 5 floats
    for number, name in enumerate("abc"):
        get(store, name, rows())
        for manifest in tmp_path.glob("*.json"):  # a second apart, however coarse the clock
            if json.loads(manifest.read_text())["about"]["name"] == name:
                os.utime(manifest, (number, number))
    assert not get(store, "a", rows())[1]  # used now
    assert get(store, "d", rows())[1]
    assert not get(store, "a", rows())[1]
    assert not get(store, "c", rows())[1]
    assert get(store, "b", rows())[1]
    assert sum(file.stat().st_size for file in tmp_path.glob("*.bin")) <= store.budget


def test_an_entry_over_the_budget_evicts_nothing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=200)
    get(store, "small", rows(0, 1))
    assert get(store, "large", rows(0, 50))[1]
    assert get(store, "large", rows(0, 50))[1]
    assert not get(store, "small", rows(0, 1))[1]


def test_who_reads_an_entry_keeps_it_though_it_is_evicted(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, budget=8 * 5 * 4)
    get(store, "x", rows(0))
    reading = store.batches({"name": "x"}, SIZES, CPU, lambda: pytest.fail("it is kept"))
    first = next(reading)
    get(store, "y", rows(1))  # takes the place of x
    assert all(torch.equal(a, b) for a, b in zip([first, *reading], rows(0), strict=True))
    assert get(store, "x", rows(0))[1]


def test_a_full_disk_costs_time_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = FeatureStore(tmp_path)
    assert get(store, "x", rows())[1]
    assert "No space left" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
    monkeypatch.undo()
    assert get(store, "x", rows())[1]
    assert not get(store, "x", rows())[1]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/features: cannot be made"):
        FeatureStore(tmp_path / "file" / "features")
