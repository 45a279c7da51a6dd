"""Releases of earlier versions answer as they did: stored is what these versions wrote and said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Ran
from PIL import Image
from safetensors.torch import save_file
from untrained import CPU

from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.networks.weights import copy_tensors
from mura_tune.reading.readers import Predictor
from mura_tune.release.verify import inspect_release
from mura_tune.release_format import checksums

STORED = Path(__file__).parent


def filled() -> Network:
    """The small network with weights by a formula that no library can change."""
    net = build_network("cnn", size=32)
    for number, (name, value) in enumerate(net.body.state_dict().items()):
        if value.dtype != torch.float32:
            continue
        index = torch.arange(value.numel(), dtype=torch.int64) + 7919 * number
        hashed = (index * 2654435761 % 2**32) >> 24  # 0 to 255, by Knuth's multiplicative hash
        spread = (hashed.float() - 127.5) / 1024
        scale = value.ndim == 1 and name.endswith((".weight", "running_var"))
        value.copy_((spread + scale).view_as(value))
    return net


@pytest.mark.parametrize(
    ("schema", "probability", "threshold", "lacks"),
    [
        (1, 0.691000584699473, 0.5105359248429977, True),
        (2, 0.9999997835606109, 0.14848415817848815, False),
    ],
)
def test_a_release_of_an_earlier_version_answers_as_it_did(
    run: Callable[..., Ran],
    tmp_path: Path,
    schema: int,
    probability: float,
    threshold: float,
    lacks: bool,
) -> None:
    folder = tmp_path / "XR_WRIST"
    folder.mkdir()
    text = (STORED / f"release-{schema}" / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text)
    save_file(copy_tensors(filled().body.state_dict()), folder / "model.safetensors")
    checksums.write_checksums(folder)
    levels = np.arange(40 * 30).reshape(40, 30) * 7 % 256
    Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "view.png")
    predictor = Predictor(folder, CPU)
    answer = predictor.predict([tmp_path / "view.png"])
    assert answer.probability == pytest.approx(probability, abs=1e-6)
    assert (answer.threshold, answer.abnormal, answer.abstain) == (threshold, True, False)
    inspection = inspect_release(folder)
    assert inspection.area == "XR_WRIST"
    assert bool(inspection.lacks) == any(predictor.release.manifest.missing()) == lacks
    assert "read otherwise" in inspection.describe()  # by the first decoding
    asked = run("infer", f"--release={folder}", f"--image={tmp_path / 'view.png'}")
    assert asked.code == 0
    assert f"P(abnormal) = {probability:.3f}" in asked.out
    (line,) = asked.err.splitlines()
    assert "XR_WRIST: made when pictures were read otherwise" in line
