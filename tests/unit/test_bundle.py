"""A release is whole or absent, and one changed byte is refused by the file's name."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import timm
import torch

from mura_tune.errors import InputError
from mura_tune.learning.batches import MEAN, STD
from mura_tune.learning.models import build
from mura_tune.release import bundle

PREPROCESSING = {"size": 32, "mean": MEAN, "std": STD}
MANIFEST = {"area": "XR_TEST", "arch": "cnn", "outputs": 1, "preprocessing": PREPROCESSING}
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle.save(tmp_path / "XR_TEST", build("cnn", seed=3), MANIFEST, {"MODEL_CARD.md": "# hi\n"})
    return tmp_path / "XR_TEST"


def test_what_was_saved_comes_back(folder: Path) -> None:
    loaded = bundle.load(folder, CPU)
    expected = build("cnn", seed=3).body.state_dict()
    got = loaded.net.body.state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not loaded.net.training
    assert loaded.manifest["area"] == "XR_TEST"
    assert sorted(p.name for p in folder.iterdir()) == [
        "MODEL_CARD.md", "SHA256SUMS", "bundle.json", "model.safetensors",
    ]  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]  # no draft left


@pytest.mark.parametrize(
    "name", ["MODEL_CARD.md", "SHA256SUMS", "bundle.json", "model.safetensors"]
)
def test_any_changed_or_cut_byte_is_refused_by_name(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    rng = torch.Generator().manual_seed(0)
    for position in torch.randint(len(whole), (8,), generator=rng).tolist():
        changed = bytearray(whole)
        changed[position] ^= 0x01
        path.write_bytes(changed)
        with pytest.raises(InputError, match="fetch"):
            bundle.load(folder, CPU)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="fetch"):
        bundle.load(folder, CPU)
    path.unlink()
    with pytest.raises(InputError, match=name):
        bundle.load(folder, CPU)
    path.write_bytes(whole)
    bundle.load(folder, CPU)


def test_a_failed_write_leaves_the_old_release_and_no_draft(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        bundle.save(folder, build("cnn"), {**MANIFEST, "x": float("nan")}, {})
    assert (folder / "bundle.json").read_bytes() == before
    assert os.listdir(folder.parent) == ["XR_TEST"]  # noqa: PTH208 - names are what is compared


def test_a_new_release_takes_the_place_of_the_old(folder: Path) -> None:
    bundle.save(folder, build("cnn", seed=4), {**MANIFEST, "area": "XR_NEW"}, {})
    assert bundle.load(folder, CPU).manifest["area"] == "XR_NEW"
    assert not (folder / "MODEL_CARD.md").exists()
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]


def test_weights_of_another_network_are_refused_by_tensor(tmp_path: Path) -> None:
    bundle.save(tmp_path / "r", build("resnet18"), MANIFEST, {})
    with pytest.raises(InputError, match="does not fit cnn: missing tensor stem"):
        bundle.load(tmp_path / "r", CPU)


def test_a_text_is_added_to_a_whole_release_and_vouched_for(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    bundle.add(folder, {"report.html": "<p>one</p>", "MODEL_CARD.md": "# new\n"})
    bundle.add(folder, {"report.html": "<p>two</p>"})
    bundle.load(folder, CPU)
    assert (folder / "report.html").read_text() == "<p>two</p>"
    assert (folder / "MODEL_CARD.md").read_text() == "# new\n"
    assert (folder / "model.safetensors").read_bytes() == weights
    assert [p.name for p in folder.parent.iterdir()] == ["XR_TEST"]
    (folder / "report.html").write_text("<p>three</p>")
    with pytest.raises(InputError, match=r"report\.html: not as released"):
        bundle.load(folder, CPU)
    with pytest.raises(InputError, match=r"report\.html"):
        bundle.add(folder, {"MODEL_CARD.md": "# vouches for nothing that is damaged"})


def test_a_release_of_schema_1_answers_as_it_did(folder: Path) -> None:
    from mura_tune.release.calibrate import Calibration, Chosen

    old = MANIFEST | {"schema": 1, "threshold": {"value": 0.3, "chosen": "largest Youden index"}}
    text = json.dumps(old)
    (folder / "bundle.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    lines = [f"{digest}  bundle.json" if line.endswith("bundle.json") else line for line in sums]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    chosen = Chosen.from_json(bundle.load(folder, CPU).manifest)
    assert chosen.calibration == Calibration(temperature=1.0, offset=0.0)
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
    net = build(arch, size=size, outputs=outputs, seed=7).eval()
    about = {"arch": arch, "outputs": outputs, "preprocessing": PREPROCESSING | {"size": size}}
    bundle.save(tmp_path / "XR_TEST", net, MANIFEST | about, {})
    theirs = timm.create_model(f"local-dir:{tmp_path / 'XR_TEST'}", pretrained=True).eval()
    x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(theirs(x), net(x), atol=1e-5)
    told = timm.data.resolve_data_config(model=theirs)
    assert told["input_size"] == (1, size, size)
    assert (list(told["mean"]), list(told["std"])) == ([MEAN], [STD])


def test_a_network_of_our_own_claims_nothing_to_timm(folder: Path) -> None:
    assert not (folder / "config.json").exists()
