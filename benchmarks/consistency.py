"""Do class-activation maps turn with their view if training asks for it, and what does it cost?

Run: .venv/bin/python benchmarks/consistency.py [--quick] [--weight 1.0] [--out FILE]. On phantom
wrists, the small CNN from nothing, a seed a round: once without the term and once with it, all
else alike. On test, every view is turned by +-15 and +-30 degrees; its map, turned back, is
compared with that of the view as it is: correlation over the places seen, and the term itself.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import torch
from measure import arguments, opened, spread

from mura_tune import config
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.metrics.ranking import auc
from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import apply_values
from mura_tune.training import losses
from mura_tune.training.batches import Split, load_split, to_input
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores

AREA, SIZE, CPU = "XR_WRIST", 128, torch.device("cpu")  # a last map of 4 x 4 places
ANGLES = (-30, -15, 15, 30)
WHAT = ("correlation of maps", "disagreement", "AUC, test", "seconds an epoch")


@torch.inference_mode()
def agreement(net: Network, part: Split) -> tuple[float, ...]:
    """Correlation of the maps of views as they are and turned, and `compare`: means over angles."""
    net.eval()
    x, found = to_input(part.pixels[:], CPU), []
    here = losses.class_maps(net, losses.feature_map(net, x))
    for degrees in ANGLES:
        turn = torch.full((len(x),), math.radians(degrees))
        moves = losses.rotation_matrices(turn, torch.ones(len(x)))
        view = losses.move(x, moves, outside=losses.BLACK)
        there = losses.class_maps(net, losses.feature_map(net, view))
        back = moves.transpose(1, 2)
        seen = losses.move(losses.move(torch.ones_like(here), moves), back) > 0.5
        pairs = zip(here, losses.move(there, back), seen, strict=True)
        each = [torch.corrcoef(torch.stack((a[s], b[s])))[0, 1] for a, b, s in pairs]
        apart = losses.compare_maps(here, there, moves)
        found.append((float(torch.stack(each).nanmean()), float(apart)))
    return tuple(sum(column) / len(found) for column in zip(*found, strict=True))


def main() -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--weight", type=float, default=1.0)
    given = opened(parser)
    patients, epochs = (24, 2) if given.quick else (240, 10)
    values = {
        "arch": "cnn",
        "size": SIZE,
        "pretrained": "none",
        "head.epochs": 0,
        "augment": 0.25,
        "finetune.epochs": epochs,
        "finetune.lr": 1e-3,
        "finetune.depth": 9,
    }
    base = apply_values(config.load_config(AREA).recipe, values, "benchmark")
    print(
        f"phantom wrists of {patients} patients, small CNN at {SIZE} px, {epochs} epochs, "
        f"{given.rounds} seeds: median (range)"
    )
    seen: dict[float, list[tuple[float, ...]]] = {0.0: [], given.weight: []}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "phantoms")
        write_phantoms(root, areas=(AREA,), patients=patients, size=256)
        prepared = prepare(
            open_dataset(root), AREA, SIZE, config.load_config(AREA).split, Path(name, "c")
        )
        train, dev, test = (load_split(prepared, part, CPU) for part in ("train", "dev", "test"))
        print(f"test: {len(set(test.studies))} studies")
        for seed in range(given.rounds):
            for weight, runs in seen.items():
                recipe = apply_values(base, {"seed": seed, "consistency": weight}, "benchmark")
                net, started = build_network("cnn", seed=seed), time.perf_counter()
                ran = fit(net, train, dev, recipe, ABNORMALITY_TASK)
                seconds = (time.perf_counter() - started) / len(ran.epochs)
                of = study_scores(predict(net, test), test)
                runs.append((*agreement(net, test), auc(of.scores, of.labels), seconds))
                losses = ", ".join(f"{e.loss:.3f}" for e in ran.epochs)
                print(f"seed {seed}, weight {weight}, training loss by epoch: {losses}")
    for row, what in enumerate(WHAT):
        for weight, runs in seen.items():
            print(f"{what:>20}, weight {weight}: {spread([run[row] for run in runs], '.3f')}")


if __name__ == "__main__":
    main()
