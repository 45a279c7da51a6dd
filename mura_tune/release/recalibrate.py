"""Recalibrate: choose a release's decision again on local studies, as a new release.

The new release has the weights of its parent, to the byte, and names it. What its decision is worth
on the local studies is cross-fitted; on the dataset that the network was trained with it was never
measured, so the new release has no scores there. Its parent's card and report lie beside its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mura_tune
from mura_tune.data.prepare import AreaImages, Prepared
from mura_tune.errors import InputError
from mura_tune.evaluation.cross_fit import cross_fit, measure_locally, recalibrate
from mura_tune.evaluation.decision import Decision, average_split
from mura_tune.evaluation.familiarity import count_unfamiliar, predict_with_distances
from mura_tune.metrics.calibration_error import estimate_brier_change, estimate_log_loss_change
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.release.external import find_saved_anew, find_trained_on
from mura_tune.release.release import Release, as_abnormality, save_changed
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.folder import check_place
from mura_tune.release_format.manifest import CARD, REPORT, SCHEMA, AbnormalityManifest
from mura_tune.release_format.recalibration import RecalibrationOriginEntry
from mura_tune.report.recalibration import (
    PARENT_CARD,
    PARENT_REPORT,
    describe_recalibration,
    render_recalibrated_card,
    render_recalibrated_report,
)
from mura_tune.text import name_some
from mura_tune.training.batches import Split, load_split

_LOCAL = "local"  # the name of the split
LEAST_PATIENTS = 2  # with a study of each label: below, nothing has an interval


@dataclass(frozen=True, eq=False)
class RecalibratedRelease:
    """The release that `recalibrate_release` wrote: its folder and its manifest."""

    folder: Path
    manifest: AbnormalityManifest

    def __str__(self) -> str:
        return f"{self.folder}\n{describe_recalibration(self.manifest)}"

    def to_json(self) -> dict[str, Any]:
        """The manifest with the folder of the release."""
        return self.manifest.to_json() | {"folder": str(self.folder)}


def recalibrate_release(parent: Release, images: AreaImages, folder: Path) -> RecalibratedRelease:
    """Choose the decision of `parent` again on all of the local studies, and write a new release.

    Args:
        images: the local set, in any split.

    Raises:
        InputError: a router, a release that is recalibrated itself or too old; a picture that the
            network was trained on; fewer than LEAST_PATIENTS with a study of a label; or a folder
            that holds something else.
    """
    manifest = _check_parent(parent)
    _check_folder(parent, folder)
    split = _load_local(images, manifest, parent)
    checked = _refuse_training_pictures(parent.folder, images)
    logits, distances = predict_with_distances(parent.net, split, parent.familiarity)
    local, before = average_split(logits, split), Decision.from_manifest(manifest)
    studies = before.calibration.studies(logits, split)
    if studies.rarer_patients < LEAST_PATIENTS:
        raise InputError(
            f"{images.dataset}: {studies.count_patients(0)} patients with a normal study and "
            f"{studies.count_patients(1)} with an abnormal one; it takes {LEAST_PATIENTS} of each "
            "at least: add studies"
        )
    chosen, fitted = recalibrate(before.calibration, local), cross_fit(before.calibration, local)
    on_old = measure_locally(studies, studies.scores >= before.threshold, before.threshold)
    on_new = measure_locally(fitted.studies, fitted.called, chosen.threshold)
    if math.isnan(on_old.slope.value):  # probabilities that differ by their folds alone have none
        on_new = on_new.changed(slope=on_old.slope)
    origin = RecalibrationOriginEntry(
        parent=sha256(parent.folder / SUMS),
        parent_calibration=manifest.calibration,
        dataset=images.dataset,
        fingerprint=images.fingerprint,
        images=len(split),
        studies=len(local.labels),
        patients=studies.count_patients(),
        abnormal=int(local.labels.sum()),
        overlap_checked=checked,
        folds=fitted.folds,
        auc=estimate_auc(studies),
        before=on_old,
        after=on_new,
        brier_change=estimate_brier_change(studies, fitted.studies),
        log_loss_change=estimate_log_loss_change(studies, fitted.studies),
        unfamiliar=count_unfamiliar(distances, split, parent.familiarity),
    )
    changed = _change_manifest(manifest, chosen, origin)
    texts = {
        CARD: render_recalibrated_card(changed),
        REPORT: render_recalibrated_report(changed),
    }
    for name, beside in ((CARD, PARENT_CARD), (REPORT, PARENT_REPORT)):
        if (parent.folder / name).is_file():
            texts[beside] = (parent.folder / name).read_text(encoding="utf-8")
    save_changed(parent.folder, folder, changed, texts)
    return RecalibratedRelease(folder, changed)


def _check_parent(parent: Release) -> AbnormalityManifest:
    """The manifest of a release that can be recalibrated."""
    manifest = as_abnormality(parent)
    if manifest.recalibration is not None:
        raise InputError(
            f"{parent.folder}: recalibrated itself; name the release that it was made from "
            f"(sha256={manifest.recalibration.parent})"
        )
    if lacking := list(manifest.missing()):
        raise InputError(
            f"{parent.folder}: made by an older version, without {lacking[0]}; run 'mura "
            "finalize' again, and recalibrate that release"
        )
    return manifest


def _check_folder(parent: Release, folder: Path) -> None:
    if folder.resolve() == parent.folder.resolve():
        raise InputError(f"{folder}: the release itself, which stays; name another folder by --out")
    check_place(folder)


def _load_local(images: AreaImages, manifest: AbnormalityManifest, parent: Release) -> Split:
    """Every view of the local set, whatever split it has there."""
    frame = images.frame.reset_index(drop=True)
    others = sorted(set(frame["area"]) - set(manifest.areas or frame["area"]))
    if others:
        raise InputError(
            f"{images.dataset}: has studies of {', '.join(others)}, which {parent.folder} was not "
            f"trained on ({', '.join(manifest.areas)}); leave them out"
        )
    local = Prepared(
        area=images.area,
        pixels=images.pixels,
        pixel_sha=images.pixel_sha,
        frame=frame.assign(split=_LOCAL, row=frame.index),
        left_out=images.left_out,
        near=images.near,
        fingerprint=images.fingerprint,
        split_hash="",
        root=images.root,
    )
    return load_split(local, _LOCAL, next(parent.net.parameters()).device)


def _refuse_training_pictures(release: Path, images: AreaImages) -> bool:
    """Refuse pictures that the network was trained on; whether the release knows which these are.

    On them its logits are not what they are on new ones.
    """
    frame = images.frame.reset_index(drop=True)
    assert images.root is not None  # of a dataset that was opened here
    trained_on = find_trained_on(release, images.root, frame)
    alike = find_saved_anew(release, images.pixels, frame, trained_on or ())
    for paths, what in (
        (trained_on or (), "pictures that the release was trained on"),
        (alike or (), "pictures that look like ones that the release was trained on, saved anew"),
    ):
        if paths:
            raise InputError(
                f"{images.dataset}: holds {len(paths)} {what} ({name_some(paths)}); recalibrate "
                "on studies that it has not seen: leave these out"
            )
    return trained_on is not None


def _change_manifest(
    manifest: AbnormalityManifest, chosen: Decision, origin: RecalibrationOriginEntry
) -> AbnormalityManifest:
    """The manifest of the new release: its own decision, and no scores but the local ones."""
    own = {
        **chosen.entries(),
        "schema": SCHEMA,
        "recalibration": origin,
        "versions": {**manifest.versions, "mura-tune (recalibration)": mura_tune.__version__},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    stays = {key: value for key, value in vars(manifest).items() if key != "metrics"}
    return type(manifest).partial(**{**stays, **own})
