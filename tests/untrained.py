"""A release that nobody trained, and the device that tests compute on."""

from __future__ import annotations

from pathlib import Path

import torch

from mura_tune.networks.factory import build_network
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.manifest import CARD, Manifest, parse_manifest

CPU = torch.device("cpu")


def manifest_of(arch: str = "cnn", size: int = 32) -> Manifest:
    """What a release that nobody trained says of itself."""
    points = {"max_youden": {"threshold": 0.5, "chosen": "by nobody"}}
    values = {
        "schema": 2,
        "area": "XR_TEST",
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


def save_untrained(folder: Path) -> Path:
    """Write a release of the small network at 32 px."""
    save_release(
        folder, build_network("cnn", size=32, seed=3), manifest_of(), {CARD: "# XR_TEST\n"}
    )
    return folder
