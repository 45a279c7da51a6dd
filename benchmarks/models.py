"""What does each network and each task cost, and reach, on one small budget?

Every network by the same `fit` from random weights, all stages: on phantom wrists, and on the real
radiographs where they lie beside the checkout; then the tasks that learn from all areas at once.
A few epochs do not rank networks. They show that each one trains, in what time, and how uncertain
its figures are.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from measure import REAL, arguments, is_here, opened

from mura_tune import config
from mura_tune.areas import ALL, MULTITASK, ROUTER
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import task_of

CPU = torch.device("cpu")
ARCHES: tuple[str, ...] = (
    "cnn",
    "resnet18",
    "resnet50",
    "densenet121",
    "densenet169",
    "efficientnet_b0",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "hybrid",
    "hybrid-resnet18",
)
AREAS = ("XR_HAND", "XR_SHOULDER", "XR_WRIST")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=150, help="of each phantom area")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3)
    given = opened(parser)
    arches = ARCHES
    if given.quick:
        given.patients, given.size, given.epochs = 40, 32, 1
        arches = ("cnn", "resnet18")
    sets = [
        f"size={given.size}",
        "pretrained=none",
        "head.epochs=0",
        "finetune.lr=1.0e-3",
        f"finetune.epochs={given.epochs}",
        "finetune.depth=99",
        "augment=0.25",
        "split.folds=0",
    ]
    print(
        f"{given.epochs} epochs at {given.size} px from random weights, all stages; the score by "
        "study with its 95 % interval by patient"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_phantoms(root / "phantoms", areas=AREAS, patients=given.patients, size=256)
        table = Table(root, sets)
        table.head("phantom wrists", root / "phantoms", "XR_WRIST")
        for arch in arches:
            table.row("XR_WRIST", arch)
        table.head(f"phantoms of {len(AREAS)} areas", root / "phantoms", ALL)
        for study in (ALL, ROUTER, MULTITASK):
            table.row(study, "cnn")
        if is_here(REAL):
            table.head("real radiographs (wrist, hand, forearm)", REAL, "XR_MIXED")
            for arch in arches:
                table.row("XR_MIXED", arch)


class Table:
    """Lines of one form; what they train on stands over them."""

    def __init__(self, root: Path, sets: list[str]) -> None:
        self.root, self.sets = root, sets

    def head(self, title: str, data: Path, area: str) -> None:
        study = config.load_config(area, ["arch=cnn", *self.sets])
        self.prepared: Prepared = prepare(
            open_dataset(data), area, study.recipe.size, study.split, self.root / "cache"
        )
        self.parts = [load_split(self.prepared, part, CPU) for part in ("train", "dev", "test")]
        train, dev, test = ((len(part), len(set(part.studies))) for part in self.parts)
        print(f"\n{title}: {train[0]} images to train on, {dev[1]} dev and {test[1]} test studies")
        print(f"{'':22} {'million':>8} stages  s/epoch  {'score':15} {'dev':22} test")

    def row(self, area: str, arch: str) -> None:
        """One network trained for one study's task."""
        study = config.load_config(area, [f"arch={arch}", *self.sets])
        task, recipe, (train, dev, test) = task_of(study.task), study.recipe, self.parts
        net = task.start(recipe, train)
        started = time.perf_counter()
        result = fit(net, train, dev, recipe, task)
        seconds = (time.perf_counter() - started) / len(result.epochs)
        found = [
            task.measure.estimate(task.table(logits, part)).brief()
            for logits, part in ((result.logits, dev), (predict(net, test), test))
        ]
        name = arch if area.startswith("XR_") else f"{area}, {arch}"
        millions = sum(p.numel() for p in net.parameters()) / 1e6
        print(
            f"{name:22} {millions:8.2f} {len(net.stages):6} {seconds:8.1f}  {task.monitor:15} "
            f"{found[0]:22} {found[1]}"
        )


if __name__ == "__main__":
    main()
