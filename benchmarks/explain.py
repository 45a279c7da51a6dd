"""Do heatmaps point at the lesion? Phantoms have a box around each one.

Draws phantom wrists, trains the small network, and takes the top tenth of each map of an abnormal
test view: which share of it lies in the lesion's box? Chance is the share of the whole view that
the box takes: that is what a map gets that falls anywhere. Beside it what the same maps get in the
boxes of the other views, for lesions have their usual places and maps fall on bone, and networks
with random weights. Where a tenth of a map ends among equal values (zeros, often) each counts in
part.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import arguments, opened
from PIL import Image

from mura_tune import config
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.networks.factory import build_network
from mura_tune.networks.gradcam import compute_gradcam
from mura_tune.networks.network import Network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import apply_values
from mura_tune.training.batches import Split, load_split, to_input
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK

AREA, PATIENTS, EPOCHS, RANDOM = "XR_WRIST", 300, 16, 10
CPU = torch.device("cpu")
RECIPE = {
    "arch": "cnn",
    "pretrained": "none",
    "head.epochs": 0,
    "finetune.depth": 5,
    "finetune.lr": 4.5e-4,
    "augment": 0.25,
}


def boxes(root: Path, split: Split, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a lesion, and where it is, (N, S, S) booleans in the network's square."""
    lines = (root / "lesions.csv").read_text().splitlines()[1:]
    found = {line.split(",")[0].split("/", 1)[1]: line.split(",")[2:] for line in lines}
    rows, masks = [], []
    for row, path in enumerate(map(str, split.paths)):
        if path not in found:
            continue
        with Image.open(root / path) as image:
            scale = np.array([size / image.width, size / image.height] * 2)
        x0, y0, x1, y1 = (np.array(found[path], dtype=float) * scale).round().astype(int)
        mask = np.zeros((size, size), dtype=bool)
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        rows.append(row)
        masks.append(mask)
    return np.array(rows), np.array(masks)


@dataclass(frozen=True)
class Shares:
    """Shares of the maps' top tenth inside boxes: each view's own, and those of other views."""

    own: float
    others: float

    def describe(self, box: float) -> str:
        return (
            f"{self.own / box:.2f} x chance ({self.own:.1%} of the top tenth is in the box); "
            f"in other views' boxes {self.others / box:.2f}"
        )


def shares(net: Network, split: Split, rows: np.ndarray, masks: np.ndarray) -> Shares:
    """Where the maps of `rows` point, against `masks` (N, S, S)."""
    x_nchw = to_input(split.pixels[torch.from_numpy(rows)], CPU)
    flat = masks.reshape(len(rows), -1).astype(np.float64)
    tops = np.array([top_tenth(cam.ravel()) for cam in compute_gradcam(net, x_nchw).numpy()])
    inside = tops @ flat.T  # map i, box j
    others = ~np.eye(len(rows), dtype=bool)
    return Shares(float(inside.diagonal().mean()), float(inside[others].mean()))


def top_tenth(values: np.ndarray) -> np.ndarray:
    """A weight for each value, in all 1: equal for those in the top tenth, parted where it ends."""
    kept = len(values) // 10
    last = np.partition(values, -kept)[-kept]
    above, tied = values > last, values == last
    return np.asarray((above + tied * (kept - above.sum()) / tied.sum()) / kept)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=128, help="of the network's input, in pixels")
    given = opened(parser)
    size, quick = given.size, given.quick
    patients, epochs = (40, 1) if quick else (PATIENTS, EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "phantom"
        write_phantoms(root, areas=(AREA,), patients=patients, size=256)
        study = config.load_config(AREA)
        prepared = prepare(open_dataset(root), AREA, size, study.split, Path(folder) / "cache")
        train, dev, test = (load_split(prepared, part, CPU) for part in ("train", "dev", "test"))
        rows, masks = boxes(root, test, size)
        recipe = apply_values(
            study.recipe, RECIPE | {"size": size, "finetune.epochs": epochs}, "benchmark"
        )
        net = build_network("cnn", seed=recipe.seed)
        best = fit(net, train, dev, recipe, ABNORMALITY_TASK).epoch
        score = ABNORMALITY_TASK.score(predict(net, test), test)
        print(
            f"small network at {size} px, {len(train)} images, {recipe.epochs} epochs: study AUC "
            f"dev {best.score:.3f}, test {score:.3f}"
        )
        print(f"{len(rows)} views with a lesion; its box takes {masks.mean():.1%} of a view")
        box = float(masks.mean())
        print(f"trained: {shares(net, test, rows, masks).describe(box)}")
        drawn = [shares(build_network("cnn", seed=s), test, rows, masks) for s in range(RANDOM)]
        mean = Shares(
            float(np.mean([s.own for s in drawn])), float(np.mean([s.others for s in drawn]))
        )
        each = ", ".join(f"{s.own / box:.1f}" for s in drawn)
        print(f"random weights, {RANDOM} seeds: {mean.describe(box)}; each {each}")


if __name__ == "__main__":
    main()
