"""What is the loss of a run's first step, by each way to start a head?

Every network from random weights, on phantom radiographs: the loss of the first epoch's first
batches, before anything is learned, less the loss of the prior. 0 is what an answer gets that is
the classes' frequencies under the loss's weights, for every view. Each cell is a mean over seeds.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import arguments, opened

from mura_tune.areas import ALL, MULTITASK, ROUTER
from mura_tune.config import load_config
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import HEAD_INITS, Recipe
from mura_tune.training.batches import Split, load_split, training_batches, view_shares
from mura_tune.training.tasks import Task, task_of

CPU = torch.device("cpu")
AREAS = ("XR_ELBOW", "XR_HAND", "XR_WRIST")
ARCHES: tuple[str, ...] = (
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "mnasnet_small",
    "resnet18",
    "densenet121",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "regnetx_002",
    "swin_tiny_patch4_window7_224",
    "crossvit_tiny_240",
    "mixer_s32_224",
    "hybrid",
    "hybrid-resnet18",
    "cnn",
)
OTHERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (ROUTER, "efficientnet_b0", ()),
    (ROUTER, "cnn", ()),
    (MULTITASK, "efficientnet_b0", ()),
    (MULTITASK, "cnn", ()),
    (ALL, "cnn", ("class_weight=3.0",)),
    (ALL, "cnn", ("loss=focal", "class_weight=3.0")),
    (ALL, "cnn", ("sampling=balanced", "class_weight=3.0")),
)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=60, help="of each phantom area")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    given = opened(parser)
    arches = ARCHES
    if given.quick:
        given.patients, given.seeds = 24, 1
        arches = ("tf_efficientnet_lite0", "cnn")
    print(
        f"the first loss less the prior's, mean of {given.seeds} seeds, random weights, "
        f"{given.size} px\n"
    )
    print(f"{'search':12} {'network':30} {'prior':>7} " + " ".join(f"{i:>9}" for i in HEAD_INITS))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_phantoms(root / "phantoms", areas=AREAS, patients=given.patients, size=256)
        for area, arch, sets in [*((ALL, arch, ()) for arch in arches), *OTHERS]:
            side = 240 if arch.startswith("crossvit") else given.size
            config = load_config(area, [f"arch={arch}", f"size={side}", "pretrained=none", *sets])
            prepared = prepare(
                open_dataset(root / "phantoms"), area, side, config.split, root / "cache"
            )
            train, task = load_split(prepared, "train", CPU), task_of(config.task)
            prior = loss_of_prior(task, config.recipe, train)
            cells = [
                np.mean(
                    [
                        first_loss(task, replace(config.recipe, head_init=init, seed=seed), train)
                        for seed in range(given.seeds)
                    ]
                )
                for init in HEAD_INITS
            ]
            about = ", ".join((arch, *sets))
            excess = " ".join(f"{cell - prior:+9.4f}" for cell in cells)
            print(f"{area:12} {about:30} {prior:7.4f} {excess}", flush=True)


def first_loss(task: Task, recipe: Recipe, train: Split) -> float:
    """The mean loss of one epoch's first four batches by a network that has learned nothing.

    A batch's labels are those of its views, so that the mean of four batches strays from that of
    the epoch: every label of train is judged by every answer instead, as often as an epoch sees it.
    """
    net = task.start(recipe, train).train()
    batches = training_batches(
        train,
        size=recipe.batch,
        seed=recipe.seed,
        epoch=1,
        strength=recipe.augment,
        device=CPU,
        sampling=recipe.sampling,
    )
    with torch.inference_mode():
        logits = torch.cat([net(x) for x, _ in (next(batches) for _ in range(4))])
    return expected_loss(task, recipe, train, logits)


def loss_of_prior(task: Task, recipe: Recipe, train: Split) -> float:
    return expected_loss(task, recipe, train, task.prior(train, recipe)[None])


def expected_loss(task: Task, recipe: Recipe, train: Split, logits_nk: torch.Tensor) -> float:
    """The mean loss of these answers over the targets of train, as often as an epoch sees each."""
    loss, shares = task.loss(train, recipe), view_shares(train, recipe)
    targets, group = torch.unique(task.targets(train), dim=0, return_inverse=True)
    weights = np.bincount(group.numpy(), shares)
    each = [float(loss(logits_nk, t.expand(len(logits_nk), *t.shape)).mean()) for t in targets]
    return float(np.dot(each, weights))


if __name__ == "__main__":
    main()
