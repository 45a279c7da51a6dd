"""Stored outputs: what must never change between versions without somebody deciding it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from mura_tune.config import load_config
from mura_tune.data import splits
from mura_tune.imaging import images
from mura_tune.networks.factory import build_network
from mura_tune.recipe import CHANGED_FIELDS, with_values
from mura_tune.training.augment import augment, draw_uniform

PALACE = 698  # of ImageNet's 1000 classes
STORED = json.loads((Path(__file__).parent / "stored.json").read_text())


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def test_patients_keep_their_part_between_versions() -> None:
    """A release of today must not meet its training patients in a test set of tomorrow."""
    patients = [f"patient{i:05d}" for i in range(1, 25)]
    frame = pd.DataFrame({"patient": patients, "split": "train"})
    frame.loc[20:, "split"] = "valid"
    found = {str(seed): list(splits.assign_splits(frame, 0.2, seed)) for seed in (0, 1)}
    assert found == STORED["parts"]


def test_pixels_are_prepared_as_ever(tmp_path: Path) -> None:
    yy, xx = np.mgrid[0:150, 0:97]
    Image.fromarray(((yy * 3 + xx * 5) % 256).astype(np.uint8)).save(tmp_path / "a.png")
    assert (
        digest(images.resize_to_square(images.read_image(tmp_path / "a.png"), 64))
        == STORED["square"]
    )


def test_recipes_keep_their_names() -> None:
    """The shipped default has changed; what earlier versions ran keeps its name."""
    first = {path: values[0] for path, values in CHANGED_FIELDS.items()}
    recipe = with_values(load_config("default").recipe, first)
    assert recipe.digest == STORED["digest_of_random_heads"]
    assert replace(recipe, head_init="small").digest == STORED["digest"]


def test_the_network_and_its_augmentation_give_the_stored_numbers() -> None:
    x = torch.linspace(0, 1, 2 * 48 * 48).reshape(2, 1, 48, 48)
    moved = augment((x[:, 0] * 255).byte(), torch.from_numpy(draw_uniform(0, 1, 2)), 0.75)
    assert np.allclose(moved[:, 0, ::16, ::16].flatten(), STORED["augmented"], atol=1e-5)
    logits = build_network("cnn", seed=0).eval()(x).flatten().tolist()
    assert np.allclose(logits, STORED["logits"], atol=1e-4)


def test_packaged_imagenet_weights_see_a_palace() -> None:
    """By the preprocessing that timm states for them: 256 px, the middle 224, (x - 0.5) / 0.5."""
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    scale = 256 / min(photograph.size)
    width, height = (round(side * scale) for side in photograph.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    middle = photograph.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + 224, top + 224)
    )
    x_n3hw = torch.from_numpy(np.array(middle)).permute(2, 0, 1)[None] / 127.5 - 1
    net = build_network("tf_efficientnet_lite0", pretrained="imagenet", outputs=1000, channels=3)
    with torch.inference_mode():
        assert int(net.eval()(x_n3hw).argmax()) == PALACE
