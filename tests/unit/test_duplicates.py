"""One picture is known again, however it is held, saved and cut; two like ones are told apart."""

import contextlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mura_tune.data import duplicates
from mura_tune.errors import UnreadableImage
from mura_tune.imaging import registration
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.phantoms.dataset import plan_studies
from mura_tune.phantoms.rendering import draw_view


def pairs(pictures: list[NDArray[np.uint8]], size: int) -> list[tuple[int, int]]:
    stack = np.stack(
        [resize_to_square(np.ascontiguousarray(picture), size) for picture in pictures]
    )
    return sorted((p.first, p.second) for p in duplicates.find_pairs(stack, np.arange(len(stack))))


@pytest.fixture(scope="module")
def greys(phantoms: Path) -> list[NDArray[np.uint8]]:
    return [read_image(path) for path in sorted(phantoms.glob("*/XR_WRIST/*/*/*.png"))]


def test_the_map_between_two_pictures_is_found(greys: list[NDArray[np.uint8]]) -> None:
    """Where one is the other moved and scaled, the map says by how much, and details agree."""
    base = np.stack([resize_to_square(g, 64) for g in greys[:4]]).astype(np.float32)
    truth = np.array([[0.95, 0, 0.04], [0, 0.93, -0.05]], np.float32)
    moved = []
    for picture in base:  # PIL maps pixels, from the left upper corner of the first one
        pixels = truth.copy()
        pixels[:, 2] = (truth[:, 2] - truth[:, :2].sum(1) + 1) * 32
        image = Image.fromarray(picture).transform(
            (64, 64), Image.Transform.AFFINE, pixels.ravel().tolist(), Image.Resampling.BICUBIC
        )
        moved.append(np.asarray(image) * 0.7 + 20)
    ones = np.stack(moved)
    maps = registration.identity_maps(4)
    for _ in range(2):
        maps = registration.align(ones, base, maps)
    assert np.abs(maps - truth).max() < 0.01
    assert registration.measure_agreement(ones, base, maps).min() > 0.97
    others = np.roll(base, 1, axis=0)
    assert (
        registration.measure_agreement(ones, others, registration.align(ones, others, maps)).max()
        < 0.9
    )


def test_all_copies_of_a_picture_are_found_where_it_has_more_than_are_looked_at_at_once(
    greys: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is a copy lets its picture's next pairs be looked at; without any it has done."""
    monkeypatch.setattr(duplicates, "AT_ONCE", 2)
    turned = [np.rot90(greys[0], quarter)[:, ::way] for quarter in range(4) for way in (1, -1)]
    assert len(pairs([greys[1], *turned], 48)) == 8 * 7 / 2


def test_a_cut_copy_is_known_and_like_pictures_are_not(greys: list[NDArray[np.uint8]]) -> None:
    cut = [g[2:-1, 1:-2] for g in greys[:3]]
    assert pairs([*greys[:8], *cut], 64) == [(0, 8), (1, 9), (2, 10)]
    # All phantoms of an area: some are so alike at 16 pixels that they are looked at more closely.
    looked = []
    real = registration.measure_agreement
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            registration, "measure_agreement", lambda *given: (looked.append(1), real(*given))[1]
        )
        assert pairs(greys, 32) == []
    assert looked


def test_bones_drawn_by_one_hand_are_not_one_picture(tmp_path: Path) -> None:
    """At 48 px these two, of two patients of the demo, agree as well as copies do."""
    studies = [
        next(s for s in plan_studies(split, "XR_FOREARM", count, 0) if s.patient == patient)
        for split, count, patient in (("train", 300, 311), ("valid", 75, 50_507))
    ]
    greys = [draw_view(study, 1, size=256)[0] for study in studies]
    copy = Image.fromarray(np.ascontiguousarray(np.rot90(greys[0])[:, ::-1]))
    copy.resize((copy.width * 2 // 3, copy.height * 2 // 3)).save(tmp_path / "a.jpg", quality=60)
    pictures = [*greys, read_image(tmp_path / "a.jpg")]
    assert pairs(pictures, 224) == [(0, 2)]
    # A scan holds few pixels of each, and looks into the files of those that agree in them.
    small, usual = (
        np.stack([resize_to_square(np.ascontiguousarray(picture), size) for picture in pictures])
        for size in (duplicates.SCAN_SIDE, duplicates.FULL_SIDE)
    )
    assert len(list(duplicates.find_pairs(small, np.arange(3)))) > 1
    found = duplicates.find_pairs(small, np.arange(3), whole=usual.__getitem__)
    assert [(pair.first, pair.second) for pair in found] == [(0, 2)]


def test_the_pairs_of_the_real_radiographs_stay_the_same(real: Path) -> None:
    """28 at the usual size, five of them under the names of two patients."""
    pictures, patients = [], []
    for file in sorted(real.rglob("*.png")):
        with contextlib.suppress(UnreadableImage):
            pictures.append(read_image(file))
            patients.append(file.parts[-3])
    found = pairs(pictures, 224)
    assert len(found) == 28
    crossing = {(patients[one], patients[other]) for one, other in found} - {
        (patient, patient) for patient in patients
    }
    assert {frozenset(int(name[-5:]) for name in pair) for pair in crossing} == {
        frozenset(pair) for pair in ((297, 274), (23, 58), (107, 287), (214, 219), (150, 183))
    }


def test_pairs_cross_the_blocks_and_take_no_memory_for_each_picture() -> None:
    """What is held of a picture is less than 1 kB, however many it is compared with."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3_200, 16, 16), np.uint8)
    pictures[3_190:] = pictures[1_100 + np.arange(10) * 200]
    peaks = []
    for count in (2_200, 3_200):
        rows = np.arange(3_200)[-count:]
        tracemalloc.start()
        found = {(pair.first, pair.second) for pair in duplicates.find_pairs(pictures, rows)}
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found == {(1_100 + 200 * i, 3_190 + i) for i in range(10)}
    assert peaks[1] - peaks[0] < 1_000 * 1_000
