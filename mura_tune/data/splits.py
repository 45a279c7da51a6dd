"""No patient crosses a split, in any area: each patient's split is a hash of its name."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import Finding
from mura_tune.data.records import Digests
from mura_tune.errors import InputError

SPLITS = ("train", "dev", "test")


def assign_splits(frame: pd.DataFrame, dev: float, seed: int, *, test: float = 0.2) -> pd.Series:
    """Return 'train', 'dev' or 'test' for each row of a whole dataset's frame.

    The published valid split is the test set. Where nothing is published, the share `test` of
    the patients is held out, whatever the seed, so that no seed trains on another's test set.
    Of the others, the share `dev` becomes dev.

    An assignment that added rows cannot change has to be a function of the patient alone. So it
    is a hash of the seed and the patient's name, blind to area, label and every other patient:
    patients in several areas stay whole and adding patients moves nobody, while the shares and
    the balance of labels hold in expectation only (`check_classes` refuses the unlucky draw).
    Raises InputError for a share that is not between 0 and 1.
    """
    for name, share in (("dev", dev), ("test", test)):
        if not 0 < share < 1:
            raise InputError(f"split.{name}: {share} is not between 0 and 1; 0.2 is usual")
    published = frame["split"] == "valid"
    patients = frame["patient"]
    held = published if published.any() else _draw(patients, "test") < test
    split = pd.Series("train", index=frame.index, name="split", dtype="str")
    return split.mask(_draw(patients, f"dev {seed}") < dev, "dev").mask(held, "test")


def assign_folds(frame: pd.DataFrame, k: int, seed: int) -> pd.Series:
    """Return a fold from 0 to k - 1 for each row, by the same hash of the patient alone.

    Raises InputError for fewer than two folds.
    """
    if k < 2:
        raise InputError(f"split.folds: {k} is too few; 5 is usual, 2 the least")
    return (_draw(frame["patient"], f"fold {seed}") * k).astype("int64").rename("fold")


def check_classes(
    frame: pd.DataFrame, column: str, name: str, *, splits: Sequence[str] = SPLITS
) -> None:
    """Raise InputError, naming split and counts, unless each split has both classes of study.

    `column` of the frame holds what `assign_splits` returned; `name` is the area, for the message.
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
    frame: pd.DataFrame, pixel_sha: Digests, near: Iterable[NearCopy] = (), column: str = "part"
) -> tuple[Finding, ...]:
    """Name the images to leave out because a split further on holds their picture.

    Those of the very same pixels, and those that `near` says are one picture. Copies of test
    images leave train and dev; copies of dev images leave train. `pixel_sha` is aligned with the
    rows, `column` holds what `assign_splits` returned. Each Finding's `path` is the row to drop.
    """
    paths = frame["path"].to_numpy(object)
    parts = np.fromiter(map(SPLITS.index, frame[column]), np.int64, len(frame))
    _, picture = np.unique(pixel_sha.packed, return_inverse=True)
    # Of each picture: the furthest split that has it, and the first row there.
    furthest = np.zeros(picture.max(initial=-1) + 1, np.int64)
    np.maximum.at(furthest, picture, parts)
    there = np.flatnonzero(parts == furthest[picture])
    _, first = np.unique(picture[there], return_index=True)
    holder = paths[there[first]]
    like: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for one, other, correlation in near:
        pair = pixel_sha.find(one), pixel_sha.find(other)
        if pair[0] is not None and pair[1] is not None:
            a, b = (int(picture[row]) for row in pair)
            like[a].append((b, correlation))
            like[b].append((a, correlation))
    found = []
    for row in np.flatnonzero((furthest[picture] > parts) | np.isin(picture, list(like))):
        path, split, own = paths[row], parts[row], int(picture[row])
        copies = [
            (other == own, furthest[other], correlation, holder[other])
            for other, correlation in ((own, 1.0), *like.get(own, ()))
            if furthest[other] > split
        ]
        if not copies:
            continue
        same, further, correlation, keeper = max(copies)
        left, kept = f"left out of {SPLITS[split]}", f"{keeper} in {SPLITS[further]}"
        if same:
            found.append(Finding("two splits", path, f"{left}: same pixels as {kept}"))
        else:
            detail = f"{left}: a near-copy of {kept} (correlation {correlation:.3f})"
            found.append(Finding("near-copy", path, detail))
    return tuple(found)


def hash_splits(frame: pd.DataFrame, column: str = "part", copies: Collection[str] = ()) -> str:
    """Return the sha256 of the sorted (study, split) pairs: equal where the splits are equal.

    `copies` are the images that are left out as near-copies; each changes it.
    """
    pairs = sorted(set(zip(frame["study"], frame[column], strict=True)))
    lines = [f"{a}\t{b}" for a, b in pairs] + [f"{path}\tleft out" for path in sorted(copies)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _draw(patients: pd.Series, purpose: str) -> pd.Series:
    """Return a number in [0, 1) per row that depends on the purpose and the patient alone."""
    unique = patients.unique()
    return patients.map({name: _uniform(f"{purpose}:{name}") for name in unique}).astype("float64")


def _uniform(text: str) -> float:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # the 53 bits a float holds exactly
