"""Splits: train, dev and test, such that no patient crosses them in any area.

A patient's split is a hash of the patient's name and a seed.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import Finding
from mura_tune.data.records import Digests
from mura_tune.errors import InputError

SPLITS = ("train", "dev", "test")
ENOUGH_PATIENTS = 50  # of dev's rarer class: from there on, `split.folds: auto` has no folds
AUTO_FOLDS = 3  # below


def assign_splits(
    frame: pd.DataFrame,
    dev: float,
    seed: int,
    *,
    test: float = 0.2,
    column: str = "split",
    published: bool | None = None,
) -> pd.Series:
    """Return 'train', 'dev' or 'test' for each row of a dataset's frame.

    The published valid split is the test set. Where no valid split is published, the share `test`
    of the patients is held out, whatever the seed, so that no seed trains on another's test set.
    Of all other patients, the share `dev` becomes dev.

    An assignment that added rows cannot change has to be a function of the patient alone. So it
    is a hash of the seed and the patient's name, blind to area, label and every other patient:
    patients in several areas stay whole and adding patients moves nobody, while the shares and
    the balance of labels hold in expectation only (`check_classes` refuses the unlucky draw).

    Args:
        column: the column of the frame that holds the published split, 'train' or 'valid'.
        published: whether the dataset publishes a valid split, where the frame is a part of it;
            None looks for one in the frame.

    Raises:
        InputError: a share that is not between 0 and 1.
    """
    for name, share in (("dev", dev), ("test", test)):
        if not 0 < share < 1:
            raise InputError(f"split.{name}: {share} is not between 0 and 1; 0.2 is usual")
    if published is None:
        published = publishes_test(frame, column)
    patients = frame["patient"]
    held_out = frame[column] == "valid" if published else _draw(patients, "test") < test
    split = pd.Series("train", index=frame.index, name="split", dtype="str")
    return split.mask(_draw(patients, f"dev {seed}") < dev, "dev").mask(held_out, "test")


def publishes_test(frame: pd.DataFrame, column: str = "split") -> bool:
    """Whether a dataset publishes a valid split, which is then the test set."""
    return bool((frame[column] == "valid").any())


def assign_folds(frame: pd.DataFrame, k: int, seed: int) -> pd.Series:
    """Return a fold from 0 to k - 1 for each row: a hash of the patient's name and the seed.

    Raises:
        InputError: fewer than two folds.
    """
    if k < 2:
        raise InputError(f"split.folds: {k} is too few; 5 is usual, 2 the least")
    return (_draw(frame["patient"], f"fold {seed}") * k).astype("int64").rename("fold")


def count_rarer(patients: NDArray[np.object_], classes: NDArray[np.int64]) -> int:
    """How many patients have the class that fewest patients have.

    Args:
        patients: (N,), of each row.
        classes: (N,).
    """
    pairs = set(zip(patients.tolist(), classes.tolist(), strict=True))
    return min(Counter(number for _, number in pairs).values(), default=0)


def check_classes(
    frame: pd.DataFrame, column: str, name: str, *, splits: Sequence[str] = SPLITS
) -> None:
    """Check that each of `splits` has normal and abnormal studies.

    Args:
        column: the column of the frame that holds what `assign_splits` returned.
        name: the area, for the message.

    Raises:
        InputError: a split with one class only; the message has the split and its counts.
    """
    studies = frame.drop_duplicates("study")
    for split in splits:
        labels = studies["label"][studies[column] == split]
        normal, abnormal = int((labels == 0).sum()), int((labels == 1).sum())
        if normal and abnormal:
            continue
        way_out = "try another split.seed or add patients"
        if split == "test":  # published, or held out whatever the seed
            way_out = "add patients, or publish more of them as valid"
        raise InputError(
            f"{name}: split {split} has {normal} normal and {abnormal} abnormal studies, "
            f"but needs both; {way_out}"
        )


def find_leaks(
    frame: pd.DataFrame, pixel_sha: Digests, near: Iterable[NearCopy] = (), column: str = "split"
) -> tuple[Finding, ...]:
    """Return a finding for each image to leave out because a later split holds its picture.

    Copies of test images leave train and dev; copies of dev images leave train. A copy has the same
    pixels, or is a near-copy. The `path` of each finding is the row to drop.

    Args:
        frame: N rows, a row an image.
        pixel_sha: (N,) of the images, in the order of the rows.
        near: the near-copies, by the sha256 of their pixels.
        column: the column of the frame that holds what `assign_splits` returned.
    """
    paths = frame["path"].to_numpy(object)
    splits = np.fromiter(map(SPLITS.index, frame[column]), np.int64, len(frame))
    _, pictures = np.unique(pixel_sha.packed, return_inverse=True)
    # Of each picture: the latest split that has it, and the path of the first row there.
    latest = np.zeros(pictures.max(initial=-1) + 1, np.int64)
    np.maximum.at(latest, pictures, splits)
    rows_there = np.flatnonzero(splits == latest[pictures])
    _, first = np.unique(pictures[rows_there], return_index=True)
    path_there = paths[rows_there[first]]
    near_pictures = _near_pictures(pixel_sha, pictures, near)
    findings = []
    for row in np.flatnonzero((latest[pictures] > splits) | np.isin(pictures, [*near_pictures])):
        path, split, own = paths[row], splits[row], int(pictures[row])
        copies = [
            (other == own, latest[other], correlation, path_there[other])
            for other, correlation in ((own, 1.0), *near_pictures.get(own, ()))
            if latest[other] > split
        ]
        if not copies:
            continue
        is_same, later_split, correlation, copy = max(copies)
        left_out, stays = f"left out of {SPLITS[split]}", f"{copy} in {SPLITS[later_split]}"
        if is_same:
            findings.append(Finding("two splits", path, f"{left_out}: same pixels as {stays}"))
        else:
            detail = f"{left_out}: a near-copy of {stays} (correlation {correlation:.3f})"
            findings.append(Finding("near-copy", path, detail))
    return tuple(findings)


def _near_pictures(
    pixel_sha: Digests, pictures: NDArray[np.int64], near: Iterable[NearCopy]
) -> dict[int, list[tuple[int, float]]]:
    """Return the near-copies of each picture that has some, with their correlations."""
    near_pictures: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for first, second, correlation in near:
        rows = pixel_sha.find(first), pixel_sha.find(second)
        if rows[0] is not None and rows[1] is not None:
            a, b = (int(pictures[row]) for row in rows)
            near_pictures[a].append((b, correlation))
            near_pictures[b].append((a, correlation))
    return near_pictures


def hash_splits(frame: pd.DataFrame, column: str = "split", copies: Collection[str] = ()) -> str:
    """Return the sha256 of the sorted (study, split) pairs: equal where the splits are equal.

    `copies` are the images that are left out as near-copies; each changes the hash.
    """
    pairs = sorted(set(zip(frame["study"], frame[column], strict=True)))
    lines = [f"{a}\t{b}" for a, b in pairs] + [f"{path}\tleft out" for path in sorted(copies)]
    # The bytes of a file name that are not UTF-8 stay as they are.
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _draw(patients: pd.Series, purpose: str) -> pd.Series:
    """Return a number in [0, 1) per row that depends on the purpose and the patient alone."""
    unique = patients.unique()
    return patients.map({name: _uniform(f"{purpose}:{name}") for name in unique}).astype("float64")


def _uniform(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # the 53 bits a float holds exactly
