"""A release is whole or absent, and one changed byte is refused by the file's name."""

import json
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from mura_tune.errors import InputError
from mura_tune.networks.factory import build_network
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.reading.locate import locate_release
from mura_tune.release.release import (
    add_files,
    check_reference_logits,
    load_release,
    release_digest,
    save_release,
    weights_digest,
)
from mura_tune.release.verify import inspect_release
from mura_tune.release_format import checksums
from mura_tune.release_format.entries import PreprocessingEntry, ThresholdEntry
from mura_tune.release_format.manifest import parse_manifest, uncalibrated

PREPROCESSING = {"size": 32, "mean": MEAN, "std": STD}
VALUES = {
    "area": "XR_TEST",
    "arch": "cnn",
    "outputs": 1,
    "preprocessing": PREPROCESSING,
    "recipe_digest": "0" * 12,
    **uncalibrated(ThresholdEntry(value=0.3, rule="for a test")).to_json(),
}
MANIFEST = parse_manifest({"schema": 2, **VALUES}, "for a test")
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_release(
        tmp_path / "XR_TEST", build_network("cnn", seed=3), MANIFEST, {"MODEL_CARD.md": "# hi\n"}
    )
    return tmp_path / "XR_TEST"


def test_what_was_saved_comes_back(folder: Path) -> None:
    loaded = load_release(folder, CPU)
    expected = build_network("cnn", seed=3).body.state_dict()
    got = loaded.net.body.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not loaded.net.training
    assert loaded.manifest.area == "XR_TEST"
    digest = release_digest(folder, loaded.manifest)
    assert digest == weights_digest(build_network("cnn", seed=3))
    assert digest != weights_digest(build_network("cnn", seed=4))
    assert sorted(p.name for p in folder.iterdir()) == [
        "MODEL_CARD.md",
        "SHA256SUMS",
        "bundle.json",
        "model.safetensors",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]  # no draft left


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_every_file_of_a_release_has_the_mode_that_the_umask_asks_for(
    tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        folder = tmp_path / "releases" / "XR_TEST"
        save_release(folder, build_network("cnn", seed=3), MANIFEST, {"MODEL_CARD.md": "# hi\n"})
        written = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        add_files(folder, {"report.html": "<p></p>"})
    finally:
        os.umask(before)
    assert written == dict.fromkeys(written, 0o666 & ~mask)
    assert "model.safetensors" in written
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys([*written, "report.html"], 0o666 & ~mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_full_disk_leaves_the_old_release_and_no_part_of_the_new(folder: Path) -> None:
    """The system refuses to let a file grow over 20 kB, as a full disk would."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"XR_TEST: no room .* takes 1\.4 MB"):
            save_release(folder, build_network("cnn", seed=4), MANIFEST, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["XR_TEST"]
    save_release(folder, build_network("cnn", seed=4), MANIFEST, {})


def test_what_no_reader_would_take_replaces_no_release(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    unreadable = MANIFEST.changed(created=os.fsdecode(b"f\xe9vrier"))
    with pytest.raises(InputError, match="created is"):
        save_release(folder, build_network("cnn", seed=4), unreadable, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        load_release(folder, CPU)
    return str(refused.value)


def test_a_thousand_flips_and_cuts_are_refused_by_the_name_of_the_file(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = [path.name for path in folder.iterdir()]
    for number in range(1000):
        path = folder / names[number % len(names)]
        position = int(rng.integers(path.stat().st_size))
        with path.open("r+b") as file:
            file.seek(position)
            (byte,) = file.read(1)
            file.seek(position)
            file.write(bytes([byte ^ int(rng.integers(1, 256))]))
            file.flush()
            said = refusal(folder)
            # A line of SHA256SUMS that is wrong looks like the file it stands for being wrong.
            assert path.name in said or (path.name == "SHA256SUMS" and "SHA256SUMS" in said)
            file.seek(position)
            file.write(bytes([byte]))
    for name in names:
        path = folder / name
        whole = path.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1, *rng.integers(0, len(whole), 20)):
            path.write_bytes(whole[:length])
            assert name in refusal(folder)
        path.unlink()
        assert name in refusal(folder)
        path.write_bytes(whole)
    load_release(folder, CPU)


def test_sums_that_lose_a_whole_line_are_refused_too(folder: Path) -> None:
    *lines, last = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    assert last.endswith("model.safetensors\n")
    (folder / "SHA256SUMS").write_text("".join([*lines[1:], last]))
    assert "MODEL_CARD.md: not listed in SHA256SUMS" in refusal(folder)
    (folder / "SHA256SUMS").write_text("".join(lines))
    assert "model.safetensors: not listed in SHA256SUMS" in refusal(folder)


def test_notes_of_a_file_browser_belong_to_nobody(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    load_release(folder, CPU)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "..", ".x", "a\\b", "C:x", "a\tb", "SHA256SUMS", ""]
)
def test_a_name_that_leaves_the_folder_is_no_line_of_sums(name: str) -> None:
    with pytest.raises(InputError, match="there: line 1 is damaged"):
        checksums.parse_checksums(f"{'0' * 64}  {name}\n".encode(), "there")


def rewritten(folder: Path, **values: object) -> None:
    """Another bundle.json, as if it had been released so."""
    before = json.loads((folder / "bundle.json").read_text())
    replaced(folder, json.dumps(before | values))


def replaced(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_text(text)
    (folder / "SHA256SUMS").unlink()
    checksums.write_checksums(folder)


def test_the_stored_answer_is_held_against_what_the_network_says_here(folder: Path) -> None:
    loaded = load_release(folder, CPU)
    assert len(loaded.manifest.reference_logits) == 3
    assert check_reference_logits(loaded.net, loaded.manifest, folder) == 0
    with torch.no_grad():
        loaded.net.body.fc.bias.add_(5e-5)
    assert check_reference_logits(loaded.net, loaded.manifest, folder) == pytest.approx(
        5e-5, rel=0.01
    )
    with torch.no_grad():
        loaded.net.body.fc.bias.add_(1e-4)
    with pytest.raises(InputError, match="logits differ by"):
        check_reference_logits(loaded.net, loaded.manifest, folder)
    for stored in ([[0.0]], [[float("nan")]] * 3):
        with pytest.raises(InputError, match=r"golden|logits differ"):
            check_reference_logits(
                loaded.net, loaded.manifest.changed(reference_logits=stored), folder
            )
    old = loaded.manifest.changed(reference_logits=None)
    assert check_reference_logits(loaded.net, old, folder) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schema": 99}, "schema 99"),
        ({"preprocessing": PREPROCESSING | {"mean": 0.5}}, "preprocessing.mean is 0.5"),
        ({"preprocessing": PREPROCESSING | {"crop": 0.9}}, "preprocessing.crop is 0.9"),
        ({"members": ["model-7.safetensors"]}, "does not list model-7.safetensors"),
        ({"arch": "resnet18"}, "does not fit resnet18"),
    ],
)
def test_a_release_that_this_version_cannot_answer_for_is_refused(
    folder: Path, values: dict[str, object], said: str
) -> None:
    rewritten(folder, **values)
    assert said in refusal(folder)


def test_what_is_needed_for_an_answer_and_absent_is_refused_when_it_is_loaded(
    folder: Path,
) -> None:
    values = json.loads((folder / "bundle.json").read_text())
    del values["calibration"]
    replaced(folder, json.dumps(values))
    assert "bundle.json: lacks calibration" in refusal(folder)
    with pytest.raises(InputError, match="lacks calibration"):
        inspect_release(folder)


def test_a_failed_write_leaves_the_old_release_and_no_draft(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_release(folder, build_network("cnn"), MANIFEST.changed(outputs=float("nan")), {})
    assert (folder / "bundle.json").read_bytes() == before
    assert [file.name for file in folder.parent.iterdir()] == ["XR_TEST"]


def test_a_release_that_a_killed_call_had_moved_aside_is_found_again(folder: Path) -> None:
    for aside in (".XR_TEST.old-0123456789ab", ".XR_TEST-old-x0_y1z2w/release"):
        place = folder.parent / aside
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
        assert load_release(folder, CPU).manifest.area == "XR_TEST"
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
        server = "http://127.0.0.1:9"
        assert locate_release(None, "XR_TEST", folder.parent, server, print) == folder
        assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]


def test_a_new_release_takes_the_place_of_the_old(folder: Path) -> None:
    save_release(folder, build_network("cnn", seed=4), MANIFEST.changed(area="XR_NEW"), {})
    assert load_release(folder, CPU).manifest.area == "XR_NEW"
    assert not (folder / "MODEL_CARD.md").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]


def test_weights_of_another_network_are_refused_by_tensor(tmp_path: Path) -> None:
    save_release(tmp_path / "r", build_network("resnet18"), MANIFEST, {})
    with pytest.raises(InputError, match="does not fit cnn: missing tensor stem"):
        load_release(tmp_path / "r", CPU)


def test_a_text_is_added_to_a_whole_release_and_vouched_for(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    add_files(folder, {"report.html": "<p>one</p>", "MODEL_CARD.md": "# new\n"})
    add_files(folder, {"report.html": "<p>two</p>"})
    load_release(folder, CPU)
    assert (folder / "report.html").read_text() == "<p>two</p>"
    assert (folder / "MODEL_CARD.md").read_text() == "# new\n"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]
    (folder / "report.html").write_text("<p>three</p>")
    with pytest.raises(InputError, match=r"report\.html: not as released"):
        load_release(folder, CPU)
    with pytest.raises(InputError, match=r"report\.html"):
        add_files(folder, {"MODEL_CARD.md": "# vouches for nothing that is damaged"})


def test_a_release_of_schema_1_answers_as_it_did(folder: Path) -> None:
    from mura_tune.evaluation.decision import Calibration, Decision

    core = ("area", "arch", "outputs", "preprocessing", "recipe_digest")
    old = {key: VALUES[key] for key in core}
    old |= {"schema": 1, "threshold": {"value": 0.3, "chosen": "largest Youden index"}}
    replaced(folder, json.dumps(old))
    chosen = Decision.from_manifest(load_release(folder, CPU).manifest)
    assert chosen.calibration == Calibration(1.0, 0.0, "mean of sigmoids")
    assert (chosen.threshold, chosen.recommended) == (0.3, "max_youden")
    assert not chosen.band.holds(0.3)


@pytest.mark.parametrize(
    ("arch", "size", "outputs"),
    [("resnet18", 32, 1), ("efficientnet_b0", 40, 2), ("vit_tiny_patch16_224", 48, 1)],
)
def test_plain_timm_loads_a_release_offline(
    arch: str, size: int, outputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    net = build_network(arch, size=size, outputs=outputs, seed=7).eval()
    own = PreprocessingEntry.of(PREPROCESSING | {"size": size})
    manifest = MANIFEST.changed(arch=arch, outputs=outputs, preprocessing=own)
    save_release(tmp_path / "XR_TEST", net, manifest, {})
    theirs = timm.create_model(f"local-dir:{tmp_path / 'XR_TEST'}", pretrained=True).eval()
    x = torch.randn(20, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(theirs(x), net(x), atol=1e-5)
    told = timm.data.resolve_data_config(model=theirs)
    assert told["input_size"] == (1, size, size)
    assert (list(told["mean"]), list(told["std"])) == ([MEAN], [STD])


def test_a_network_of_our_own_claims_nothing_to_timm(folder: Path) -> None:
    assert not (folder / "config.json").exists()
