"""How a release came about, for its page and its card: search, data, recipe, commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mura_tune import config, recipe
from mura_tune.evaluation.runs import describe_runs
from mura_tune.lines import shell_command
from mura_tune.names import file_name_of
from mura_tune.release_format.entries import RunsEntry
from mura_tune.strict import flatten

Row = tuple[object, ...]


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What pages and cards say of how a release came about, beside what its manifest says itself.

    Attributes:
        trial_counts: how many trials of the search ended how.
        judged_on: studies that the score of the released trial was measured on; None where an
            earlier version did not store the number.
        verdict: whether the trial beats the default recipe, as a sentence; empty in an older
            release.
        seeds: what differed between final runs, as a sentence; empty where there was one run.
        seed_rows: each final run with its score on dev and on test.
        counted: what is counted in each split.
        count_rows: the splits with these counts.
        searched_rows: each field that was searched: its value, its range, and its default.
        other_rows: every other field of the recipe, and its value.
        commands: lines for a shell that make the release again.
        versions: of the programs that made it.
    """

    trial_counts: str
    judged_on: int | None
    verdict: str
    seeds: str
    seed_rows: list[Row]
    counted: list[str]
    count_rows: list[Row]
    searched_rows: list[Row]
    other_rows: list[Row]
    commands: str
    versions: str


def describe_provenance(manifest: Mapping[str, Any]) -> Provenance:
    """How the release with this manifest came about."""
    counts, settings = manifest["data"]["counts"], _search_settings(manifest)
    released = dataclasses.asdict(
        recipe.recipe_from_dict(manifest["recipe"], str(manifest["area"]))
    )
    values, defaults = flatten(released), flatten(settings["recipe"])
    counted = list(counts["train"])
    return Provenance(
        trial_counts=", ".join(
            f"{number} {state}" for state, number in manifest["study"]["trials"].items() if number
        ),
        judged_on=_count_judges(manifest),
        verdict=_as_sentence(manifest["study"].get("verdict", "")),
        seeds=describe_runs(RunsEntry.parse(manifest["seeds"]) if "seeds" in manifest else None),
        seed_rows=list(_seed_rows(manifest)),
        counted=counted,
        count_rows=[(split, *(own[name] for name in counted)) for split, own in counts.items()],
        searched_rows=[
            (path, values[path], _describe_axis(axis), defaults[path])
            for path, axis in settings["search"].items()
        ],
        other_rows=[
            (path, value) for path, value in values.items() if path not in settings["search"]
        ],
        commands=_write_commands(manifest, settings),
        versions=", ".join(f"{name} {number}" for name, number in manifest["versions"].items()),
    )


def data_set_name(manifest: Mapping[str, Any]) -> str:
    """What the data set of a release is called."""
    return manifest["data"].get("name") or "the data set"


def _count_judges(manifest: Mapping[str, Any]) -> int | None:
    """The studies that the score of the released trial was measured on: of all folds, or of dev.

    A release of an earlier version does not say it, and None stands for folds there.
    """
    study = manifest["study"]
    if "dev_studies" in study:
        return int(study["dev_studies"])
    folds = study["config"].get("split", {}).get("folds")
    return None if folds else int(manifest["metrics"]["dev"]["studies"])


def _as_sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}." if clause else ""


def _seed_rows(manifest: Mapping[str, Any]) -> Iterator[Row]:
    for run in manifest.get("seeds", {}).get("runs", ()):
        yield (
            f"seed {run['seed']}",
            run["dev_score"],
            run["test_score"],
            run["best_epoch"],
            "released" if run["released"] else "",
        )


def _search_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the search as this version stores them: with the fields that are younger
    than the release."""
    stored = manifest["study"]["config"]
    return config.config_to_dict(config.config_from_dict(stored, str(manifest["area"])))


def _describe_axis(axis: Mapping[str, Any]) -> str:
    """The values that a field was searched over, in words."""
    if "choices" in axis:
        return ", ".join(map(str, axis["choices"]))
    scale = ", log scale" if axis.get("log") else ""
    steps = f", in steps of {_short(axis['step'])}" if "step" in axis else ""
    high = "all stages" if axis["high"] == "all" else _short(axis["high"])
    return f"{_short(axis['low'])} to {high}{scale}{steps}"


def _short(value: object) -> str:
    """A fraction to four significant digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_commands(manifest: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """The commands that make the release again, a line each."""
    area, name = manifest["area"], manifest["study"]["name"]
    study_option = ["--study", name] if name != area else []
    overrides = "".join(
        f" \\\n  {shell_command('--set', one)}" for one in list_overrides(area, settings)
    )
    folder = f"releases/{file_name_of(name)}"
    trials = settings["budget"]["trials"]
    return "\n".join(
        [
            shell_command("mura", "tune", area, *study_option, "--trials", trials, "--data", "DATA")
            + overrides,
            shell_command("mura", "finalize", name, "--data", "DATA", *_seed_options(manifest)),
            shell_command("mura", "evaluate", "--release", folder, "--data", "DATA"),
            shell_command("mura", "verify", folder),
        ]
    )


def _seed_options(manifest: Mapping[str, Any]) -> list[str]:
    """The options of `mura finalize` that bring as many final runs."""
    runs = manifest.get("seeds", {}).get("runs", ())
    if not runs:
        return []
    ensemble = ["--ensemble"] if sum(run["released"] for run in runs) > 1 else []
    return ["--seeds", str(len(runs)), *ensemble]


def list_overrides(area: str, settings: Mapping[str, Any]) -> list[str]:
    """The `path=value` pairs with which `--set` turns the settings of an area's files into these.

    The number of trials is no part of them: it has an option of its own.
    """
    default, searched = (
        {path: value for path, value in flatten(tree).items() if path != "budget.trials"}
        for tree in (config.config_to_dict(config.load_config(area)), settings)
    )
    dropped_axes = _axis_paths(default) - _axis_paths(searched)
    return [f"{axis}=null" for axis in sorted(dropped_axes)] + [
        f"{path.removeprefix('recipe.')}={_to_yaml(value)}"
        for path, value in searched.items()
        if path not in default or default[path] != value
    ]


def _axis_paths(values: Mapping[str, Any]) -> set[str]:
    """The paths of the axes that are searched, of which `values` has each field by its path."""
    return {path.rpartition(".")[0] for path in values if path.startswith("search.")}


def _to_yaml(value: object) -> str:
    """A value as a study file writes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").rstrip()
