"""The releases that answer in the room, by an area or by the router, and what is said of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mura_tune.areas import ALL, ROUTER
from mura_tune.errors import InputError
from mura_tune.evaluation.decision import describe_rest
from mura_tune.evaluation.familiarity import UNFAMILIAR
from mura_tune.metrics.estimates import Estimate
from mura_tune.metrics.operating_points import METRIC_NAMES
from mura_tune.reading.answers import Answer, AreaAnswer, Familiarity, is_unfamiliar
from mura_tune.reading.fetch import is_fetched
from mura_tune.reading.locate import FindRelease
from mura_tune.reading.readers import Predictor
from mura_tune.reading.routed import RoutedReader
from mura_tune.reading.studies import StudyViews
from mura_tune.release.release import Release, describe_decoding_changes
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.manifest import (
    MANIFEST,
    AbnormalityManifest,
    RouterManifest,
    read_manifest,
)
from mura_tune.report.provenance import name_dataset
from mura_tune.report.recalibration import list_warnings

AUTO = "auto"
_WHAT_ABNORMAL_IS = (
    "Abnormal is MURA's label: fracture, hardware, degenerative disease, lesion and others "
    "together. It is not the probability of a fracture."
)
_USE = (
    "Made for research on methods, on radiographs like those it was trained on. Never tested for "
    "diagnosis, triage or any decision about a patient."
)

# Not which one: no value of a header leaves the room.
_OTHER_AREA = "The DICOM header names a body part that this release was not trained on."


@dataclass(frozen=True)
class RoomAnswer:
    """What the room answers about a study.

    Attributes:
        source: what said which area the study shows: `fixed` (a person), `router`, `header` (of
            the DICOM files) or `only` (there is one release); "" where nothing did.
        name: of the release that answers; None where none does.
        route: of the router, where it was asked.
        answer: None where no release answers.
        problem: for people: why no release answers, or what is to be said of the one that does.
    """

    source: str
    name: str | None = None
    route: AreaAnswer | None = None
    answer: Answer | None = None
    problem: str = ""

    @property
    def familiarity(self) -> Familiarity | None:
        """How like the training radiographs the study is: to the router where the router refuses
        it, else to the release; None where neither says."""
        route = self.route.familiarity if self.route else None
        if self.answer is None or is_unfamiliar(route):
            return route
        return self.answer.familiarity


class RoomReleases:
    """Releases by their names, and perhaps a router that chooses among them.

    Args:
        predictors: by name, one at least; see `name_release`.
        routed: reads by the router, with its own areas' releases among `predictors`.
    """

    def __init__(self, predictors: Mapping[str, Predictor], routed: RoutedReader | None) -> None:
        self._predictors = dict(predictors)
        self._routed = routed
        self._names = {id(reader): name for name, reader in self._predictors.items()}
        # As they were opened: another release may be put in a folder's place meanwhile.
        self._about = {
            name: release_to_json(reader.release) for name, reader in self._predictors.items()
        }

    @property
    def sizes(self) -> frozenset[int]:
        """The sides S of the squares that a study's views are read at."""
        sizes = frozenset[int]().union(*(reader.sizes for reader in self._predictors.values()))
        return sizes | self._routed.sizes if self._routed else sizes

    def reader(self, name: str) -> Predictor:
        """The reader of a release. Raises InputError where there is none of that name."""
        if name not in self._predictors:
            raise InputError("there is no release of that name here")
        return self._predictors[name]

    def about(self, name: str) -> dict[str, Any]:
        """What `release_to_json` says of the release that `reader` gives."""
        return self._about[name]

    def check_area(self, area: str) -> None:
        """Raise InputError unless `answer` takes it."""
        if area != AUTO:
            self.reader(area)

    def answer(self, study: StudyViews, area: str, header_areas: frozenset[str]) -> RoomAnswer:
        """The answer about a study.

        Args:
            area: the name of a release, or AUTO.
            header_areas: that the study's DICOM headers name; one alone is used where no router is
                here.

        Raises:
            InputError: no such release, or a network whose answer is no number.
        """
        if area != AUTO:
            return self._answer_by(area, study, "fixed")
        if self._routed is not None:
            return self._route(self._routed, study)
        if len(self._predictors) == 1:
            (name,) = self._predictors
            known = all(_is_trained_on(self.reader(name), one) for one in header_areas)
            return self._answer_by(name, study, "only", "" if known else _OTHER_AREA)
        if len(header_areas) == 1 and header_areas <= self._predictors.keys():
            (name,) = header_areas
            return self._answer_by(name, study, "header")
        return RoomAnswer(
            "", problem="No router is here to tell the area: choose the release that answers."
        )

    def _answer_by(
        self, name: str, study: StudyViews, source: str, problem: str = ""
    ) -> RoomAnswer:
        (answer,) = self.reader(name).answer([study])
        return RoomAnswer(source, name, answer=answer, problem=problem)

    def _route(self, routed: RoutedReader, study: StudyViews) -> RoomAnswer:
        (reply,) = routed.answer([study])
        if reply.answer is not None:
            predictor, _ = routed.release_of(reply.route.area)
            name = self._names[id(predictor)]
            return RoomAnswer("router", name, reply.route, reply.answer, reply.fallback or "")
        if is_unfamiliar(reply.familiarity):
            problem = "The router abstains. Where you know the area, choose it."
        elif reply.error:
            problem = f"The router takes it for {reply.route.area}, which has no release here."
        else:
            problem = (
                f"The router is not sure: its best guess is {reply.route.area} with a confidence "
                f"of {reply.route.confidence:.3f}, and it answers from {reply.route.least:.3f} on. "
                "Choose the area."
            )
        return RoomAnswer("router", route=reply.route, problem=problem)

    def to_json(self) -> dict[str, Any]:
        """The router and the areas, for the page."""
        router = self._routed and release_to_json(self._routed.router.release)
        areas = [
            {"area": name, "release": self.about(name), **describe_reader(reader)}
            for name, reader in self._predictors.items()
        ]
        return {"router": router, "areas": areas}


def _is_trained_on(reader: Predictor, area: str) -> bool:
    """Whether a release was trained on an area, as far as the release tells."""
    areas = reader.release.manifest.areas or (reader.area,)
    return area in areas or areas == (ALL,)


def open_releases(folder: Path, find: FindRelease, device: torch.device) -> RoomReleases:
    """All releases of a folder, and the router where there is one.

    Args:
        find: gives the folder of a release by its name, as `RoutedReader` takes it.

    Raises:
        InputError: no release there, or one that is not whole.
    """
    routed = RoutedReader(find, device) if find(ROUTER).exists() else None
    opened: dict[Path, Predictor] = {}
    if routed is not None:
        routed.open_all()
        for area in routed.router.areas:
            with contextlib.suppress(InputError):  # an area without a release
                predictor, _ = routed.release_of(area)
                opened[predictor.release.folder] = predictor
    for manifest in sorted(folder.glob(f"[!.]*/{MANIFEST}")):
        if manifest.parent not in opened and not isinstance(
            read_manifest(manifest), RouterManifest
        ):
            opened[manifest.parent] = Predictor(manifest.parent, device)
    if not opened:
        raise InputError(
            f"{folder}: no release that tells normal from abnormal; make one with 'mura "
            "finalize', or name another folder (--releases, --release)"
        )
    by_name = {name_release(predictor.release): predictor for predictor in opened.values()}
    return RoomReleases(dict(sorted(by_name.items())), routed)


def name_release(release: Release) -> str:
    """What a release is called: its folder's name; one that was fetched, whose folder is named by a
    digest, has its area's."""
    folder = release.folder
    return release.manifest.area if is_fetched(folder) else folder.resolve().name


def release_to_json(release: Release) -> dict[str, Any]:
    """The name, version, digest and date of a release.

    The digest is that of its SHA256SUMS, 16 digits: it changes with any of its files. A checkpoint
    of an earlier project has none.
    """
    manifest = release.manifest
    sums = release.folder / SUMS
    return {
        "name": name_release(release),
        "area": manifest.area,
        "version": manifest.versions.get("mura-tune") if manifest.has("versions") else None,
        "digest": sha256(sums)[:16] if sums.is_file() else None,
        "trained": manifest.created if manifest.has("created") else None,
    }


def describe_reader(reader: Predictor) -> dict[str, Any]:
    """The operating points, the band of doubt, the figures and the limits of a release."""
    manifest = reader.release.manifest
    assert isinstance(manifest, AbnormalityManifest)  # a Predictor has no other
    band = reader.decision.band
    return {
        "operating_points": list(_points(manifest)),
        "band": {"low": band.low, "high": band.high, "rule": band.rule}
        if band.low < band.high
        else None,
        "figures": list(_figures(manifest)),
        "limits": list(_limits(reader.release, manifest)),
    }


def _points(manifest: AbnormalityManifest) -> Iterator[dict[str, Any]]:
    """Each operating point with its sensitivity and specificity on test, where it has any."""
    tested = manifest.metrics.test.operating_points if manifest.has("metrics") else {}
    for name, point in manifest.operating_points.items():
        estimates = tested[name].estimates if name in tested else {}
        yield {
            "name": name,
            "threshold": point.threshold,
            "rule": point.rule,
            "recommended": name == manifest.recommended,
            **{
                key: str(estimates[key]) if key in estimates else None
                for key in ("sensitivity", "specificity")
            },
        }


def _figures(manifest: AbnormalityManifest) -> Iterator[dict[str, Any]]:
    """What the release is worth: on test, or on the local studies that it was recalibrated on."""
    if (origin := manifest.recalibration) is not None:
        after, split = origin.after, f"{origin.dataset}, cross-fitted"
        for name, estimate in (
            ("AUC", origin.auc),
            ("Sensitivity", after.sensitivity),
            ("Specificity", after.specificity),
            ("Calibration slope", after.slope),
            ("Brier score", after.brier),
        ):
            yield _figure(name, estimate, split)
    elif manifest.has("metrics"):
        test = manifest.metrics.test
        for key, name in METRIC_NAMES.items():
            if key in test.estimates:
                yield _figure(name, test.estimates[key], test.split)
        yield _figure("Brier score, calibrated", test.calibration.after.brier, test.split)


def _figure(name: str, estimate: Estimate, split: str) -> dict[str, Any]:
    return {"name": name, "text": str(estimate), "split": split, **estimate.to_json()}


def _limits(release: Release, manifest: AbnormalityManifest) -> Iterator[str]:
    """What the figures do not say, a sentence each."""
    yield _USE
    yield _WHAT_ABNORMAL_IS
    if manifest.has("data") and (counts := manifest.data.counts):
        splits = ("train",) if manifest.refit_folds is None else ("train", "dev")
        own = [counts[split] for split in splits if split in counts]
        learned = ", ".join(f"{sum(split[what] for split in own):,} {what}" for what in own[0])
        yield f"Trained on {' and '.join(splits)} of {name_dataset(manifest)}: {learned}."
    if (origin := manifest.recalibration) is not None:
        yield (
            f"Its calibration and thresholds come from {origin.studies} studies of "
            f"{origin.dataset}."
        )
        yield from (f"{warning[0].upper()}{warning[1:]}." for warning in list_warnings(origin))
    elif manifest.has("metrics"):
        test = manifest.metrics.test
        if test.abstain.studies:
            yield (
                f"{test.abstain.studies} of {test.studies} test studies were in the band of doubt, "
                f"where it abstains; {describe_rest(test.abstain, test.studies)}."
            )
        if test.unfamiliar is not None:
            yield (
                f"{test.unfamiliar.studies} of {test.studies} test studies were {UNFAMILIAR}, a "
                f"share of {test.unfamiliar.share.brief()}: it abstains from these."
            )
    else:
        yield "An older version released it, without its figures."
    if release.familiarity is None:
        yield (
            "It cannot tell a picture that is nothing like those it was trained on: an older "
            "version made it."
        )
    if changes := describe_decoding_changes(manifest):
        yield f"{changes[0].upper()}{changes[1:]}."
