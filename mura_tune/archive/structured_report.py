"""An answer as a DICOM structured report: a Measurement Report (DICOM PS3.16, TID 1500).

A report has a group of measurements for the study, and one for each view. The device observer is
the release: its name, its version and its digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mura_tune import __version__
from mura_tune.archive.headers import MANUFACTURER, SourceStudy, SourceView, new_uid
from mura_tune.evaluation.familiarity import UNFAMILIAR
from mura_tune.reading.answers import Answer, is_unfamiliar

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES = 9101  # numbers of the three series, which seldom meet those of a study
_DESCRIPTION = "mura-tune answer, for research only"
_SCHEME = "99MURATUNE"  # DICOM PS3.16, 8.2: names of private schemes begin with 99
_DECIMALS = 6


@dataclass(frozen=True)
class Model:
    """What answered.

    Attributes:
        area: of the release.
        digest: of the release, with the threshold, as tables of answers have it.
    """

    area: str
    digest: str

    @property
    def name(self) -> str:
        """The name that an archive shows."""
        return f"{MANUFACTURER} {self.area}"

    def equipment(self) -> dict[str, Any]:
        """What made an object (DICOM PS3.3, C.7.5.1), by highdicom's words."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.name,
            "software_versions": __version__,
            "device_serial_number": self.digest,
        }

    @property
    def uid(self) -> str:
        """The UID of the release, as a device."""
        return new_uid("device", self.area, self.digest)


def report_uid(root: str) -> str:
    """The SOPInstanceUID of the report of the answer that `root` names."""
    return new_uid("SR", root)


def build_report(study: SourceStudy, answer: Answer, model: Model, root: str) -> Dataset:
    """The Comprehensive SR of an answer; its views are those of the study, in order.

    Args:
        root: names the answer; the report's UIDs follow from it.
    """
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=model.uid,
            name=model.name,
            manufacturer_name=MANUFACTURER,
            model_name=f"{model.name} {__version__}",
            serial_number=model.digest,
        ),
    )
    groups = [_study_group(study, answer, model, root)]
    for number, (view, source) in enumerate(zip(answer.views, study.views, strict=True), 1):
        told = [] if is_unfamiliar(answer.familiarity) else [_probability(view.probability)]
        groups.append(_group(f"view {number}", (source,), model, root, told))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.PlainRadiography,
        imaging_measurements=groups,
    )
    report: Dataset = sr.ComprehensiveSR(
        evidence=[view.reference() for view in study.views],
        content=content[0],
        series_instance_uid=new_uid("series SR", root),
        series_number=SERIES,
        sop_instance_uid=report_uid(root),
        instance_number=1,
        **model.equipment(),
        series_description=_DESCRIPTION,
        is_complete=True,
        is_final=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=_SCHEME, name="mura-tune", responsible_organization="mura-tune"
            )
        ],
    )
    return report


def _study_group(study: SourceStudy, answer: Answer, model: Model, root: str) -> Any:
    """The group of the study: its probability, the threshold, the call and the rule behind it."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    measurements = [_number(codes.DCM.ThresholdValue, answer.threshold)]
    rule = answer.operating_point
    evaluations = [
        sr.QualitativeEvaluation(_private("CALL", "Call at the operating point"), _call(answer)),
        sr.QualitativeEvaluation(_private("RULE", "Rule of the operating point"), _private(rule)),
    ]
    if answer.abstain:
        reason = _private("BAND", "In the band of doubt")
        if answer.familiarity is not None and is_unfamiliar(answer.familiarity):
            reason = _private("UNFAMILIAR", UNFAMILIAR)
            distance, most = answer.familiarity.distance, answer.familiarity.threshold
            measurements += [
                _number(_private("DISTANCE", "Distance from the training radiographs"), distance),
                _number(_private("DISTANCE_MOST", "Largest distance that is answered"), most),
            ]
        evaluations.append(sr.QualitativeEvaluation(_private("REASON", "Why no call"), reason))
    if not is_unfamiliar(answer.familiarity):
        measurements.insert(0, _probability(answer.probability))
    return _group("study", study.views, model, root, measurements, evaluations)


def _call(answer: Answer) -> Any:
    """Whether *abnormal* is present at the operating point, by CID 240."""
    from pydicom.sr.codedict import codes

    if answer.abstain:
        return codes.cid240.Undetermined
    return codes.cid240.Present if answer.abnormal else codes.cid240.Absent


def _probability(value: float) -> Any:
    """The calibrated probability of the group's finding."""
    from pydicom.sr.codedict import codes

    return _number(codes.DCM.Probability, value)


def _number(name: Any, value: float) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.Measurement(name=name, value=round(value, _DECIMALS), unit=codes.UCUM.NoUnits)


def _private(value: str, meaning: str = "") -> Any:
    """A code of our own, where DICOM has none."""
    from highdicom.sr import CodedConcept

    return CodedConcept(value, _SCHEME, meaning or value)


def _group(
    name: str,
    views: Sequence[SourceView],
    model: Model,
    root: str,
    measurements: Sequence[Any],
    evaluations: Sequence[Any] = (),
) -> Any:
    """A measurement group (TID 1501) about these views, by the release: the finding is abnormal."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=new_uid("group", name, root), identifier=name
        ),
        finding_type=codes.SCT.Abnormal,
        algorithm_id=sr.AlgorithmIdentification(
            name=model.name,
            version=__version__,
            manufacturer=MANUFACTURER,
            parameters=[f"release {model.digest}"],
        ),
        measurements=measurements or None,
        qualitative_evaluations=evaluations or None,
        source_images=[
            sr.SourceImageForMeasurementGroup.from_source_image(view.reference()) for view in views
        ],
    )
