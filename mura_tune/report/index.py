"""index.html and RESULTS.md: every release of a folder beside what others published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from mura_tune import files
from mura_tune.errors import InputError, explain_error
from mura_tune.metrics.areas import AREA_METRICS
from mura_tune.metrics.estimates import Estimate
from mura_tune.release_format import checksums
from mura_tune.release_format.manifest import MANIFEST, REPORT, Manifest, read_manifest
from mura_tune.release_format.metrics_entries import (
    AbnormalityEvaluationEntry,
    RouterEvaluationEntry,
)
from mura_tune.report.charts import draw_forest
from mura_tune.report.page import Markdown, TableRow, escape_markdown, render_html, render_markdown
from mura_tune.report.provenance import name_test

# Over all areas together; the two sets are never put into one table.
PUBLISHED = {
    "MURA's hidden test set": (
        ("DenseNet-169, 320 px (Rajpurkar et al. 2018)", "207", "0.929", "0.705", "0.815", "0.887"),
        (
            "three radiologists, one by one (Rajpurkar et al. 2018)",
            "207",
            "",
            "0.731 to 0.778",
            "",
            "",
        ),
        ("best of the public leaderboard", "207", "", "0.843", "", ""),
    ),
    "MURA's published valid split": (
        ("public code, ensembles of two networks", "1,199", "", "0.66 to 0.68", "", ""),
    ),
}
_NOTE = (
    "Scores of others are over all areas, as they were published, without intervals. The hidden "
    "test set and the published valid split differ a lot (hand: kappa 0.85 and 0.55), and scores "
    "on another dataset say nothing about MURA: compare within one set only."
)


INDEX_SCORES = {
    "auc": "AUC",
    "kappa": "kappa",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}
_METHOD = (
    "Test, by study, with 95 % intervals from 2,000 resamplings of whole patients; each at its "
    "own operating point, which was chosen on dev."
)
_PUBLISHED_HEAD = ("published by others", "studies", *INDEX_SCORES.values())


@dataclass(frozen=True)
class ListedRelease:
    """A release of the folder, by its folder's name and its manifest."""

    folder: str
    manifest: Manifest

    @property
    def address(self) -> str:
        """The address of its report, to the byte."""
        return f"{quote(self.folder, errors='surrogateescape')}/{REPORT}"

    @property
    def model(self) -> str:
        """How many networks of which architecture, and the side of their input."""
        members = len(self.manifest.members)
        count = f"{members} x " if members > 1 else ""
        return f"{count}{self.manifest.arch}, {self.manifest.preprocessing.size} px"

    @property
    def studies(self) -> str:
        """How many test studies there are, and how many of them are abnormal."""
        test = self.manifest.metrics.test
        if isinstance(test, AbnormalityEvaluationEntry):
            return f"{test.studies} ({test.abnormal} abnormal)"
        return f"{test.studies}"

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """Its scores on test."""
        test = self.manifest.metrics.test
        if isinstance(test, RouterEvaluationEntry):
            return test.recognition.estimates
        assert isinstance(test, AbnormalityEvaluationEntry)
        return test.estimates

    @property
    def measured_on(self) -> str:
        """The dataset that its scores belong to."""
        stored = self.manifest.data.name if self.manifest.has("data") else None
        name = stored or f"the dataset of {self.folder}"
        return name_test(self.manifest.metrics.test, name)


@dataclass(frozen=True)
class ResultTable:
    """Releases that have the same scores: names of scores by their keys, and the releases."""

    scores: Mapping[str, str]
    releases: Sequence[ListedRelease]

    @property
    def rows(self) -> list[TableRow]:
        """The release, its test studies, and its scores."""
        return [(release, release.studies, *self._estimates(release)) for release in self.releases]

    @property
    def linked_rows(self) -> list[TableRow]:
        """The same for Markdown, with a link and the model."""
        return [
            (
                Markdown(f"[{escape_markdown(release.folder)}]({release.address})"),
                release.model,
                release.studies,
                *self._estimates(release),
            )
            for release in self.releases
        ]

    @property
    def chart(self) -> Markup:
        """The first score of each release; empty where there is one release alone."""
        if len(self.releases) < 2:
            return Markup("")
        key, name = next(iter(self.scores.items()))
        return draw_forest(
            name, {release.folder: release.estimates[key] for release in self.releases}
        )

    def _estimates(self, release: ListedRelease) -> list[Estimate]:
        return [release.estimates[key] for key in self.scores]


def write_index(folder: Path, warn: Callable[[str], None]) -> None:
    """Write both files over the releases in `folder`; nothing where there is no release.

    Args:
        warn: takes a line about each release that is left out, and why.
    """
    releases = list(_list_releases(folder, warn))
    if releases:
        for name, text in (
            ("index.html", render_index(releases)),
            ("RESULTS.md", render_results(releases)),
        ):
            files.replace_file(folder / name, text.encode("utf-8", "backslashreplace"))


def render_index(releases: Sequence[ListedRelease]) -> str:
    """The page over these releases."""
    return render_html("index.html.j2", **_values(releases))


def render_results(releases: Sequence[ListedRelease]) -> str:
    """The same as Markdown."""
    return render_markdown("results.md.j2", **_values(releases))


def _values(releases: Sequence[ListedRelease]) -> dict[str, Any]:
    """What both templates need."""
    return {
        "method": _METHOD,
        "groups": _group_releases(releases),
        "published": PUBLISHED,
        "published_head": _PUBLISHED_HEAD,
        "note": _NOTE,
    }


def _list_releases(folder: Path, warn: Callable[[str], None]) -> Iterator[ListedRelease]:
    """The releases that can be shown, in the order of names; a damaged release is left out alone.

    Releases of schema 1 have other scores, and are passed over.
    """
    for place in sorted(path.parent for path in folder.glob(f"*/{MANIFEST}")):
        if place.name.startswith("."):
            continue
        try:
            manifest = _read_manifest(place)
        except (InputError, OSError) as error:
            warn(f"{explain_error(error) or place}; left out of index.html and RESULTS.md")
            continue
        if manifest.schema > 1 and manifest.has("metrics"):
            yield ListedRelease(place.name, manifest)


def _read_manifest(place: Path) -> Manifest:
    """The manifest of a release, checked against its sum; no other file is read."""
    checksums.check_file(place, MANIFEST, checksums.read_checksums(place))
    return read_manifest(place / MANIFEST)


def _group_releases(releases: Sequence[ListedRelease]) -> dict[str, list[ResultTable]]:
    """Releases by the dataset that their scores belong to: first those that tell normal from
    abnormal, then those that tell areas apart."""
    groups: dict[str, list[ListedRelease]] = {}
    for release in releases:
        groups.setdefault(release.measured_on, []).append(release)
    return {name: _tabulate(group) for name, group in sorted(groups.items())}


def _tabulate(group: Sequence[ListedRelease]) -> list[ResultTable]:
    tables = []
    for scores in (INDEX_SCORES, AREA_METRICS):
        releases = [release for release in group if scores.keys() <= release.estimates.keys()]
        if releases:
            tables.append(ResultTable(scores, releases))
    return tables
