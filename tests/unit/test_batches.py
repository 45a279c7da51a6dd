"""Splits and batches: the same content wherever the pixels lie and however they are cut up."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mura_tune.errors import InputError
from mura_tune.networks import device
from mura_tune.search.pool import LocalPool
from mura_tune.training import batches
from mura_tune.training.batches import (
    OnDisk,
    Split,
    epoch_order,
    load_split,
    plain_batches,
    to_input,
    training_batches,
)

CPU = torch.device("cpu")
N, SIDE = 37, 24


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    """What `data.prepare` gives, its pixels in a file, last first; every third view is dev."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    names = [f"s{i:02d}" for i in range(N)]
    frame = pd.DataFrame(
        {
            "study": names,
            "patient": names,
            "path": names,
            "label": range(N),
            "area": "XR_A",
            "row": np.arange(N)[::-1],
        }
    )
    rows = {"dev": np.arange(0, N, 3), "train": np.flatnonzero(np.arange(N) % 3)}
    return SimpleNamespace(
        pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"),
        frame=frame,
        rows=rows.__getitem__,
        areas=("XR_A",),
    )


def train(split: Split, **values: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    given = {"size": 6, "seed": 3, "epoch": 2, "strength": 0.5, "device": CPU} | values
    return list(training_batches(split, **given))


def test_a_part_within_the_budget_lies_on_the_device(prepared: Any) -> None:
    rows = prepared.rows("train")
    exact = len(rows) * SIDE * SIDE
    resident = load_split(prepared, "train", CPU, exact)
    assert isinstance(resident.pixels, torch.Tensor)
    assert isinstance(load_split(prepared, "train", CPU, exact - 1).pixels, OnDisk)
    assert isinstance(load_split(prepared, "train", CPU).pixels, torch.Tensor)
    assert (resident.pixels.numpy() == prepared.pixels[::-1][rows]).all()
    assert resident.labels.tolist() == rows.tolist()


def test_the_names_of_a_part_are_those_of_the_frame(prepared: Any) -> None:
    part = load_split(prepared, "dev", CPU)
    for names, column in (
        (part.studies, "study"),
        (part.patients, "patient"),
        (part.paths, "path"),
    ):
        assert names[1] is prepared.frame[column][3]


@pytest.mark.parametrize("chunk", [1, 6 * SIDE * SIDE, 20 * SIDE * SIDE, 2**30])
def test_streamed_batches_are_the_resident_ones_whatever_the_chunk(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    resident, streamed = (load_split(prepared, "train", CPU, budget) for budget in (2**30, 0))
    expected = train(resident)
    monkeypatch.setattr(batches, "READ_AHEAD_BYTES", chunk)
    for (x, labels), (x_, labels_) in zip(train(streamed), expected, strict=True):
        assert torch.equal(x, x_)
        assert torch.equal(labels, labels_)
    plain = list(plain_batches(streamed, 10, CPU))
    assert [len(x) for x in plain] == [10, 10, 4]
    for x, x_ in zip(plain, plain_batches(resident, 10, CPU), strict=True):
        assert torch.equal(x, x_)
    assert streamed.fingerprint == resident.fingerprint


def test_an_images_view_does_not_depend_on_its_batch(prepared: Any) -> None:
    split = load_split(prepared, "train", CPU)
    by_label = [
        {int(y): x for xs, ys in train(split, size=size) for x, y in zip(xs, ys, strict=True)}
        for size in (3, 12)
    ]
    assert all(torch.allclose(x, by_label[1][y], atol=1e-6) for y, x in by_label[0].items())
    rows = epoch_order(split, sampling="natural", seed=3, epoch=2).rows
    assert torch.cat([y for _, y in train(split)]).tolist() == rows.tolist()


def test_an_epoch_has_its_own_order_and_views(prepared: Any) -> None:
    split = load_split(prepared, "train", CPU)
    one, same, other = train(split), train(split), train(split, epoch=3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, same, strict=True))
    assert [b[1].tolist() for b in one] != [b[1].tolist() for b in other]


def test_batches_leave_the_pixels_as_they_were(prepared: Any) -> None:
    split = load_split(prepared, "train", CPU)
    before = split.pixels[:].clone()
    train(split, strength=0.0)
    many = split.pixels[:20]  # more than are converted at once
    expected = (many[:, None] / 255 - 0.449) / 0.226
    assert torch.allclose(to_input(many, CPU), expected, atol=1e-6)
    assert torch.equal(split.pixels[:], before)


def test_the_fingerprint_is_of_pixels_and_order(prepared: Any) -> None:
    split = load_split(prepared, "train", CPU)
    names = {"labels": split.labels, "studies": split.studies, "patients": split.patients}

    def of(pixels: torch.Tensor) -> str:
        return Split("other", pixels, paths=split.paths, **names).fingerprint

    pixels = split.pixels[:]
    assert of(pixels) == split.fingerprint
    assert of(pixels.flip(0)) != split.fingerprint
    changed = pixels.clone()
    changed[5, 3, 3] += 1
    assert of(changed) != split.fingerprint
    assert of(pixels.view(-1, SIDE * 2, SIDE // 2)) != split.fingerprint


def test_rows_are_taken_by_slice_list_and_tensor(prepared: Any) -> None:
    pixels = OnDisk(prepared.pixels, np.array([5, 3, 9]))
    expected = torch.from_numpy(prepared.pixels[[3, 9]])
    for index in ([1, 2], torch.tensor([1, 2]), slice(1, 3)):
        assert torch.equal(pixels[index], expected)
    assert pixels.shape == (3, SIDE, SIDE)


def file_pages() -> int:
    """Bytes of mapped files that this process holds in memory."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_reading_a_file_through_leaves_none_of_it_in_memory(tmp_path: Path) -> None:
    size = 48 * 2**20
    np.save(tmp_path / "pixels.npy", np.ones((size // 2**14, 128, 128), np.uint8))
    pixels = OnDisk(np.load(tmp_path / "pixels.npy", mmap_mode="r"), np.arange(size // 2**14))
    before = file_pages()
    for start in range(0, len(pixels), 256):
        pixels[start : start + 256]
    assert file_pages() - before < size / 4


def test_a_gpu_takes_half_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 90_000))
    assert device.pixel_memory(torch.device("cuda:0")) == 5_000
    assert device.pixel_memory(torch.device("cuda:0"), workers=4) == 1_250
    assert device.pixel_memory(CPU) > 2**28
    assert device.feature_memory(torch.device("cuda:0"), workers=2) == 1_250
    assert device.feature_memory(CPU) == 0


def test_all_devices_are_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(one) for one in device.choose_devices("all")] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [str(one) for one in device.choose_devices("cpu,cuda:2")] == ["cpu", "cuda:2"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="--devices all: this machine has no CUDA device"):
        device.choose_devices("all")


@pytest.mark.parametrize(
    ("workers", "names", "sharers"),
    [(1, "cuda", 1), (4, "cuda,cuda:0", 4), (3, "cuda:0,cuda:1", 2), (2, "cpu,cuda:0", 1)],
)
def test_workers_on_one_device_share_its_memory(workers: int, names: str, sharers: int) -> None:
    devices = tuple(torch.device(name) for name in names.split(","))
    assert LocalPool(workers, devices).sharers == sharers


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_bfloat16_is_for_gpus_that_have_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert device.precision(torch.device("cuda:0")) == expected
    assert device.precision(CPU) == torch.float32
