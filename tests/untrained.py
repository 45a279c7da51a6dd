"""A release that nobody trained, and the device that tests compute on."""

from __future__ import annotations

from pathlib import Path

import torch

from mura_tune.networks.factory import build_network
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.manifest import CARD, Manifest, parse_manifest

CPU = torch.device("cpu")


def manifest_of(arch: str = "cnn", size: int = 32, area: str = "XR_TEST") -> Manifest:
    """What a release that nobody trained says of itself."""
    points = {"max_youden": {"threshold": 0.5, "chosen": "by nobody"}}
    values = {
        "schema": 2,
        "area": area,
        "arch": arch,
        "outputs": 1,
        "recipe_digest": "0" * 12,
        "preprocessing": current_preprocessing(size).to_json(),
        "calibration": {"temperature": 0.5, "offset": 0.01},
        "operating_points": points,
        "recommended": "max_youden",
        "abstain": {"low": 0.5, "high": 0.5, "share": 0.0, "error": 0.0, "error_without": 0.0},
    }
    return parse_manifest(values, "for a test")


def save_untrained(folder: Path, area: str = "XR_TEST") -> Path:
    """Write a release of the small network at 32 px."""
    net = build_network("cnn", size=32, seed=3)
    save_release(folder, net, manifest_of(area=area), {CARD: f"# {area}\n"})
    return folder


def save_router(folder: Path, area: int, confidence: float) -> None:
    """A router that takes all for one of two areas, and is sure of it to 0.993."""
    net = build_network("cnn", size=32, outputs=2)
    with torch.no_grad():
        net.body.fc.weight.zero_()
        net.body.fc.bias.copy_(torch.tensor([5.0, 0.0] if area == 0 else [0.0, 5.0]))
    abstain = {"confidence": confidence, "share": 0.0, "error": 0.0, "error_without": 0.0}
    manifest = {
        "schema": 2,
        "area": "router",
        "arch": "cnn",
        "outputs": 2,
        "recipe_digest": "0" * 12,
        "preprocessing": current_preprocessing(32).to_json(),
        "task": "part",
        "areas": ["XR_WRIST", "XR_HAND"],
        "calibration": {"temperature": 1.0},
        "abstain": abstain,
    }
    save_release(folder, net, parse_manifest(manifest, "for a test"), {})
