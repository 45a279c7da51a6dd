"""Answers as DICOM objects: what they say, whose they are, and that validators take them."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from conftest import Ran
from dicoms import SECRET, dicom_file, table, to_bytes
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian
from untrained import save_router, save_untrained

from mura_tune.archive import answer_objects, headers
from mura_tune.archive.answer_objects import NoAnswer, make_objects, plan_answer
from mura_tune.archive.captures import draw_capture
from mura_tune.archive.presentation import trace_outlines
from mura_tune.archive.structured_report import Model, build_report
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging import images
from mura_tune.imaging.images import decode_image
from mura_tune.networks.gradcam import NoFeatureMap
from mura_tune.reading.answers import Familiarity
from mura_tune.reading.explain import Explanation, ViewExplanation
from mura_tune.reading.readers import Predictor
from mura_tune.reading.routed import RoutedReader

BITS12 = {"BitsStored": 12, "HighBit": 11}
NOISE = (np.random.default_rng(0).random((60, 40)) * 4000).astype(np.uint16)
HEADERS: dict[str, dict[str, Any]] = {
    "window": {"WindowCenter": [2000, 900], "WindowWidth": [4000, 80], "RescaleType": "US"},
    "inverse": {"PhotometricInterpretation": "MONOCHROME1", "Laterality": "R"},
    "tables": {
        "ModalityLUTSequence": table(0, 16, np.arange(0, 65536, 16, dtype=np.uint16)),
        "VOILUTSequence": table(0, 12, (np.linspace(0, 1, 4096) ** 2 * 4095).astype(np.uint16)),
        "syntax": ImplicitVRLittleEndian,
    },
    "rescale": {"RescaleSlope": 2, "RescaleIntercept": -5, "ImageLaterality": "L"},
    "exact": {"WindowCenter": 2000, "WindowWidth": 9, "VOILUTFunction": "LINEAR_EXACT"},
    "slope": {"RescaleSlope": 2},
    "intercept": {"RescaleIntercept": -5, "WindowCenter": 2000, "WindowWidth": 4000},
}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A reader with the release that nobody trained."""
    return Predictor(save_untrained(tmp_path_factory.mktemp("releases") / "XR_TEST"))


def write_view(path: Path, **fields: object) -> Path:
    """A radiograph's file, as a modality sends it."""
    about: dict[str, object] = {
        "SeriesInstanceUID": "1.2.3.4.1",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "StudyID": "7",
        "AccessionNumber": "A-77",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        **BITS12,
        **fields,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(dicom_file(NOISE, **about)))
    return path


def made(predictor: Predictor, *views: Path) -> dict[str, pydicom.Dataset]:
    """The objects of a study, read back, by the first part of their names."""
    objects = make_objects(plan_answer(predictor, views)).objects
    read = {name: pydicom.dcmread(io.BytesIO(content)) for name, content in objects.items()}
    return {name.rpartition("-")[0]: dataset for name, dataset in read.items()}


def items(dataset: pydicom.Dataset) -> list[tuple[str, Any]]:
    """The content items of a report, in order: the concept's meaning, and the value."""
    found: list[tuple[str, Any]] = []
    for item in dataset.get("ContentSequence", []):
        concept = item.get("ConceptNameCodeSequence")
        name = concept[0].CodeMeaning if concept else ""
        match item.ValueType:
            case "NUM":
                found.append((name, float(item.MeasuredValueSequence[0].NumericValue)))
            case "CODE":
                found.append((name, item.ConceptCodeSequence[0].CodeMeaning))
            case "TEXT":
                found.append((name, item.TextValue))
            case "UIDREF":
                found.append((name, item.UID))
            case "IMAGE":
                found.append((name, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        found += items(item)
    return found


def test_a_report_says_what_the_answer_says_and_what_answered(
    predictor: Predictor, tmp_path: Path
) -> None:
    views = [write_view(tmp_path / f"{n}.dcm", SOPInstanceUID=f"1.2.9.{n}") for n in (1, 2)]
    plan = plan_answer(predictor, views)
    answer = make_objects(plan).answer
    said = items(made(predictor, *views)["SR"])
    assert [value for name, value in said if name == "Probability"] == [
        pytest.approx(p, abs=1e-6)
        for p in (answer.probability, *(view.probability for view in answer.views))
    ]
    assert ("Threshold Value", pytest.approx(answer.threshold, abs=1e-6)) in said
    assert ("Call at the operating point", "Absent") in said
    assert ("Rule of the operating point", "max_youden") in said
    assert ("Device Observer Name", "mura-tune XR_TEST") in said
    assert ("Device Observer Serial Number", predictor.source) in said
    assert said.count(("Finding", "Abnormal")) == 3
    assert [value for name, value in said if str(value).startswith("1.2.9.")] == [
        *("1.2.9.1", "1.2.9.2"),  # of the study
        *("1.2.9.1", "1.2.9.2"),  # each of its own group
    ]


def test_the_call_is_that_of_the_operating_point(predictor: Predictor, tmp_path: Path) -> None:
    plan = plan_answer(predictor, [write_view(tmp_path / "view.dcm")])
    answer = predictor.predict(plan.images)
    for abnormal, abstain, call in (
        (True, False, "Present"),
        (False, False, "Absent"),
        (True, True, "Undetermined"),
    ):
        told = replace(answer, abnormal=abnormal, abstain=abstain)
        said = items(build_report(plan.study, told, plan.model, plan.root))
        assert ("Call at the operating point", call) in said
        assert (("Why no call", "In the band of doubt") in said) == abstain


def test_a_study_unlike_the_training_radiographs_gets_no_probability(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_answer(predictor, [write_view(tmp_path / "view.dcm")])
    answer = replace(
        make_objects(plan).answer, abstain=True, familiarity=Familiarity(distance=9, threshold=4)
    )
    explanation = Explanation(answer, "abnormal", ())
    monkeypatch.setattr(answer_objects, "explain_views", lambda *args: explanation)
    objects = make_objects(plan).objects
    assert len(objects) == 1
    (content,) = objects.values()
    said = items(pydicom.dcmread(io.BytesIO(content)))
    assert "Probability" not in [name for name, _ in said]
    assert ("Call at the operating point", "Undetermined") in said
    assert ("Why no call", "not like the radiographs this was trained on") in said
    assert ("Distance from the training radiographs", 9) in said
    assert ("Largest distance that is answered", 4) in said


def test_objects_are_of_the_study_in_series_of_their_own(
    predictor: Predictor, tmp_path: Path
) -> None:
    name = "Yamada^Tarou=山田^太郎"
    view = write_view(
        tmp_path / "v.dcm",
        SpecificCharacterSet="ISO_IR 192",
        PatientName=name,
        PatientSex="X",
        BurnedInAnnotation="NO",
    )
    source, objects = pydicom.dcmread(view), made(predictor, view)
    assert set(objects) == {"GSPS-1", "SC-1", "SR"}
    copied = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID")
    for dataset in objects.values():
        for keyword in (*copied, "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            assert dataset[keyword].value == source[keyword].value, keyword
        assert str(dataset.PatientName) == name
    assert objects["SC-1"].BurnedInAnnotation == "NO"
    new = ("SeriesInstanceUID", "SOPInstanceUID")
    uids = {str(dataset[keyword].value) for dataset in objects.values() for keyword in new}
    assert len(uids) == 6
    assert source.SeriesInstanceUID not in uids


def test_the_same_files_and_release_give_the_same_objects(
    predictor: Predictor, tmp_path: Path
) -> None:
    views = [write_view(tmp_path / f"{n}.dcm", SOPInstanceUID=f"1.2.9.{n}") for n in (1, 2)]
    first = make_objects(plan_answer(predictor, views)).objects
    again = make_objects(plan_answer(predictor, views[::-1])).objects
    assert list(first) == list(again)
    assert all(map(answer_objects.has_same_content, first.values(), again.values()))
    other = Predictor(predictor.release.folder, threshold=0.25)
    assert not set(first) & set(make_objects(plan_answer(other, views)).objects)


@pytest.mark.parametrize("name", HEADERS)
def test_a_presentation_state_shows_the_view_as_the_network_saw_it(
    predictor: Predictor, tmp_path: Path, name: str
) -> None:
    view = write_view(tmp_path / "v.dcm", **HEADERS[name])
    state = made(predictor, view)["GSPS-1"]
    source = pydicom.dcmread(view)
    (images,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert images.ReferencedSOPInstanceUID == source.SOPInstanceUID
    display = state.SoftcopyVOILUTSequence[0] if "SoftcopyVOILUTSequence" in state else None
    assert state.Laterality == {"inverse": "R", "rescale": "L"}.get(name, "")
    assert state.PresentationLUTShape == ("INVERSE" if name == "inverse" else "IDENTITY")
    match name:
        case "window":
            assert display is not None
            assert (display.WindowCenter, display.WindowWidth) == (2000, 4000)
        case "tables":
            assert display is not None
            (shown,) = display.VOILUTSequence
            entries = np.frombuffer(bytes(shown.LUTData), "<u2")
            assert list(shown.LUTDescriptor) == [4096, 0, 16]
            assert entries[2048] / 65535 == pytest.approx((2048 / 4095) ** 2, abs=1e-3)
        case "exact":
            assert display is not None
            assert display.VOILUTFunction == "LINEAR_EXACT"
        case "rescale" | "slope" | "intercept":
            expected = {"rescale": (2, -5), "slope": (2, 0), "intercept": (1, -5)}[name]
            assert (state.RescaleSlope, state.RescaleIntercept) == expected


@pytest.mark.parametrize("name", [*HEADERS, "RG3_J2KR"])
def test_dciodvfy_finds_no_error(predictor: Predictor, tmp_path: Path, name: str) -> None:
    validator = shutil.which("dciodvfy")
    if validator is None:
        pytest.skip("no dciodvfy on this machine (Debian: apt-get install dicom3tools)")
    view = tmp_path / "view.dcm"
    if name in HEADERS:
        write_view(view, **HEADERS[name])
    else:
        shutil.copy(str(get_testdata_file(f"{name}.dcm")), view)
    objects = make_objects(plan_answer(predictor, [view])).objects
    assert len(objects) == 3
    for file, content in objects.items():
        (tmp_path / file).write_bytes(content)
        ran = subprocess.run(
            [validator, "-new", tmp_path / file], capture_output=True, text=True, check=False
        )
        assert [line for line in ran.stderr.splitlines() if line.startswith("Error")] == [], file
        assert ran.returncode == 0


def test_outlines_lie_around_what_is_bright() -> None:
    cam = np.zeros((8, 8), np.float32)
    cam[2:4, 5:8] = 1  # rows 2 and 3, up to the right edge
    outlines = trace_outlines(cam, (80, 160))
    assert len(outlines) == 2  # one a level
    for points in outlines:
        assert points.min() >= 0
        assert tuple(points[0]) == tuple(points[-1])
        columns, rows = points.T
        assert 90 < columns.min() < 110
        assert 150 < columns.max() <= 160
        assert 15 < rows.min() < 25
        assert 35 < rows.max() < 45
    assert trace_outlines(np.zeros((8, 8), np.float32), (80, 160)) == []


def test_a_capture_is_the_view_under_its_map_with_a_caption() -> None:
    grey = np.full((600, 300), 100, np.uint8)
    cam = np.zeros((4, 4), np.float32)
    cam[0, 0] = 1
    drawn = draw_capture(
        ViewExplanation(Path("v.dcm"), grey, 0.5, cam, None), Model("XR_TEST", "abc at 0.5")
    )
    assert drawn.shape == (600 + 60, 512, 3)
    left = (512 - 300) // 2
    assert (drawn[500, left + 200] == 100).all()  # grey where the map is dark
    assert int(drawn[10, left + 10].max()) - int(drawn[10, left + 10].min()) > 30
    assert drawn[:600, :left].max() == 0
    assert drawn[600:].max() == 255  # letters


def test_a_network_without_a_map_gets_a_report_alone(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise NoFeatureMap("no map")

    monkeypatch.setattr(answer_objects, "explain_views", refuse)
    assert set(made(predictor, write_view(tmp_path / "v.dcm"))) == {"SR"}


def test_a_report_alone_takes_no_map(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_answer(predictor, [write_view(tmp_path / "v.dcm")])
    whole = make_objects(plan).objects
    monkeypatch.setattr(answer_objects, "explain_views", None)
    ((name, report),) = make_objects(plan, ["SR"]).objects.items()
    assert answer_objects.has_same_content(report, whole[name])


def test_the_router_chooses_the_release_and_each_view_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = write_view(tmp_path / "v.dcm")
    save_untrained(tmp_path / "XR_WRIST", "XR_WRIST")
    save_router(tmp_path / "router", 0, 0.9)
    decoded: list[object] = []

    def decode(content: bytes, path: object) -> NDArray[np.uint8]:
        decoded.append(path)
        return decode_image(content, path)

    monkeypatch.setattr(images, "decode_image", decode)
    monkeypatch.setattr(headers, "decode_image", decode)
    plan = plan_answer(RoutedReader(tmp_path.joinpath), [view])
    assert plan.predictor.release.folder.name == "XR_WRIST"
    assert [name[:2] for name in make_objects(plan).objects] == ["GS", "SC", "SR"]
    assert plan.read() == make_objects(plan).answer
    assert decoded == [view]
    save_router(tmp_path / "router", 1, 0.9)
    with pytest.raises(NoAnswer, match="no release for XR_HAND"):
        plan_answer(RoutedReader(tmp_path.joinpath), [view])
    save_router(tmp_path / "router", 0, 0.999)
    with pytest.raises(NoAnswer, match=r"the router abstains \(XR_WRIST: confidence 0.993"):
        plan_answer(RoutedReader(tmp_path.joinpath), [view])


def test_views_that_are_no_study_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    first = write_view(tmp_path / "1.dcm")
    elsewhere = write_view(tmp_path / "2.dcm", StudyInstanceUID="1.2.3.5")
    picture = tmp_path / "view.png"
    Image.fromarray(NOISE.astype(np.uint8)).save(picture)
    cases: list[tuple[Path, type[Exception], str]] = [
        (elsewhere, InputError, "StudyInstanceUID"),
        (write_view(tmp_path / "3.dcm", PatientID="OTHER"), InputError, "PatientID"),
        (write_view(tmp_path / "4.dcm", SeriesInstanceUID="../../x"), UnreadableImage, "Series"),
        (picture, UnreadableImage, "no DICOM file"),
        (first, InputError, "two files of one SOPInstanceUID"),
    ]
    for other, kind, words in cases:
        with pytest.raises(kind, match=words) as error:
            plan_answer(predictor, [first, other])
        assert SECRET not in str(error.value)
        assert "OTHER" not in str(error.value)


def test_infer_writes_objects_once_and_never_over_others(
    run: Callable[..., Ran], release: Path, tmp_path: Path
) -> None:
    out, study = tmp_path / "objects", tmp_path / "studies" / "a"
    for number in (1, 2):
        write_view(study / f"{number}.dcm")
    write_view(tmp_path / "studies" / "b" / "1.dcm", StudyInstanceUID="1.2.3.5")
    write_view(tmp_path / "studies" / "d" / "1.dcm", StudyInstanceUID="1.2.3.6")
    write_view(tmp_path / "studies" / "d" / "2.dcm", StudyInstanceUID="1.2.3.6", PatientID="OTHER")
    (tmp_path / "studies" / "c").mkdir()
    Image.fromarray(NOISE.astype(np.uint8)).save(tmp_path / "studies" / "c" / "1.png")

    def infer() -> Ran:
        where = ["--release", release, "--out", tmp_path / "answers.csv", "--dicom-out", out]
        return run("infer", tmp_path / "studies", *where)

    ran = infer()
    assert ran.code == 0
    assert "c: no DICOM objects: " in ran.err
    assert "more than one PatientID are not one study" in ran.err
    assert f"{out}: DICOM objects of 2 studies; 2 without, see above" in ran.err
    assert SECRET not in ran.out + ran.err
    assert sorted(f.name.split("-")[0] for f in (out / "1.2.3.4").iterdir()) == [
        *("GSPS", "GSPS", "SC", "SC", "SR")
    ]
    stored = {f: f.read_bytes() for f in sorted(out.rglob("*.dcm"))}
    (report,) = (out / "1.2.3.5").glob("SR*")
    report.unlink()  # as a killed call leaves it
    ran = infer()
    assert "DICOM objects of 1 studies, 1 were there before" in ran.err
    assert report.exists()
    assert all(f == report or f.read_bytes() == content for f, content in stored.items())
    report.unlink()
    (capture,) = (out / "1.2.3.5").glob("SC*")
    capture.write_bytes(stored[report])
    ran = infer()
    assert ran.code == 2
    assert f"{capture}: holds something else" in ran.err
    assert capture.read_bytes() == stored[report]


def test_a_router_has_no_objects(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("infer", tmp_path, "--area=router", "--dicom-out", tmp_path / "out")
    assert ran.code == 2
    assert "a router has none" in ran.err
