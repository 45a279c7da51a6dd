"""The recipe: everything that changes the weights of one training run, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mura_tune.errors import InputError
from mura_tune.strict import build_dataclass, check_value, convert, field_types, suggest_name

LOSSES = ("bce", "focal")
MONITORS = ("auc", "f1", "kappa")
SAMPLINGS = ("natural", "balanced")
WEIGHINGS = ("view", "study")
OPTIMISERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "plateau", "constant")
HEAD_INITS = ("random", "small", "prior")
KEEPS = ("best", "last")
BATCH_NORMS = ("batch", "start")
NORMALISATIONS = ("common", "own")
STUDY_SCORES = ("mean_probability", "mean_logit")
SOLVERS = ("steps", "lbfgs")
SIZES = range(16, 1024 + 1)  # pixels a side
CHOICES = {
    "loss": LOSSES,
    "sampling": SAMPLINGS,
    "weigh": WEIGHINGS,
    "optimiser": OPTIMISERS,
    "schedule": SCHEDULES,
    "monitor": MONITORS,
    "head_init": HEAD_INITS,
    "keep": KEEPS,
    "batch_norm": BATCH_NORMS,
    "normalisation": NORMALISATIONS,
    "study_score": STUDY_SCORES,
}
# Fields whose legal values depend on one another: a search is refused if it could combine
# values of these that no recipe may have together.
COUPLED_FIELDS = (
    "schedule",
    "plateau_patience",
    "patience",
    "head.solver",
    "head.epochs",
    "head.depth",
    "consistency",
    "pretrained",
)
LARGEST_COUNT = (
    1_000_000  # of epochs, stages or images a step: a number with a digit too many is refused
)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training: `epochs`, peak learning rate, and `depth`, the number of stages
    that train, counted from the head (0 = the head alone; more than the model has = all)."""

    epochs: int  # 0 = the phase is left out
    lr: float  # peak learning rate
    depth: int = 0  # stages that train, from the head; 0 = the head alone

    def __post_init__(self) -> None:
        check_value(
            0 <= self.epochs <= LARGEST_COUNT,
            "epochs",
            self.epochs,
            f"0 or more, at most {LARGEST_COUNT}",
        )
        check_value(self.lr > 0 and math.isfinite(self.lr), "lr", self.lr, "above 0")
        check_value(
            0 <= self.depth <= LARGEST_COUNT,
            "depth",
            self.depth,
            f"0 (head only) or more, at most {LARGEST_COUNT}",
        )

    @property
    def solved(self) -> bool:
        """Whether its minimum is computed; else it is stepped towards, epoch by epoch."""
        return False


@dataclass(frozen=True, kw_only=True)
class HeadPhase(Phase):
    """The first phase. `solver: lbfgs` computes the head instead of stepping towards it, see
    `Recipe.phases`; then `lr`, and any number of `epochs` above 0, change nothing."""

    solver: str = "steps"  # of SOLVERS

    def __post_init__(self) -> None:
        super().__post_init__()
        known = f"one of {', '.join(SOLVERS)}"
        check_value(self.solver in SOLVERS, "solver", self.solver, known)
        if self.solved:
            check_value(
                self.depth == 0, "depth", self.depth, "0: solver lbfgs computes the head alone"
            )

    @property
    def solved(self) -> bool:
        return self.epochs > 0 and self.solver != "steps"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that changes the weights, and nothing else (no device, path or worker count).

    A field with a default came later than the first recipes, and its default is what they did.
    It is part of what their digest means: never change one.
    """

    arch: str
    size: int  # pixels a side
    pretrained: str  # imagenet, none, or a file of weights
    batch: int  # images a step
    head: HeadPhase
    finetune: Phase
    augment: float  # strength, 0 = off to 1 = strongest
    class_weight: float  # factor on the balanced weight of the positive class
    weight_decay: float
    patience: int  # epochs without a better dev score before stopping; 0 = never stop early
    seed: int
    loss: str = "bce"  # of LOSSES
    focal_gamma: float = 2.0  # focal's exponent; bce has none
    sampling: str = "natural"  # of SAMPLINGS
    optimiser: str = "adamw"  # of OPTIMISERS
    layer_decay: float = 1.0  # a stage's learning rate over that of the next one towards the head
    schedule: str = "cosine"  # of SCHEDULES, the learning rate through each phase
    warmup: float = 0.0  # share of each phase's steps in which the learning rate rises from 0
    plateau_patience: int = 2  # epochs without a better dev score before plateau lowers it
    plateau_factor: float = 0.1  # what plateau multiplies it by
    monitor: str = "auc"  # of MONITORS: the dev score that picks the epoch and the trial
    consistency: float = 0.0  # weight of the disagreement of class-activation maps of turned views
    aux_weight: float = 0.0  # of the area's loss in the multi-task loss
    head_init: str = "random"  # of HEAD_INITS: the classifier's first weights
    keep: str = "best"  # of KEEPS: the epoch whose weights, and dev score, a run ends with
    batch_norm: str = "batch"  # of BATCH_NORMS: whose statistics normalise in training
    ema: float = 0.0  # epochs, the time constant of the average of weights that is kept; 0 = none
    normalisation: str = "common"  # of NORMALISATIONS: the input that RGB weights are made for
    study_score: str = "mean_probability"  # of STUDY_SCORES: what dev ranks studies by
    weigh: str = "view"  # of WEIGHINGS: what counts alike in the loss
    clip: float = 0.0  # largest norm of a step's gradient; 0 = any
    label_smoothing: float = 0.0  # share of a label that all classes divide
    flip_test: bool = False  # whether answers are the mean logits of a view and its mirror image
    mixup: float = 0.0  # alpha of the Beta distribution of two views' shares; 0 = views as they are

    def __post_init__(self) -> None:
        check_value(bool(self.arch), "arch", self.arch, "the name of a network")
        within = f"between {SIZES[0]} and {SIZES[-1]} pixels"
        check_value(self.size in SIZES, "size", self.size, within)
        check_value(
            2 <= self.batch <= LARGEST_COUNT,
            "batch",
            self.batch,
            f"2 or more (BatchNorm needs two images), at most {LARGEST_COUNT}",
        )
        check_value(0 <= self.augment <= 1, "augment", self.augment, "between 0 and 1")
        check_value(0 < self.class_weight < math.inf, "class_weight", self.class_weight, "above 0")
        check_value(
            0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "0 or more"
        )
        check_value(
            0 <= self.patience <= LARGEST_COUNT,
            "patience",
            self.patience,
            f"0 or more, at most {LARGEST_COUNT}",
        )
        check_value(0 <= self.aux_weight < math.inf, "aux_weight", self.aux_weight, "0 or more")
        check_value(0 <= self.seed < 2**32, "seed", self.seed, "between 0 and 2^32 - 1")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            check_value(value in known, name, value, f"one of {', '.join(known)}")
        check_value(0 <= self.focal_gamma < math.inf, "focal_gamma", self.focal_gamma, "0 or more")
        check_value(
            0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0, at most 1"
        )
        check_value(0 <= self.warmup < 1, "warmup", self.warmup, "0 or more, below 1")
        check_value(
            1 <= self.plateau_patience <= LARGEST_COUNT,
            "plateau_patience",
            self.plateau_patience,
            f"1 or more, at most {LARGEST_COUNT}",
        )
        check_value(
            0 < self.plateau_factor < 1, "plateau_factor", self.plateau_factor, "inside 0 to 1"
        )
        check_value(0 <= self.ema < math.inf, "ema", self.ema, "0 or more")
        check_value(0 <= self.clip < math.inf, "clip", self.clip, "0 or more")
        check_value(
            0 <= self.label_smoothing < 1,
            "label_smoothing",
            self.label_smoothing,
            "0 or more, below 1",
        )
        check_value(0 <= self.mixup < math.inf, "mixup", self.mixup, "0 or more")
        check_value(0 <= self.consistency < math.inf, "consistency", self.consistency, "0 or more")
        if self.schedule == "plateau" and self.patience > 0:
            rule = f"below patience ({self.patience}): the run would stop before its rate falls"
            check_value(
                self.plateau_patience < self.patience,
                "plateau_patience",
                self.plateau_patience,
                rule,
            )
        total = self.head.epochs + self.finetune.epochs
        check_value(total > 0, "head.epochs + finetune.epochs", total, "1 or more")
        if self.phases[0].solved:
            rule = "0.0: it needs steps; write head.solver: steps for another value"
            check_value(self.consistency == 0, "consistency", self.consistency, rule)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have epochs, in order.

        A solved phase counts as one epoch. No phase of depth 0 follows it: it has the minimum that
        such a phase would step towards. A network without first weights takes steps whatever the
        solver: its features, and BatchNorm's statistics of them, say nothing yet.
        """
        head = self.head
        if head.solved and self.pretrained == "none":
            head = dataclasses.replace(head, solver="steps")
        if not head.solved:
            return tuple(phase for phase in (head, self.finetune) if phase.epochs)
        solved = dataclasses.replace(head, epochs=1)
        return (
            (solved, self.finetune) if self.finetune.epochs and self.finetune.depth else (solved,)
        )

    @property
    def frozen_statistics(self) -> bool:
        """Whether BatchNorm normalises by its start's statistics; without a start it has none."""
        return self.batch_norm == "start" and self.pretrained != "none"

    @property
    def epochs(self) -> int:
        """Epochs over all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name a run: equal recipes, equal names, whatever version made
        them, since a field that has its default is left out."""
        values = dataclasses.asdict(self)
        unchanged = [path for path, v in LATER_DEFAULTS.items() if get_value(values, path) == v]
        text = json.dumps(drop_values(values, unchanged), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


# Dotted fields that came after the first recipes, each with what those did. The depth of a phase
# has a default too, but the first digests held it.
LATER_DEFAULTS: Mapping[str, Any] = {
    f.name: f.default for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING
} | {"head.solver": HeadPhase.solver}


# Fields that default.yaml sets to another value than earlier recipes had: the values in turn, first
# the Recipe's own default, last today's. A search goes on with the value that it began with.
CHANGED_FIELDS: Mapping[str, tuple[Any, ...]] = {
    "head_init": ("random", "small", "prior"),
    "normalisation": ("common", "own"),
    "study_score": ("mean_probability", "mean_logit"),
}


def get_value(raw: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path of a recipe as plain values; None where it has none."""
    first, _, rest = path.partition(".")
    return raw.get(first, {}).get(rest) if rest else raw.get(first)


def newer_fields(raw: Mapping[str, Any]) -> list[str]:
    """Return the fields of `CHANGED_FIELDS` that a recipe as plain values is older than."""
    return [path for path in CHANGED_FIELDS if get_value(raw, path) is None]


def drop_values(raw: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return a recipe as plain values without those at dotted paths."""
    return {
        name: drop_values(value, [p.partition(".")[2] for p in paths if p.startswith(f"{name}.")])
        if isinstance(value, Mapping)
        else value
        for name, value in raw.items()
        if name not in paths
    }


def complete_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as plain values with the defaults of the fields that it is older than."""
    whole = {name: dict(v) if isinstance(v, Mapping) else v for name, v in raw.items()}
    for path, default in LATER_DEFAULTS.items():
        first, _, rest = path.partition(".")
        (whole[first] if rest else whole).setdefault(rest or first, default)
    return whole


def recipe_from_dict(raw: Mapping[str, Any], source: str) -> Recipe:
    """Build the recipe that `dataclasses.asdict` wrote, checked as strictly as a search file.

    Raises:
        InputError: an unknown or missing key, or an illegal value; `source` opens the message.
    """
    try:
        recipe: Recipe = build_dataclass(Recipe, raw, "recipe")
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return recipe


def with_values(recipe: Recipe, values: Mapping[str, Any], *, prefix: str = "") -> Recipe:
    """Return a copy of `recipe` with the fields at dotted paths set.

    All are set at once, because some pairs of values are only legal together.

    Raises:
        ValueError: an unknown path or an illegal value; the message begins with `prefix`.
    """
    try:
        return _replace(recipe, values)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def _replace(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Set fields without building the other fields anew: a search file does this often."""
    fields: dict[str, Any] = {}
    phases: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        converted = convert(field_type(path), value, path)
        first, _, rest = path.partition(".")
        (phases.setdefault(first, {}) if rest else fields)[rest or first] = converted
    for name, changes in phases.items():
        try:
            fields[name] = dataclasses.replace(getattr(recipe, name), **changes)
        except ValueError as error:
            raise ValueError(f"{name}.{error}") from None
    return dataclasses.replace(recipe, **fields)


def apply_values(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """Return `with_values`.

    Raises:
        InputError: an unknown path or an illegal value; the message begins with `source`.
    """
    try:
        return with_values(recipe, values)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def field_type(path: str) -> type:
    """Return the type of the field at a dotted path. Raises ValueError for an unknown path."""
    if path not in RECIPE_FIELDS:
        raise ValueError(f"{path} is no recipe field{suggest_name(path, list(RECIPE_FIELDS))}")
    return RECIPE_FIELDS[path]


def _fields(cls: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    for name, kind in field_types(cls).items():
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


# Every field that a search axis, `final` or `--set` may name, dotted, and its type.
RECIPE_FIELDS: Mapping[str, type] = dict(_fields(Recipe))
