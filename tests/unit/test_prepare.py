"""What every view becomes: its part, and the right row of pixels; no picture on both sides."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from untrained import CPU

from mura_tune import config
from mura_tune.data import duplicates
from mura_tune.data.index import Finding
from mura_tune.data.prepare import Prepared, open_dataset, prepare, prepare_folds
from mura_tune.imaging.images import read_image, resize_to_square
from mura_tune.training.batches import load_split


def resaved(source: Path, target: Path) -> None:
    """The picture of another file: mirrored, turned, shrunk by a third, and a JPEG by now."""
    held = Image.fromarray(np.ascontiguousarray(np.rot90(read_image(source))[:, ::-1]))
    smaller = held.resize((held.width * 2 // 3, held.height * 2 // 3))
    smaller.save(target, format="JPEG", quality=50)


def prepared_of(root: Path, *overrides: str) -> Prepared:
    study = config.load_config("XR_WRIST", ["split.dev=0.3", "split.seed=1", *overrides])
    return prepare(open_dataset(root), "XR_WRIST", 48, study.split, root.parent / "cache")


@pytest.fixture
def root(phantoms: Path, tmp_path: Path) -> Path:
    """Wrists that tests may change."""
    shutil.copytree(phantoms, tmp_path / "data")
    return tmp_path / "data"


def test_copies_of_test_pictures_leave_train_and_the_others_keep_their_pixels(root: Path) -> None:
    train, valid = (
        sorted((root / part / "XR_WRIST").rglob("*.png")) for part in ("train", "valid")
    )
    whole = prepared_of(root)
    assert whole.left_out == ()  # phantoms are like one another, but no copies
    shutil.copyfile(valid[0], train[1])
    same = prepared_of(root)
    resaved(valid[1], train[2])
    prepared = prepared_of(root)
    assert [str(root / finding.path) for finding in prepared.left_out] == [*map(str, train[1:3])]
    assert prepared.near_copies == (str(train[2].relative_to(root)),)
    assert prepared.found["images"] == len(prepared.frame) + 2 == len(whole.frame)
    assert (prepared.split_hash == same.split_hash) is False
    told = prepared.left_out[1].detail
    assert f"a near-copy of {valid[1].relative_to(root)} in test (correlation 0.9" in told
    for given in (prepared, pickle.loads(pickle.dumps(prepared))):
        seen = [load_split(given, part, CPU) for part in ("train", "dev", "test")]
        assert sum(map(len, seen)) == len(train) + len(valid) - 2
        for part in seen:
            for path, pixels in zip(part.paths, part.pixels, strict=True):
                assert np.array_equal(resize_to_square(read_image(root / path), 48), pixels.numpy())


def test_copies_under_two_patients_leave_the_train_part_of_the_fold_that_holds_one(
    root: Path,
) -> None:
    whole = prepared_of(root)
    inside = [whole.frame["path"][row] for row in whole.rows("train")]
    first = {path.split("/")[2]: path for path in reversed(inside)}  # a picture of each patient
    paths = [*first.values()]
    for source, same, alike in (paths[0:3], paths[3:6], paths[6:9]):
        shutil.copyfile(root / source, root / same)
        resaved(root / source, root / alike)
    prepared = prepared_of(root)
    assert prepared.near_copies == ()
    holdout = config.load_config("XR_WRIST", ["split.folds=3"]).split
    one_picture = [set(paths[0:3]), set(paths[3:6]), set(paths[6:9])]
    gone = 0
    for view in prepare_folds(prepared, holdout):
        parts = {
            part: {view.frame["path"][row] for row in view.rows(part)} for part in ("train", "dev")
        }
        for copies in one_picture:
            assert not (copies & parts["train"] and copies & parts["dev"])
        gone += len(view.left_out)
    assert gone > 2


def test_near_copies_are_found_once_for_the_same_pixels(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = (
        sorted((root / part / "XR_WRIST").rglob("*.png")) for part in ("train", "valid")
    )
    resaved(valid[1], train[2])
    found = prepared_of(root).left_out
    counted = []
    real = duplicates.find_near_copies
    monkeypatch.setattr(
        duplicates, "find_near_copies", lambda *a, **k: (counted.append(1), real(*a, **k))[1]
    )

    def again() -> tuple[tuple[Finding, ...], int]:
        counted.clear()
        return prepared_of(root).left_out, len(counted)

    assert again() == (found, 0)
    (stored,) = (root.parent / "cache" / "XR_WRIST-48").glob("copies-*.json")
    stored.write_text(stored.read_text()[:-9])
    assert again() == (found, 1)
    assert again() == (found, 0)
    shutil.copyfile(train[0], train[2])  # other pixels: found anew, and what was found before goes
    assert again() == ((), 1)
    assert not stored.exists()
    assert len([*stored.parent.glob(duplicates.copies_file_name("pixels-*.npy"))]) == 1
