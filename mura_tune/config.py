"""The configuration of a search: recipe, axes, budget, split and final phases, read from YAML.

Every layer (default.yaml, an area's file, each `--set`) goes through the same strict
`build_dataclass`, so an error names the layer it came from, the key and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura_tune.areas import MULTITASK, ROUTER, WHOLE_DATASET_AREAS, WHOLE_DATASET_TASKS, check_task
from mura_tune.axes import ALL, Axis, Value, convert_axis, merge_axes
from mura_tune.errors import InputError
from mura_tune.recipe import COUPLED_FIELDS, LARGEST_COUNT, Recipe, field_type, with_values
from mura_tune.strict import (
    NOT_STORED,
    YAML_BYTES,
    build_dataclass,
    check_value,
    parse_yaml,
    show_value,
    stored_fields,
)
from mura_tune.text import check_name, printable

PRUNERS = ("median", "percentile", "hyperband", "none")
# Upper bounds, so that a budget with a digit too many is refused at once.
MOST_TRIALS = 100_000
MOST_CONFIRMED = MOST_FOLDS = 100
MOST_SEED = 2**32 - 1
REFIT = "refit"  # the one key of `final` that is no recipe field
AUTO = "auto"  # folds that a search decides on when it starts
# New values by path, or texts PATH=VALUE.
Overrides = Mapping[str, object] | Sequence[str]


def studies_folder() -> Path:
    """Where the search files lie: inside an installed wheel, or at the root of a checkout."""
    installed = Path(__file__).parent / "studies"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "studies"


def search_file(area: str, folder: Path | None = None) -> Path:
    """Where the search file of an area lies, if it has one; without one, default.yaml is read."""
    name = WHOLE_DATASET_AREAS.get(check_name(area, "AREA"), area)
    return (folder or studies_folder()) / f"{name}.yaml"


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """The rule by which a trial is pruned: see `mura_tune.search.worker.make_pruner`."""

    name: str  # the rule
    startup: int  # trials that finish before any is pruned
    min_trials: int  # trials that must have reached an epoch before it is compared there
    percentile: float  # what `percentile` keeps

    def __post_init__(self) -> None:
        check_value(self.name in PRUNERS, "name", self.name, f"one of {', '.join(PRUNERS)}")
        _check_count("startup", self.startup, 0, MOST_TRIALS)
        _check_count("min_trials", self.min_trials, 1, MOST_TRIALS)
        check_value(0 < self.percentile < 100, "percentile", self.percentile, "between 0 and 100")


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """How a winner is confirmed: the `top` trials and the baseline run again with `seeds` each.

    With `resplit`, new seed k trains and judges on the split of `split.seed` + k: on patients of
    whom most did not pick the trials. A search of an earlier version stores no `resplit`; its new
    seeds are judged on its own dev split.
    """

    top: int  # trials; 0 = believe the search
    seeds: int  # runs of each
    resplit: bool = False

    def __post_init__(self) -> None:
        _check_count("top", self.top, 0, MOST_CONFIRMED)
        _check_count("seeds", self.seeds, 1, MOST_CONFIRMED)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The size of a search: `trials` in all, of which the first `random` are drawn at random."""

    trials: int
    random: int
    seed: int
    pruner: Pruner
    confirm: Confirm

    def __post_init__(self) -> None:
        _check_count("trials", self.trials, 1, MOST_TRIALS)
        _check_count("random", self.random, 1, MOST_TRIALS)
        _check_count("seed", self.seed, -MOST_SEED, MOST_SEED)

    @property
    def runs(self) -> int:
        """The most runs of a recipe that search and confirmation take, pruned ones whole."""
        return self.trials + (self.confirm.top + 1) * self.confirm.seeds * (self.confirm.top > 0)


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """How the published train split is divided: the share of patients held out as dev, and a seed.

    With `folds`, a trial's score is the mean over that many patient folds; the final run uses
    the share. `auto` is a number from the start of a search on: see `search.comparable`.
    """

    dev: float
    seed: int
    folds: int | str

    def __post_init__(self) -> None:
        check_value(0 < self.dev < 0.9, "dev", self.dev, "between 0 and 0.9")
        folds, rule = self.folds, f"0 (none) or between 2 and {MOST_FOLDS}, or {AUTO}"
        number = folds if isinstance(folds, int) else 0 if folds == AUTO else -1
        check_value(number == 0 or 2 <= number <= MOST_FOLDS, "folds", folds, rule)
        _check_count("seed", self.seed, -MOST_SEED, MOST_SEED)

    @property
    def fold_count(self) -> int:
        """The number of patient folds; 0 = dev alone judges.

        Raises:
            ValueError: `auto`, which is decided when a search starts.
        """
        if isinstance(self.folds, str):
            raise ValueError(f"split.folds is {self.folds}: no search has decided on it")
        return self.folds


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The settings of one search. Every task but abnormality needs all areas of a dataset.

    The values of an axis have the type of its recipe field, whatever type the file has.
    """

    recipe: Recipe
    search: Mapping[str, Axis]
    budget: Budget
    split: Holdout
    # Recipe fields that finalize replaces; and `refit`, see `release.finalize.refits`.
    final: Mapping[str, Value] = field(default_factory=dict)
    task: str = "abnormality"
    # What `load_config` was called with; neither is stored nor compared.
    area: str = field(default="", compare=False, metadata=NOT_STORED)
    overrides: tuple[str, ...] = field(default=(), compare=False, metadata=NOT_STORED)

    def __post_init__(self) -> None:
        check_task(self.task, self.recipe, self.search, self.final)
        typed = {path: convert_axis(path, axis) for path, axis in self.search.items()}
        object.__setattr__(self, "search", typed)
        for path, axis in self.search.items():
            for value in axis.ends:
                with_values(self.recipe, {path: value}, prefix="search.")
        with_values(self.recipe, self.final_values, prefix="final.")
        refit = self.final.get(REFIT, False)
        check_value(isinstance(refit, bool), f"final.{REFIT}", refit, "true or false")
        self._check_combinations()
        for where, values in (("search", self.search), ("final", self.final)):
            check_value(
                "size" not in values,
                f"{where}.size",
                "given",
                "left out: all of a search sees pixels of one size, recipe.size",
            )
        for name in ("monitor", "study_score"):
            check_value(
                name not in self.search,
                f"search.{name}",
                "an axis",
                "left out: trials judged by different scores do not compare",
            )

    @property
    def final_values(self) -> dict[str, Value]:
        """The recipe fields that finalize replaces, by path."""
        return {path: value for path, value in self.final.items() if path != REFIT}

    @property
    def refit(self) -> bool:
        """Whether a release is trained on train and dev where patient folds judge."""
        return self.final.get(REFIT) is True

    def _check_combinations(self) -> None:
        """Refuse axes that could draw values which no recipe may have together, in the search or
        with the final phases in it: a trial, or worse the release, would fail by them."""
        axes = {
            path: _worst(path, self.search[path]) for path in COUPLED_FIELDS if path in self.search
        }
        final = {path: value for path, value in self.final.items() if path in COUPLED_FIELDS}
        for values in itertools.product(*axes.values()):
            drawn = dict(zip(axes, values, strict=True))
            shown = ", ".join(f"{path} {value}" for path, value in drawn.items())
            with_values(self.recipe, drawn, prefix=f"search can draw {shown}: ")
            with_values(self.recipe, drawn | final, prefix=f"final, with {shown} drawn: ")


def _check_count(key: str, value: int, least: int, most: int) -> None:
    check_value(least <= value <= most, key, value, f"between {least} and {most}")


def _worst(path: str, axis: Axis) -> Iterable[Any]:
    """Return the values of a coupled axis that decide whether all of its values are legal.

    Of the numbers it is the largest (consistency and a depth of the head phase ask for steps, a
    plateau_patience has to be below patience), but for patience, whose least above 0 it is.
    """
    values: Any = axis.values
    if axis.high == ALL:
        return [LARGEST_COUNT]
    ascending = values if isinstance(values, range) else sorted(values)
    if path == "patience":
        return [next((value for value in ascending if value > 0), 0)]
    if isinstance(ascending[-1], str):
        return dict.fromkeys(ascending)
    return [ascending[-1]]


SECTIONS = tuple(f.name for f in stored_fields(SearchConfig))


def load_config(area: str, overrides: Overrides = (), folder: Path | None = None) -> SearchConfig:
    """Load the configuration of an area: its file or default.yaml, then `overrides`.

    Args:
        area: an area that the dataset names, such as XR_WRIST, or one of `WHOLE_DATASET_AREAS`.
        overrides: new values by their path, such as `{"arch": "resnet18", "finetune.lr": 3e-4}`;
            or as `--set` takes them, such as `["arch=resnet18", "finetune.lr=3.0e-4"]`. A path
            outside of the recipe begins with its section: `budget.trials`, `search.augment`.
        folder: where the files are; None stands for the files of this package.

    Returns:
        All values of the search, checked: the file's, with `overrides` over them.

    Raises:
        InputError: an unknown key, a value of another type, or an illegal combination.
    """
    folder = folder or studies_folder()
    path = search_file(area, folder)
    raw: dict[str, Any] = {}
    for layer, content in _layers(path if path.is_file() else folder / "default.yaml"):
        raw = _over(raw, content, _shown(layer))
        config = _build_config(raw, _shown(layer))
    texts = _override_texts(overrides)
    for override in texts:
        source = f"--set {printable(override)}"
        raw = _over(raw, _override(override, source), source)
        config = _build_config(raw, source)
    if config.task in WHOLE_DATASET_TASKS and area not in WHOLE_DATASET_AREAS:
        raise InputError(
            f"{_shown(path)}: task {config.task} needs every area of the dataset: "
            f"the search of {ROUTER} or {MULTITASK}, not of {area}"
        )
    return dataclasses.replace(config, area=area, overrides=texts)


def replace_trials(config: SearchConfig, trials: int) -> SearchConfig:
    """Return the same configuration with a budget of `trials` in total.

    Raises:
        InputError: a number out of range.
    """
    try:
        budget = dataclasses.replace(config.budget, trials=trials)
    except ValueError as error:
        raise InputError(f"--set budget.trials={trials}: budget.{error}") from None
    named = f"budget.trials={trials}"
    return dataclasses.replace(config, budget=budget, overrides=(*config.overrides, named))


def with_budget(config: SearchConfig, budget: Mapping[str, Any], source: str) -> SearchConfig:
    """Return the configuration with another budget, under what its own overrides say of it.

    Args:
        budget: as `config_to_dict` has it; keys of later versions may be missing.
    """
    raw = config_to_dict(config) | {"budget": budget}
    for override in config.overrides:
        if override.startswith("budget."):
            raw = _over(raw, _override(override, source), source)
    built = _build_config(raw, source)
    return dataclasses.replace(built, area=config.area, overrides=config.overrides)


def config_to_dict(config: SearchConfig) -> dict[str, Any]:
    """Return a configuration as plain values, which `config_from_dict` reads back."""
    values = dataclasses.asdict(config)
    plain: dict[str, Any] = json.loads(json.dumps({name: values[name] for name in SECTIONS}))
    plain["search"] = {
        name: {k: v for k, v in axis.items() if v is not None and v is not False}
        for name, axis in plain["search"].items()
    }
    return plain


def config_from_dict(raw: Mapping[str, Any], source: str) -> SearchConfig:
    """Build the configuration that `config_to_dict` wrote; errors begin with `source`."""
    return _build_config(raw, source)


def _build_config(raw: Any, source: str) -> SearchConfig:
    try:
        config: SearchConfig = build_dataclass(SearchConfig, raw, "")
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
    return config


def _layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return `path` and its base files, each with its content, the deepest base first."""
    folder, chain = path.parent, [(path, _read(path))]
    while (base := chain[0][1].pop("base", None)) is not None:
        named = chain[0][0]
        if not isinstance(base, str):
            raise InputError(
                f"{_shown(named)}: base is {show_value(base)}; it must be a file's name"
            )
        if not _is_file(folder / base):
            raise InputError(
                f"{_shown(named)}: base is {show_value(base)}, and {folder} has no such file"
            )
        if any((folder / base).samefile(path) for path, _ in chain):
            raise InputError(f"{_shown(named)}: base {base!r} goes round in a circle")
        chain.insert(0, (folder / base, _read(folder / base)))
    return chain


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one with a null byte
        return False


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a search file, with its `base`."""
    try:
        with path.open("rb") as file:
            text = file.read(YAML_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such search file") from None
    raw = parse_yaml(text, _shown(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InputError(f"{_shown(path)}: a search file is a mapping, not {show_value(raw)}")
    return raw


def _override_texts(overrides: Overrides) -> tuple[str, ...]:
    """Return each override as `path=value`."""
    if isinstance(overrides, str):
        raise InputError(f"--set {printable(overrides)}: write a list of PATH=VALUE, or a mapping")
    if isinstance(overrides, Mapping):
        return tuple(f"{path}={value_to_yaml(value)}" for path, value in overrides.items())
    return tuple(overrides)


def value_to_yaml(value: object) -> str:
    """Return a value as a search file writes it, on one line."""
    import yaml  # what only prints help does without it

    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    except yaml.YAMLError:
        raise InputError(f"{show_value(value)}: no value of a search config") from None
    return text.removesuffix("\n").removesuffix("...").rstrip()


def _override(text: str, source: str) -> dict[str, Any]:
    """Return `path=value` as the nested mapping that a search file would hold."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise InputError(f"{source}: write PATH=VALUE, such as --set finetune.lr=1.0e-3")
    parsed = parse_yaml(value, source)
    section, _, rest = path.partition(".")
    if section not in SECTIONS or not rest:
        section, rest = "recipe", path
    if section == "final":
        return {"final": {rest: parsed}}
    if section == "search":
        axis, _, name = rest.rpartition(".")
        known = {f.name for f in dataclasses.fields(Axis)}
        return {"search": {axis: {name: parsed}} if axis and name in known else {rest: parsed}}
    for name in reversed(rest.split(".")):
        parsed = {name: parsed}
    return {section: parsed}


def _over(base: Mapping[str, Any], layer: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Merge a layer over the layers below, mapping by mapping; a null in `search` removes an axis.

    Raises:
        InputError: a null for an unknown recipe field.
    """
    merged = _merged(base, {key: value for key, value in layer.items() if key != "search"})
    if "search" not in layer:
        return merged
    above = layer["search"]
    if not isinstance(above, Mapping):
        return merged | {"search": above}  # for `build_dataclass` to refuse
    axes = dict(base.get("search", {}))
    for path, value in above.items():
        if value is not None:
            axes[path] = merge_axes(axes.get(path), value)
            continue
        axes.pop(path, None)
        try:
            field_type(path)
        except ValueError as error:
            raise InputError(f"{source}: search.{error}") from None
    return merged | {"search": axes}


def _merged(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in layer.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value)
        merged[key] = value
    return merged


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
