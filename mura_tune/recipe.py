"""The recipe: everything that changes the weights of one training run, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from mura_tune.errors import InputError
from mura_tune.strict import build, check, nearest


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training: `epochs`, peak learning rate, and `depth`, the number of stages
    that train, counted from the head (0 = the head alone; more than the model has = all)."""

    epochs: int
    lr: float
    depth: int = 0

    def __post_init__(self) -> None:
        check(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        check(self.lr > 0 and math.isfinite(self.lr), "lr", self.lr, "above 0")
        check(self.depth >= 0, "depth", self.depth, "0 (head only) or more")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that changes the weights, and nothing else (no device, path or worker count)."""

    arch: str
    size: int  # pixels a side
    pretrained: str  # imagenet, none, or a file of weights
    batch: int  # images a step
    head: Phase
    finetune: Phase
    augment: float  # strength, 0 = off to 1 = strongest
    class_weight: float  # factor on the balanced weight of the positive class
    weight_decay: float
    patience: int  # epochs without a better dev score before stopping; 0 = never stop early
    seed: int

    def __post_init__(self) -> None:
        check(bool(self.arch), "arch", self.arch, "the name of a network")
        check(16 <= self.size <= 1024, "size", self.size, "between 16 and 1024 pixels")
        check(self.batch >= 2, "batch", self.batch, "2 or more (BatchNorm needs two images)")
        check(0 <= self.augment <= 1, "augment", self.augment, "between 0 and 1")
        check(0 < self.class_weight < math.inf, "class_weight", self.class_weight, "above 0")
        check(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more")
        check(self.patience >= 0, "patience", self.patience, "0 or more")
        check(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 2^32 - 1")
        total = self.head.epochs + self.finetune.epochs
        check(total > 0, "head.epochs + finetune.epochs", total, "1 or more")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have epochs, in order."""
        return tuple(phase for phase in (self.head, self.finetune) if phase.epochs)

    @property
    def epochs(self) -> int:
        """Epochs over all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name a run: equal recipes, equal names."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_dict(raw: Mapping[str, Any], source: str) -> Recipe:
    """The recipe that `dataclasses.asdict` wrote, checked as strictly as a study file."""
    try:
        recipe: Recipe = build(Recipe, raw, "recipe")
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return recipe


def assign(recipe: Recipe, path: str, value: Any, *, key: str | None = None) -> Recipe:
    """A copy of `recipe` with the field at dotted `path` set. Raises ValueError with the key."""
    key = key or path
    if path not in (known := list(recipe_paths())):
        raise ValueError(f"{key} is no recipe field{nearest(path, known)}")
    first, _, rest = path.partition(".")
    raw = dataclasses.asdict(recipe)
    (raw[first] if rest else raw)[rest or first] = value
    try:
        return build(Recipe, raw, "")  # type: ignore[no-any-return]  # build gives `cls`
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def apply(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """`assign` for several fields; raises InputError that opens with `source`."""
    try:
        for path, value in values.items():
            recipe = assign(recipe, path, value)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return recipe


def recipe_paths(cls: type = Recipe, prefix: str = "") -> Iterator[str]:
    """Every field a search axis, `final` or `--set` may name, dotted."""
    for name, kind in get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from recipe_paths(kind, f"{prefix}{name}.")  # type: ignore[arg-type]  # a class, just checked
        else:
            yield prefix + name
