"""The comparator: a search as a user would write it today, in our own words.

PIL and torchvision's v1 transforms in a DataLoader with two workers, float32, `requires_grad=False`
for frozen stages, every image decoded and every stage computed again in each epoch of each trial,
Optuna with its MedianPruner (switched off where a benchmark says so). On a GPU it trains as guides
advise: bfloat16 by autocast, channels last, pinned batches. The network, the recipe and the choice
of patients are ours, so that the two differ in how they get there and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mura_tune.networks.factory import build_network
from mura_tune.networks.network import Network
from mura_tune.networks.normalisation import MEAN, STD
from mura_tune.recipe import Recipe

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Part:
    """Files with their labels (0 or 1) and the studies that they belong to."""

    files: Sequence[Path]
    labels: Sequence[int]
    studies: Sequence[str]


class Radiographs(Dataset[tuple[Tensor, int]]):
    """One file at a time, opened, converted and transformed whenever it is asked for."""

    def __init__(self, part: Part, transform: transforms.Compose, mode: str) -> None:
        self.part, self.transform, self.mode = part, transform, mode

    def __len__(self) -> int:
        return len(self.part.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        with Image.open(self.part.files[row]) as image:
            return self.transform(image.convert(self.mode)), self.part.labels[row]


def training_transform(size: int, strength: float) -> transforms.Compose:
    """Ranges as `training.augment` has them at `strength`."""
    steps = [transforms.Resize((size, size))]
    if strength:
        steps += [
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(
                30 * strength,
                (0.06 * strength, 0.06 * strength),
                (1 / (1 + 0.25 * strength), 1 + 0.25 * strength),
                8.5 * strength,
            ),
            transforms.ColorJitter(0.2 * strength, 0.6 * strength),
        ]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def loader(
    part: Part,
    size: int,
    batch: int,
    *,
    strength: float | None = None,
    workers: int = 2,
    mode: str = "L",
) -> DataLoader[tuple[Tensor, int]]:
    """Shuffled and augmented where `strength` is given, else in order for evaluation.

    Args:
        mode: `L`, what our network takes, or `RGB`, what backbones are usually given.
    """
    data = Radiographs(part, training_transform(size, strength or 0.0), mode)
    pinned = torch.cuda.is_available()
    return DataLoader(
        data, batch, shuffle=strength is not None, num_workers=workers, pin_memory=pinned
    )


def logits_of(net: nn.Module, x: Tensor, device: torch.device) -> Tensor:
    """Logits (N,), float32, of images (N, 1, S, S) in the host's memory."""
    gpu = device.type == "cuda"
    layout = torch.channels_last if gpu else torch.contiguous_format
    x = x.to(device, non_blocking=True, memory_format=layout)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=gpu):
        logits: Tensor = net(x)[:, 0]
    return logits.float()


@torch.no_grad()
def study_auc(
    net: nn.Module, part: Part, recipe: Recipe, workers: int, device: torch.device
) -> float:
    """AUC of the mean probability of each study's images."""
    net.eval()
    batches = loader(part, recipe.size, recipe.batch, workers=workers)
    scores = np.concatenate(
        [torch.sigmoid(logits_of(net, x, device)).cpu().numpy() for x, _ in batches]
    )
    names, first, inverse = np.unique(part.studies, return_index=True, return_inverse=True)
    means = np.bincount(inverse, scores) / np.bincount(inverse)
    return float(roc_auc_score(np.asarray(part.labels)[first], means)) if len(names) > 1 else 0.5


def train(
    trial: optuna.trial.BaseTrial,
    train_part: Part,
    dev_part: Part,
    recipe: Recipe,
    workers: int = 2,
    device: torch.device = CPU,
) -> float:
    """One trial's best dev AUC."""
    torch.manual_seed(recipe.seed)
    whole: Network = build_network(recipe.arch, pretrained=recipe.pretrained, seed=recipe.seed)
    whole.set_depth(recipe.finetune.depth)  # what freezes: only `requires_grad`
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    net = whole.body.to(device, memory_format=layout)
    labels = np.asarray(train_part.labels)
    weight = recipe.class_weight * (labels == 0).sum() / max(1, (labels == 1).sum())
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(float(weight), device=device))
    optimiser = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad],
        lr=recipe.finetune.lr,
        weight_decay=recipe.weight_decay,
    )
    batches = loader(
        train_part, recipe.size, recipe.batch, strength=recipe.augment, workers=workers
    )
    steps = recipe.finetune.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    best = 0.0
    for epoch in range(recipe.finetune.epochs):
        net.train()
        for x, y in batches:
            optimiser.zero_grad()
            loss = criterion(logits_of(net, x, device), y.to(device, non_blocking=True).float())
            loss.backward()
            optimiser.step()
            schedule.step()
            _ = loss.item()  # for the progress bar
        score = study_auc(net, dev_part, recipe, workers, device)
        best = max(best, score)
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


def search(
    recipes: Sequence[Recipe],
    train_part: Part,
    dev_part: Part,
    *,
    workers: int = 2,
    pruner: optuna.pruners.BasePruner | None = None,
    device: torch.device = CPU,
) -> float:
    """The best dev AUC of fixed trials; `pruner` is Optuna's MedianPruner if none is given."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", pruner=pruner or optuna.pruners.MedianPruner()
    )
    for recipe in recipes:
        study.enqueue_trial({"lr": recipe.finetune.lr})

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-6, 1.0, log=True)
        return train(trial, train_part, dev_part, recipes[trial.number], workers, device)

    study.optimize(objective, n_trials=len(recipes))
    return float(study.best_value)
