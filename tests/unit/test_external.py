"""An external set: copies count once however they are held, and what was trained on is told."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Ran
from PIL import Image
from untrained import CPU

from mura_tune.config import Holdout
from mura_tune.data import duplicates
from mura_tune.data.label_folders import index_label_folders
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.errors import InputError
from mura_tune.imaging.candidates import orientations
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.networks.factory import build_network
from mura_tune.networks.starts import FINGERPRINTS, TRAINED_ON
from mura_tune.release.external import evaluate_external
from mura_tune.release.release import (
    current_preprocessing,
    list_fingerprints,
    list_training_pictures,
    load_release,
    save_release,
)
from mura_tune.release_format.entries import ThresholdEntry
from mura_tune.release_format.manifest import parse_manifest, uncalibrated

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def wrists(phantoms: Path) -> dict[int, list[Path]]:
    """Radiographs of the published valid part by label."""
    found = sorted(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))
    return {
        label: [p for p in found if p.parent.name.endswith(("_negative", "_positive")[label])]
        for label in (0, 1)
    }


@pytest.fixture
def outside(wrists: dict[int, list[Path]], tmp_path: Path) -> Path:
    """Four pictures of each label in train; in test a turned or mirrored copy of each."""
    root = tmp_path / "outside"
    for label, word in ((0, "not fractured"), (1, "fractured")):
        for part in ("train", "test"):
            (root / part / word).mkdir(parents=True)
        for number, path in enumerate(wrists[label][:4]):
            grey = read_image(path)
            Image.fromarray(grey).save(root / "train" / word / f"{number}.png")
            turned = np.ascontiguousarray(list(orientations(grey))[number + 2])
            copy = root / "test" / word / f"{number}-turned.{('png', 'jpg')[number % 2]}"
            Image.fromarray(turned).save(copy)
    return root


@pytest.fixture
def release(phantoms: Path, tmp_path: Path) -> Path:
    prepared = prepare(
        open_dataset(phantoms),
        "XR_WRIST",
        32,
        Holdout(dev=0.3, seed=1, folds=0),
        tmp_path / "cache",
    )
    manifest = {
        "schema": 2,
        "area": "XR_WRIST",
        "arch": "cnn",
        "outputs": 1,
        "recipe_digest": "",
        "preprocessing": current_preprocessing(32).to_json(),
        **uncalibrated(ThresholdEntry(value=0.5, rule="for a test")).to_json(),
    }
    texts = {
        TRAINED_ON: list_training_pictures(prepared),
        FINGERPRINTS: list_fingerprints(prepared),
    }
    save_release(
        tmp_path / "XR_WRIST",
        build_network("cnn", seed=1),
        parse_manifest(manifest, "for a test"),
        texts,
    )
    return tmp_path / "XR_WRIST"


def test_copies_are_found_however_they_are_held_and_saved(
    wrists: dict[int, list[Path]], tmp_path: Path
) -> None:
    greys = [read_image(path) for path in wrists[0][:6]]
    held = [*greys]
    for turned in orientations(greys[2]):
        height, width = turned.shape
        small = Image.fromarray(np.ascontiguousarray(turned)).resize((width // 2, height // 2))
        small.save(tmp_path / "a.jpg", quality=60)
        held.append(read_image(tmp_path / "a.jpg"))
    found = duplicates.group_copies(np.stack([resize_to_square(image, 48) for image in held]))
    assert found.tolist() == [0, 1, 2, 3, 4, 5] + [2] * 8
    blank = np.zeros((2, 32, 32), np.uint8)
    assert duplicates.group_copies(blank).tolist() == [0, 1]  # nothing to tell them by


def test_eight_orientations_are_all_there_are() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    digests = {duplicates.pixel_digest(np.ascontiguousarray(o)) for o in orientations(image)}
    assert len(digests) == 8
    assert digests == {duplicates.pixel_digest(o) for o in orientations(image[::-1].T)}


def test_an_external_set_is_counted_by_picture_and_by_image(
    run: Run, outside: Path, release: Path
) -> None:
    ran = run("evaluate", f"--release={release}", f"--data={outside}", "--layout=folders", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert (told["images"], told["studies"], told["copies"]) == (16, 8, 8)
    assert told["by_image"]["auc"]["low"] <= told["by_image"]["auc"]["value"]
    assert told["auc"]["low"] <= told["auc"]["value"] <= told["auc"]["high"]
    assert told["trained_on"] == []  # published valid is not trained on


def test_pictures_that_it_was_trained_on_are_told_turned_ones_too(
    run: Run, outside: Path, release: Path, phantoms: Path
) -> None:
    trained = read_image(next(phantoms.glob("train/XR_WRIST/*/*_positive/image1.png")))
    mirrored = outside / "test" / "fractured" / "known.png"
    Image.fromarray(np.rot90(trained)[:, ::-1].copy()).save(mirrored)
    ran = run("evaluate", f"--release={release}", f"--data={outside}", "--layout=folders")
    assert "warning: the release was trained on 1 of these pictures" in ran.out
    assert "(test/fractured/known.png)" in ran.out
    assert "17 images of 9 pictures; 8 are copies of another" in ran.out
    assert "saved anew" not in ran.out


def test_a_training_picture_that_was_saved_anew_is_told_by_its_fingerprint(
    run: Run, outside: Path, release: Path, phantoms: Path
) -> None:
    trained = read_image(next(phantoms.glob("train/XR_WRIST/*/*_positive/image1.png")))
    image = Image.fromarray(np.rot90(trained).copy())
    image.resize((image.width // 2, image.height // 2)).save(
        outside / "test" / "fractured" / "known.jpg", quality=60
    )
    ran = run("evaluate", f"--release={release}", f"--data={outside}", "--layout=folders")
    assert "warning: 1 of these pictures look like ones that the release was trained on" in ran.out
    assert "saved anew (test/fractured/known.jpg)" in ran.out


def test_a_picture_under_both_labels_is_left_out_by_name(
    outside: Path, release: Path, tmp_path: Path
) -> None:
    content = (outside / "train/fractured/0.png").read_bytes()
    (outside / "test/not fractured/again.png").write_bytes(content)
    found = evaluate_external(load_release(release, CPU), outside, tmp_path / "cache")
    assert [f.path for f in found.left_out] == [
        "test/fractured/0-turned.png",
        "test/not fractured/again.png",
        "train/fractured/0.png",
    ]
    assert found.measured.images == 14


def test_layouts_that_are_none_are_refused(outside: Path, tmp_path: Path) -> None:
    assert len(index_label_folders(outside / "train", "XR_A").frame) == 8  # without parts
    (outside / "train" / "unsure").mkdir()
    with pytest.raises(InputError, match="unsure: names no label; a folder is one of not frac"):
        index_label_folders(outside, "XR_A")
    (tmp_path / "one" / "fractured").mkdir(parents=True)
    with pytest.raises(InputError, match="0 images, and not of both labels"):
        index_label_folders(tmp_path / "one", "XR_A")
    with pytest.raises(InputError, match="no such folder"):
        index_label_folders(tmp_path / "none", "XR_A")


@pytest.mark.parametrize("part", ["testing", "validation", "Training", "dev"])
def test_every_part_by_its_usual_names_is_measured(outside: Path, part: str) -> None:
    (outside / "test").rename(outside / part)
    assert len(index_label_folders(outside, "XR_A").frame) == 16


def test_a_folder_beside_the_parts_is_refused_not_passed_over(outside: Path) -> None:
    (outside / "test").rename(outside / "hospital B")
    with pytest.raises(InputError, match="hospital B: stands beside train, but is no part"):
        index_label_folders(outside, "XR_A")


def test_folders_below_a_label_are_measured_links_too(outside: Path, tmp_path: Path) -> None:
    inner = outside / "train" / "fractured" / "2021" / "left"
    inner.mkdir(parents=True)
    (outside / "train" / "fractured" / "0.png").rename(inner / "0.png")
    (outside / "test" / "not fractured").rename(tmp_path / "elsewhere")
    (outside / "test" / "Not_Fractured").symlink_to(tmp_path / "elsewhere")
    (outside / "train" / "fractured" / "again").symlink_to(outside / "test" / "fractured")
    found = index_label_folders(outside, "XR_A")
    assert len(found.frame) == 16
    assert "train/fractured/2021/left/0.png" in set(found.frame["path"])
    assert {(note.kind, note.path) for note in found.notes} <= {
        ("not taken", "test/fractured"),
        ("not taken", "train/fractured/again"),
    }
    assert len(found.notes) == 1
    (inner / "normal").mkdir()
    with pytest.raises(InputError, match="left/normal: names another label than fractured"):
        index_label_folders(outside, "XR_A")


def test_files_that_are_not_taken_are_counted_and_named(
    outside: Path, release: Path, tmp_path: Path
) -> None:
    (outside / "LICENSE").write_text("do as you like")
    (outside / "test" / "unsorted.png").write_bytes(b"x")
    (outside / "test" / "fractured" / "boxes.txt").write_text("0 1 2 3")
    for name in (".DS_Store", "Thumbs.db"):
        (outside / "test" / "fractured" / name).write_bytes(b"\x00")
    found = evaluate_external(load_release(release, CPU), outside, tmp_path / "cache")
    assert [f.path for f in found.left_out] == [
        "LICENSE",
        "test/unsorted.png",
        "test/fractured/boxes.txt",
    ]
    assert "not taken: 3 (LICENSE: beside the folders of labels" in found.describe()
    assert found.measured.images == 16


def test_a_set_in_a_folder_of_its_own_name_is_one_level_deeper(
    outside: Path, tmp_path: Path
) -> None:
    (tmp_path / "twice").mkdir()
    outside.rename(tmp_path / "twice" / "twice")
    with pytest.raises(InputError, match=r"one level deeper; name .*twice/twice"):
        index_label_folders(tmp_path / "twice", "XR_A")


def test_a_release_without_the_list_says_that_it_does_not_know(
    outside: Path, release: Path, tmp_path: Path
) -> None:
    opened = load_release(release, CPU)
    (release / TRAINED_ON).unlink()
    (release / FINGERPRINTS).unlink()
    found = evaluate_external(opened, outside, tmp_path / "cache")
    assert found.trained_on is None
    assert found.saved_anew is None
    assert "the release stores no fingerprints" in found.describe()
    assert "is not known" in found.describe()
