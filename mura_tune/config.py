"""A study, read from YAML: the recipe, what is searched, the budget, the split, the final phases.

Every layer (default.yaml, an area's file, each `--set`) goes through the same strict `build`,
so whatever is wrong is told with the layer it came from, the key and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mura_tune.areas import MULTITASK, ROUTER, WHOLE, check_task
from mura_tune.errors import InputError
from mura_tune.recipe import COUPLED, Recipe, changed
from mura_tune.strict import build, check, hint

PRUNERS = ("median", "percentile", "hyperband", "none")


def studies_folder() -> Path:
    """Where the study files lie: inside an installed wheel, or at the root of a checkout."""
    installed = Path(__file__).parent / "studies"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "studies"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One searched recipe field: `low` to `high` (`high: all` = every stage), or `choices`."""

    low: float | int | None = None
    high: float | int | str | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.choices is not None:
            check(len(self.choices) > 0, "choices", list(self.choices), "a list of values")
            check(self.low is None and self.high is None, "choices", "choices beside low/high",
                   "one or the other")  # fmt: skip
            return
        for name, value in (("low", self.low), ("high", self.high)):
            allowed = isinstance(value, int | float) or (name == "high" and value == "all")
            check(allowed and not isinstance(value, bool), name, value, f"a number{hint(value)}")
        if isinstance(self.low, int | float) and isinstance(self.high, int | float):
            check(self.low <= self.high, "low", self.low, f"at most high ({self.high})")
            check(not self.log or self.low > 0, "low", self.low, "above 0 on a log scale")
        check(self.step is None or not self.log, "step", self.step, "left out on a log scale")
        check(self.step is None or self.step > 0, "step", self.step, "above 0")

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every choice, or both ends but for `all`, which the network decides."""
        return self.choices or tuple(v for v in (self.low, self.high) if v != "all")

    @property
    def values(self) -> tuple[Any, ...]:
        """Every value there is between whole numbers; else the ends."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(range(self.low, self.high + 1, int(self.step or 1)))
        return self.ends


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """When a trial is given up: see `mura_tune.tuning.search.pruner`."""

    name: str
    startup: int  # trials that finish before any is pruned
    min_trials: int  # trials that must have reached an epoch before it is compared there
    percentile: float  # what `percentile` keeps

    def __post_init__(self) -> None:
        check(self.name in PRUNERS, "name", self.name, f"one of {', '.join(PRUNERS)}")
        check(self.startup >= 0, "startup", self.startup, "0 or more")
        check(self.min_trials >= 1, "min_trials", self.min_trials, "1 or more")
        check(0 < self.percentile < 100, "percentile", self.percentile, "between 0 and 100")


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """How the winner is found: the `top` trials, and the baseline, once more with `seeds` each."""

    top: int  # 0 = believe the search
    seeds: int

    def __post_init__(self) -> None:
        check(self.top >= 0, "top", self.top, "0 (no confirmation) or more")
        check(self.seeds >= 1, "seeds", self.seeds, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is searched: `trials` in total, the first `random` of them unguided."""

    trials: int
    random: int
    seed: int
    pruner: Pruner
    confirm: Confirm

    def __post_init__(self) -> None:
        check(self.trials >= 1, "trials", self.trials, "1 or more")
        check(self.random >= 1, "random", self.random, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """How the published training part is divided: share of patients held out as dev, and a seed.

    With `folds`, a trial's score is the mean over that many patient folds; the final run uses
    the share.
    """

    dev: float
    seed: int
    folds: int

    def __post_init__(self) -> None:
        check(0 < self.dev < 0.9, "dev", self.dev, "between 0 and 0.9")
        check(self.folds == 0 or self.folds >= 2, "folds", self.folds, "0 (none) or 2 and more")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """One resolved study. Every task but abnormality needs an area of `WHOLE`."""

    recipe: Recipe
    search: Mapping[str, Axis]
    budget: Budget
    split: Holdout
    final: Mapping[str, Any] = field(default_factory=dict)  # recipe fields that finalize replaces
    task: str = "abnormality"

    def __post_init__(self) -> None:
        check_task(self.task, self.recipe, self.search, self.final)
        for path, axis in self.search.items():
            for value in axis.ends:
                changed(self.recipe, {path: value}, prefix="search.")
        changed(self.recipe, self.final, prefix="final.")
        self._check_combinations()
        for where, values in (("search", self.search), ("final", self.final)):
            check("size" not in values, f"{where}.size", "given",
                  "left out: all of a study sees pixels of one size, recipe.size")  # fmt: skip
        check("monitor" not in self.search, "search.monitor", "an axis",
              "left out: trials judged by different scores do not compare")  # fmt: skip

    def _check_combinations(self) -> None:
        """Refuse axes that could draw values which no recipe may have together, in the search or
        with the final phases in it: a trial, or worse the release, would fail by them."""
        axes = {path: axis.values for path, axis in self.search.items() if path in COUPLED}
        final = {path: value for path, value in self.final.items() if path in COUPLED}
        for values in itertools.product(*axes.values()):
            drawn = dict(zip(axes, values, strict=True))
            told = ", ".join(f"{path} {value}" for path, value in drawn.items())
            changed(self.recipe, drawn, prefix=f"search can draw {told}: ")
            changed(self.recipe, drawn | final, prefix=f"final, with {told} drawn: ")


SECTIONS = tuple(f.name for f in dataclasses.fields(StudyConfig))


def load(area: str, overrides: Sequence[str] = (), folder: Path | None = None) -> StudyConfig:
    """The study of an area: its file, or default.yaml where it has none, then each `path=value`.

    An area is one that the dataset names, or one of `WHOLE`.

    Raises:
        InputError: an unknown key, a value of another kind, or an illegal combination.
    """
    folder = folder or studies_folder()
    path = folder / f"{WHOLE.get(area, area)}.yaml"
    raw: dict[str, Any] = {}
    for layer in _layers(path if path.is_file() else folder / "default.yaml"):
        raw = _merge(raw, _read_yaml(layer))
        study = _study(raw, _shown(layer))
    for override in overrides:
        raw = _merge(raw, _override(override))
        study = _study(raw, f"--set {override}")
    if study.task != "abnormality" and area not in WHOLE:
        raise InputError(f"{_shown(path)}: task {study.task} needs every area of the dataset: "
                         f"the study of {ROUTER} or {MULTITASK}, not of {area}")  # fmt: skip
    return study


def to_dict(study: StudyConfig) -> dict[str, Any]:
    """The study as plain values, such that `from_dict` gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(study)))  # tuples as lists
    plain["search"] = {
        name: {k: v for k, v in axis.items() if v is not None and v is not False}
        for name, axis in plain["search"].items()
    }
    return plain


def from_dict(raw: Mapping[str, Any], source: str) -> StudyConfig:
    """The study that `to_dict` wrote; `source` says where it was stored."""
    return _study(dict(raw), source)


def _study(raw: dict[str, Any], source: str) -> StudyConfig:
    try:
        study: StudyConfig = build(StudyConfig, raw, "")
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return study


def _layers(path: Path) -> list[Path]:
    """`path` and the files it is based on, the deepest base first."""
    chain = [path]
    while base := _read_yaml(chain[0], keep_base=True).get("base"):
        base_path = path.parent / str(base)
        if not base_path.is_file():
            raise InputError(f"{_shown(chain[0])}: base is {base!r}, and {base_path} is no file")
        if base_path in chain:
            raise InputError(f"{_shown(chain[0])}: base {base!r} goes round in a circle")
        chain.insert(0, base_path)
    return chain


def _read_yaml(path: Path, keep_base: bool = False) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such study file") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{_shown(path)}: not valid YAML: {reason}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{_shown(path)}: a study file is a mapping, not {type(raw).__name__}")
    return raw if keep_base else {k: v for k, v in raw.items() if k != "base"}


def _override(text: str) -> dict[str, Any]:
    """`path=value` as the nested mapping that a study file would hold."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise InputError(f"--set {text}: write PATH=VALUE, such as --set finetune.lr=1.0e-3")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {text}: {value!r} is not a valid value") from None
    section, _, rest = path.partition(".")
    if section not in SECTIONS or not rest:
        section, rest = "recipe", path
    if section == "final":
        return {"final": {rest: parsed}}
    if section == "search":
        axis, _, name = rest.rpartition(".")
        known = {f.name for f in dataclasses.fields(Axis)}
        return {"search": {axis: {name: parsed}} if name in known else {rest: parsed}}
    for name in reversed(rest.split(".")):
        parsed = {name: parsed}
    return {section: parsed}


def _merge(base: Mapping[str, Any], change: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """`change` over `base`, mapping by mapping; in `search` a null takes an axis out."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(old, value, depth + 1)
        else:
            merged[key] = value
    if depth == 0 and isinstance(merged.get("search"), Mapping):
        merged["search"] = {k: v for k, v in merged["search"].items() if v is not None}
    return merged


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
