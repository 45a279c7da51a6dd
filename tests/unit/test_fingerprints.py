"""Fingerprints tell copies from other pictures, come back from their text, and stay small."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mura_tune.data import fingerprints
from mura_tune.data.fingerprints import (
    compute_fingerprints,
    correlate_fingerprints,
    match_fingerprints,
    read_fingerprints,
    write_fingerprints,
)
from mura_tune.errors import InputError
from mura_tune.imaging.candidates import orientations
from mura_tune.imaging.images import read_image, resize_to_square


def prints_of(pictures: list[np.ndarray]) -> np.ndarray:
    squares = np.stack([resize_to_square(np.ascontiguousarray(p), 96) for p in pictures])
    return compute_fingerprints(squares, np.arange(len(squares)))


def test_a_picture_saved_anew_is_told_however_it_is_held_and_others_are_not(
    phantoms: Path, tmp_path: Path
) -> None:
    paths = sorted(phantoms.glob("train/XR_WRIST/*/*/image1.png"))[:9]
    greys = [read_image(path) for path in paths]
    copies = []
    for number, turned in enumerate(orientations(greys[0])):
        height, width = turned.shape
        image = Image.fromarray(np.ascontiguousarray(turned // 4 * 3))
        image.resize((width * 2 // 3, height * 2 // 3)).save(tmp_path / f"{number}.jpg", quality=70)
        copies.append(read_image(tmp_path / f"{number}.jpg"))
    first, others = prints_of(greys[:1]), prints_of(greys[1:])
    assert match_fingerprints(prints_of(copies), first).all()
    assert not match_fingerprints(others, first).any()
    assert match_fingerprints(others, np.concatenate([first, others])).all()
    assert not match_fingerprints(others, first[:0]).any()


def test_fingerprints_come_back_from_their_text_in_another_order() -> None:
    rng = np.random.default_rng(0)
    prints = compute_fingerprints(rng.integers(0, 256, (5, 64, 64), np.uint8), np.arange(5))
    assert prints.reshape(5, -1).min(1).tolist() == [0] * 5
    assert prints.reshape(5, -1).max(1).tolist() == [63] * 5
    text = write_fingerprints(prints)
    assert text.splitlines() == sorted(text.splitlines())
    assert {len(line) for line in text.splitlines()} == {256}
    back = read_fingerprints(text, "for a test")
    assert {one.tobytes() for one in back} == {one.tobytes() for one in prints}
    assert write_fingerprints(prints[::-1]) == text


@pytest.mark.parametrize("line", ["", "A" * 255, "A" * 255 + "é", "A" * 255 + "-", "A" * 257])
def test_a_line_that_is_none_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(InputError, match=r"f\.txt: line 2 is no fingerprint; fetch the release"):
        read_fingerprints(f"{'A' * 256}\n{line}\n", "f.txt")


def test_of_too_many_pictures_evenly_spaced_ones_are_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fingerprints, "MOST", 3)
    prints = np.arange(7, dtype=np.uint8)[:, None, None] + np.zeros((1, 16, 16), np.uint8)
    assert [line[0] for line in write_fingerprints(prints).splitlines()] == ["A", "D", "G"]


def test_a_picture_of_one_grey_is_like_no_other() -> None:
    flat = compute_fingerprints(np.full((2, 32, 32), 90, np.uint8), np.arange(2))
    assert correlate_fingerprints(flat, flat).tolist() == [0, 0]
