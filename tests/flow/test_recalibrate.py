"""A release recalibrated on the studies of another place: the same weights, another decision."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from untrained import CPU, save_untrained

from mura_tune.data.prepare import AreaImages, open_area, open_dataset
from mura_tune.errors import InputError
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.release.recalibrate import recalibrate_release
from mura_tune.release.release import Release, load_release
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.manifest import (
    CARD,
    MANIFEST,
    REPORT,
    AbnormalityManifest,
    RouterManifest,
    parse_manifest,
    read_manifest,
)
from mura_tune.report.recalibration import PARENT_CARD, PARENT_REPORT

Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wrists of other patients than those that the release was trained on."""
    root = tmp_path_factory.mktemp("elsewhere") / "hospital-b"
    write_phantoms(root, areas=("XR_WRIST",), patients=14, seed=7, size=64)
    return root


@pytest.fixture
def images(elsewhere: Path, tmp_path: Path) -> AreaImages:
    return open_area(open_dataset(elsewhere), "XR_WRIST", 32, tmp_path / "cache")


def test_a_release_is_recalibrated_verified_read_and_measured(
    run: Run, trained_release: Path, elsewhere: Path, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "local" / "XR_WRIST"
    ran = run("recalibrate", trained_release, f"--data={elsewhere}", f"--out={out}")
    assert ran.code == 0, ran.err
    assert "Calibration slope: before " in ran.out
    assert "warning: 26 patients are fewer than" in ran.out
    parent, manifest = read_manifest(trained_release / MANIFEST), read_manifest(out / MANIFEST)
    assert isinstance(manifest, AbnormalityManifest)
    origin = manifest.recalibration
    assert origin is not None
    assert origin.parent == sha256(trained_release / SUMS)
    assert (origin.dataset, origin.patients, origin.overlap_checked) == ("hospital-b", 26, True)
    assert manifest.calibration.fitted_on == "local"
    share = (origin.abnormal + 1) / (origin.studies + 2)
    assert manifest.operating_point.threshold == share == origin.after.threshold
    assert str(origin.before.slope) == str(origin.after.slope) == "undefined (n = 31 studies)"
    assert not manifest.has("metrics")  # its decision was not measured on the parent's test
    for name in (*parent.members, "trained_on.txt", "fingerprints.txt"):
        assert (out / name).read_bytes() == (trained_release / name).read_bytes()
    assert manifest.reference_logits == parent.reference_logits
    for name, beside in ((CARD, PARENT_CARD), (REPORT, PARENT_REPORT)):
        assert (out / beside).read_bytes() == (trained_release / name).read_bytes()
        assert origin.parent in (out / name).read_text("utf-8")
        assert "hospital-b" in (out / name).read_text("utf-8")
    assert f"| Brier score | {origin.before.brier.brief()}" in (out / CARD).read_text("utf-8")

    ran = run("verify", out, f"--data={phantoms}")
    assert ran.code == 0, ran.err
    assert f"recalibrated from the release with sha256={origin.parent}" in ran.out
    assert "older version" not in ran.out
    ran = run("evaluate", f"--release={out}", f"--data={phantoms}", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["threshold"] == share
    view = next(elsewhere.glob("valid/XR_WRIST/*/*/image1.png"))
    ran = run("infer", f"--release={out}", f"--image={view}", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["threshold"] == share

    ran = run("report", f"--release={out}", f"--data={phantoms}")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "recalibrated, so its report is that of its local studies" in ran.err
    ran = run("recalibrate", out, f"--data={elsewhere}", f"--out={tmp_path / 'again'}")
    assert ran.code == 2
    assert "recalibrated itself; name the release that it was made from" in ran.err


def test_studies_that_it_was_trained_on_are_refused(
    run: Run, trained_release: Path, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "local"
    ran = run("recalibrate", trained_release, f"--data={phantoms}", f"--out={out}")
    assert ran.code == 2
    assert "pictures that the release was trained on (" in ran.err
    assert not out.exists()


def test_what_cannot_be_recalibrated_is_refused_in_a_line(
    trained_release: Path, images: AreaImages, tmp_path: Path
) -> None:
    opened = load_release(trained_release, CPU)
    with pytest.raises(InputError, match="the release itself, which stays"):
        recalibrate_release(opened, images, trained_release)
    router = Release(trained_release, RouterManifest.partial(), opened.net)
    with pytest.raises(InputError, match="a router, which says nothing about disease"):
        recalibrate_release(router, images, tmp_path / "out")
    old = load_release(save_untrained(tmp_path / "XR_TEST"), CPU)
    with pytest.raises(InputError, match="made by an older version, without recipe"):
        recalibrate_release(old, images, tmp_path / "out")
    frame = images.frame.assign(label=0)
    one_label = AreaImages(**{**vars(images), "frame": frame})
    with pytest.raises(InputError, match="26 patients with a normal study and 0 with an abnormal"):
        recalibrate_release(opened, one_label, tmp_path / "out")
    hands = AreaImages(**{**vars(images), "frame": images.frame.assign(area="XR_HAND")})
    with pytest.raises(InputError, match="has studies of XR_HAND, which"):
        recalibrate_release(opened, hands, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is no release of this program"):
        recalibrate_release(opened, images, tmp_path / "mine")
    assert not (tmp_path / "out").exists()


def test_a_threshold_that_is_not_its_own_is_refused(
    trained_release: Path, images: AreaImages, tmp_path: Path
) -> None:
    made = recalibrate_release(load_release(trained_release, CPU), images, tmp_path / "out")
    plain = made.manifest.to_json()
    assert parse_manifest(plain, "it").to_json() == plain
    plain["recalibration"]["after"]["threshold"] = 0.123
    with pytest.raises(InputError, match=r"recalibration\.after\.threshold is 0\.123"):
        parse_manifest(plain, "it")
    plain["recalibration"]["parent"] = "none"
    with pytest.raises(InputError, match=r"recalibration\.parent"):
        parse_manifest(plain, "it")
