"""Evaluate a release on an external set: copies count once, training pictures are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mura_tune.data import cache, duplicates, fingerprints
from mura_tune.data.index import Finding
from mura_tune.data.label_folders import index_label_folders
from mura_tune.errors import InputError
from mura_tune.evaluation.decision import Decision
from mura_tune.evaluation.evaluate import Evaluation, evaluate_logits
from mura_tune.evaluation.familiarity import count_unfamiliar, predict_with_distances
from mura_tune.imaging.candidates import orientations
from mura_tune.imaging.images import read_image
from mura_tune.networks.starts import DIGEST_DIGITS, FINGERPRINTS, TRAINED_ON
from mura_tune.release.release import Release, as_abnormality
from mura_tune.release_format.manifest import RouterManifest
from mura_tune.text import name_some
from mura_tune.training.batches import Split


@dataclass(frozen=True, eq=False)
class ExternalEvaluation:
    """The evaluation of a release on an external set.

    Attributes:
        copies: images that are a copy of another one, turned or mirrored ones too.
        trained_on: pictures that the release was trained on, by path; None if it does not know.
        saved_anew: others that look like one that it was trained on, saved anew; None if the
            release stores no fingerprints.
        left_out: what was not measured, and why: unreadable, one picture under both labels, or
            not taken at all, since it is no picture or has no label.
    """

    name: str
    area: str
    measured: Evaluation
    copies: int
    trained_on: tuple[str, ...] | None
    saved_anew: tuple[str, ...] | None
    left_out: tuple[Finding, ...]

    def describe(self) -> str:
        """The estimates as lines for people, warnings first."""
        taken = [finding for finding in self.left_out if finding.kind != "not taken"]
        lines = [f"left out {finding.path}: {finding.detail}" for finding in taken]
        if others := [finding for finding in self.left_out if finding.kind == "not taken"]:
            named = name_some([f"{finding.path}: {finding.detail}" for finding in others])
            lines.append(f"not taken: {len(others)} ({named})")
        if self.trained_on is None:
            lines.append(
                f"whether {self.name} overlaps with what the release was trained on is "
                "not known: it is older than that list"
            )
        elif self.trained_on:
            lines.append(
                f"warning: the release was trained on {len(self.trained_on)} of these pictures "
                f"({name_some(self.trained_on)}); the figures flatter it"
            )
        if self.saved_anew is None:
            lines.append(
                "whether training pictures are among these, saved anew, is not known: the release "
                "stores no fingerprints"
            )
        elif self.saved_anew:
            lines.append(
                f"warning: {len(self.saved_anew)} of these pictures look like ones that the "
                f"release was trained on, saved anew ({name_some(self.saved_anew)}); "
                "look at them: the figures may flatter it"
            )
        n = len(self.measured.studies.labels)
        lines.append(
            f"{self.name}: {self.measured.images} images of {n} pictures; "
            f"{self.copies} are copies of another"
        )
        return "\n".join([*lines, self.measured.describe()])

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "area": self.area,
            "copies": self.copies,
            "trained_on": None if self.trained_on is None else list(self.trained_on),
            "saved_anew": None if self.saved_anew is None else list(self.saved_anew),
            "left_out": [asdict(finding) for finding in self.left_out],
            **self.measured.to_json(),
        }


def evaluate_external(
    release: Release, root: Path, folder: Path, *, strict: bool = False
) -> ExternalEvaluation:
    """Evaluate a release on every image of the folders at `root`.

    Args:
        folder: of the pixel cache.

    Raises:
        InputError: a router, no such layout, too many unreadable images (any, if `strict`), or
            one label only once copies under both are left out.
    """
    manifest = release.manifest
    if isinstance(manifest, RouterManifest):
        raise InputError(
            f"{release.folder}: a router, and an external set has no areas to tell "
            "apart; name a release that tells what is abnormal"
        )
    dataset = index_label_folders(root, manifest.area)
    cached = cache.open_cache(dataset, manifest.preprocessing.size, folder, strict=strict)
    frame = cached.frame.assign(first=duplicates.group_copies(cached.pixels))
    both = frame.groupby("first")["label"].transform("nunique") > 1
    left_out = tuple(
        Finding("two labels", path, f"the picture of {frame['path'][first]}, under another label")
        for path, first in frame.loc[both, ["path", "first"]].itertuples(index=False)
    )
    counted = frame[~both]
    if counted["label"].nunique() < 2:
        raise InputError(f"{root}: without copies under both labels one label is left")
    split = _split(cached.pixels, counted, next(release.net.parameters()).device)
    trained_on = find_trained_on(release.folder, dataset.root, counted)
    chosen = Decision.from_manifest(as_abnormality(release))
    logits, distances = predict_with_distances(release.net, split, release.familiarity)
    unfamiliar = count_unfamiliar(distances, split, release.familiarity)
    return ExternalEvaluation(
        name=dataset.name,
        area=manifest.area,
        measured=replace(evaluate_logits(logits, split, chosen), unfamiliar=unfamiliar),
        copies=len(counted) - counted["first"].nunique(),
        trained_on=trained_on,
        saved_anew=find_saved_anew(release.folder, cached.pixels, counted, trained_on or ()),
        left_out=(*dataset.notes, *cached.left_out, *left_out),
    )


def _split(pixels: Any, counted: pd.DataFrame, device: torch.device) -> Split:
    """The views that are measured; a picture with its copies is a study and a patient."""
    names = counted["first"].map(lambda row: f"{row:06d}").to_numpy(object)
    return Split(
        name="external",
        pixels=torch.from_numpy(np.ascontiguousarray(pixels[counted.index])),
        labels=torch.tensor(counted["label"].to_numpy(), dtype=torch.int64, device=device),
        studies=names,
        patients=names,
        paths=counted["path"].to_numpy(object),
    )


def find_trained_on(release: Path, root: Path, counted: pd.DataFrame) -> tuple[str, ...] | None:
    """Pictures that are, in any of the eight ways to hold them, among those it was trained on.

    Args:
        counted: a row a picture, with its `path` below `root`.

    Returns:
        Their paths; None where the release is older than the list of these.
    """
    if not (release / TRAINED_ON).is_file():
        return None
    known = set((release / TRAINED_ON).read_text(encoding="utf-8").split())
    return tuple(
        path
        for path in counted["path"]
        if any(
            duplicates.pixel_digest(turned)[:DIGEST_DIGITS] in known
            for turned in orientations(read_image(root / path))
        )
    )


def find_saved_anew(
    release: Path, pixels: Any, counted: pd.DataFrame, trained_on: Sequence[str]
) -> tuple[str, ...] | None:
    """Pictures whose fingerprint is that of one it was trained on, beside those `trained_on`.

    Args:
        pixels: (N, S, S); a row of `counted` has its number as its index.

    Returns:
        Their paths; None where the release stores no fingerprints.
    """
    stored = release / FINGERPRINTS
    if not stored.is_file():
        return None
    known = fingerprints.read_fingerprints(stored.read_text(encoding="utf-8"), stored)
    prints = fingerprints.compute_fingerprints(pixels, counted.index.to_numpy())
    seen = frozenset(trained_on)
    alike = counted["path"][fingerprints.match_fingerprints(prints, known)]
    return tuple(path for path in alike if path not in seen)
