"""The audit of a dataset: its counts by area, split and label, and every fault by name."""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import FINDING_KINDS, Dataset, Finding
from mura_tune.imaging.images import Record
from mura_tune.text import name_some, printable

NAMED = 5  # findings of a kind that a summary names
_Held = tuple[str, int, str, str]  # path, label, published split, patient


@dataclass(frozen=True)
class Count:
    """How much of one area a published split holds, as (normal, abnormal).

    `patients` counts a patient with both labels once on each side; `patients_total` only once.
    """

    area: str
    split: str
    studies: tuple[int, int]
    images: tuple[int, int]
    patients: tuple[int, int]
    patients_total: int

    def __post_init__(self) -> None:
        if any(s > i for s, i in zip(self.studies, self.images, strict=True)):
            raise ValueError(f"more studies {self.studies} than images {self.images}")


@dataclass(frozen=True)
class Audit:
    """The findings and counts of a dataset; `pixels_read` says whether its images were read."""

    name: str
    images: int
    studies: int
    patients: int
    counts: tuple[Count, ...]
    findings: tuple[Finding, ...]
    pixels_read: bool

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict: totals, areas -> split -> counts by label, and the findings."""
        areas: dict[str, dict[str, Any]] = defaultdict(dict)
        for count in self.counts:
            areas[count.area][count.split] = {
                "studies": _by_label(count.studies),
                "images": _by_label(count.images),
                "patients": {**_by_label(count.patients), "total": count.patients_total},
            }
        return {
            "dataset": self.name,
            "images": self.images,
            "studies": self.studies,
            "patients": self.patients,
            "pixels_read": self.pixels_read,
            "areas": dict(areas),
            "findings": [asdict(finding) for finding in self.findings],
        }

    def summary(self) -> str:
        """Return a table of the counts, then the findings by kind with a few names each."""
        totals = f"images {self.images:,}, studies {self.studies:,}, patients {self.patients:,}"
        head = printable(f"{self.name}: {totals}")
        columns = ("area", "split", "studies -/+", "images -/+", "patients")
        rows = [columns, *(_cells(count) for count in self.counts)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        table = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        return "\n".join([head, "", *table, "", *self._findings()])

    def _findings(self) -> Iterator[str]:
        scope = "the index and every image" if self.pixels_read else "the index alone"
        yield f"findings: {len(self.findings)} (from {scope})"
        for kind in FINDING_KINDS:
            findings = [finding for finding in self.findings if finding.kind == kind]
            if not findings:
                continue
            yield f"{kind}: {len(findings)}"
            yield from (
                f"  {printable(f'{finding.path}: {finding.detail}')}"
                for finding in findings[:NAMED]
            )
            if len(findings) > NAMED:
                yield f"  and {len(findings) - NAMED} more"


def audit_dataset(
    dataset: Dataset, *, pixels: Mapping[str, Record] | None = None, near: Iterable[NearCopy] = ()
) -> Audit:
    """Count the dataset and gather its faults.

    Args:
        pixels: the records of the images by path: `Cache.records`, or those that `scan_dataset`
            returns. With records, the audit names unreadable and blank images, copies under two
            labels, in two published splits or under two patients, and hidden files among the
            images.
        near: the near-copies; those under two patients are named.
    """
    frame = dataset.frame
    findings = list(dataset.notes)
    if pixels is not None:
        listed = {note.path for note in dataset.notes if note.kind == "hidden"}
        findings += [
            Finding(pixels[path].kind, path, pixels[path].error)
            for path in frame["path"]
            if path in pixels and pixels[path].error
        ]
        findings += [finding for finding in _hidden(dataset) if finding.path not in listed]
        findings += _copies(frame, pixels)
        findings += _near(frame, pixels, near)
    return Audit(
        name=dataset.name,
        images=len(frame),
        studies=int(frame["study"].nunique()),
        patients=int(frame["patient"].nunique()),
        counts=tuple(_counts(frame)),
        findings=tuple(findings),
        pixels_read=pixels is not None,
    )


def _counts(frame: pd.DataFrame) -> Iterator[Count]:
    for (area, split), rows in frame.groupby(["area", "split"], sort=True):
        halves = [rows[rows["label"] == label] for label in (0, 1)]
        yield Count(
            area,
            split,
            studies=(halves[0]["study"].nunique(), halves[1]["study"].nunique()),
            images=(len(halves[0]), len(halves[1])),
            patients=(halves[0]["patient"].nunique(), halves[1]["patient"].nunique()),
            patients_total=rows["patient"].nunique(),
        )


def _copies(frame: pd.DataFrame, pixels: Mapping[str, Record]) -> Iterator[Finding]:
    """Yield one finding per set of equal images with two labels, published splits or patients."""
    for copies in _by_pixels(frame, pixels).values():
        path, label, split, patient = copies[0]
        labelled, split_up, named = (
            [copy for copy in copies if copy[column] != copies[0][column]] for column in (1, 2, 3)
        )
        if labelled:
            words = ("normal", "abnormal")
            same = f"with the same pixels as {_names(labelled)}"
            yield Finding("two labels", path, f"{words[label]} here, {words[1 - label]} {same}")
        if split_up:
            yield Finding(
                "two splits", path, f"in {split}, with the same pixels as {_names(split_up)}"
            )
        if named and not labelled and not split_up:
            detail = f"of {patient} in {split}, with the same pixels as {_names(named)}"
            yield Finding("two patients", path, detail)


def _near(
    frame: pd.DataFrame, pixels: Mapping[str, Record], near: Iterable[NearCopy]
) -> Iterator[Finding]:
    """Yield one finding per two images of different patients that are one picture."""
    holders = _by_pixels(frame, pixels)
    for first, second, correlation in near:
        pairs = itertools.product(holders.get(first, ()), holders.get(second, ()))
        if crossing := next((pair for pair in pairs if pair[0][3] != pair[1][3]), None):
            (path, _, split, _), (copy, _, there, _) = crossing
            detail = f"in {split}, a near-copy of {copy} in {there} (correlation {correlation:.3f})"
            yield Finding("two patients", path, detail)


def _by_pixels(frame: pd.DataFrame, pixels: Mapping[str, Record]) -> dict[str, list[_Held]]:
    same: dict[str, list[_Held]] = defaultdict(list)
    columns = (frame[name] for name in ("path", "label", "split", "patient"))
    for path, label, split, patient in zip(*columns, strict=True):
        if path in pixels and pixels[path].pixel_sha:
            same[pixels[path].pixel_sha].append((path, int(label), split, patient))
    return same


def _hidden(dataset: Dataset) -> Iterator[Finding]:
    """Yield the hidden files in the folders of the dataset's images, and in those above them.

    Of what lies outside the dataset's own folder, a table may name images alone.
    """
    root = PurePosixPath(os.path.normpath(dataset.root.absolute()))
    folders = {PurePosixPath(path).parent for path in dataset.frame["path"]}
    folders = {PurePosixPath(os.path.normpath(root / folder)) for folder in folders}
    inside = {folder.relative_to(root) for folder in folders if folder.is_relative_to(root)}
    inside |= {above for folder in inside for above in folder.parents}
    for folder in sorted(inside - {PurePosixPath()}):
        try:
            names = sorted(file.name for file in (dataset.root / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue  # each image of it is named as unreadable
        except OSError as error:
            detail = f"its hidden files cannot be listed: {(error.strerror or 'no reason').lower()}"
            yield Finding("unreadable", str(folder), detail)
            continue
        for name in names:
            if name.startswith(".") and (dataset.root / folder / name).is_file():
                yield Finding("hidden", str(folder / name), "a hidden file, not an image")


def _names(copies: list[_Held]) -> str:
    return name_some([copy[0] for copy in copies])


def _by_label(pair: tuple[int, int]) -> dict[str, int]:
    return {"negative": pair[0], "positive": pair[1]}


def _cells(count: Count) -> tuple[str, ...]:
    studies, images = (f"{n:,}/{p:,}" for n, p in (count.studies, count.images))
    return count.area, count.split, studies, images, f"{count.patients_total:,}"
