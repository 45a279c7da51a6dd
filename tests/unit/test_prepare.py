"""What every view becomes: its part, and the right row of pixels."""

import pickle
import shutil
from pathlib import Path

import numpy as np
from conftest import CPU

from mura_tune import config
from mura_tune.data.dataset import open_dataset
from mura_tune.data.images import read, square
from mura_tune.data.prepare import prepare
from mura_tune.learning.batches import split_of


def test_a_copy_of_a_test_picture_leaves_train_and_the_others_keep_their_pixels(
    phantoms: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(phantoms, root)
    train, valid = (
        sorted((root / part / "XR_WRIST").rglob("*.png")) for part in ("train", "valid")
    )
    shutil.copyfile(valid[0], train[1])
    split = config.load("XR_WRIST", ["split.dev=0.3", "split.seed=1"]).split
    prepared = prepare(open_dataset(root), "XR_WRIST", 32, split, tmp_path / "cache")
    assert [str(root / finding.path) for finding in prepared.left_out] == [str(train[1])]
    for given in (prepared, pickle.loads(pickle.dumps(prepared))):
        seen = [split_of(given, part, CPU) for part in ("train", "dev", "test")]
        assert sum(map(len, seen)) == len(train) + len(valid) - 1
        for part in seen:
            for path, pixels in zip(part.paths, part.pixels, strict=True):
                assert np.array_equal(square(read(root / path), 32), pixels.numpy())
