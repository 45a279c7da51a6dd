"""How a release came about, for its page and its card: search, data, recipe, commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mura_tune.axes import ALL, Axis
from mura_tune.config import SearchConfig, config_to_dict, load_config, value_to_yaml
from mura_tune.metrics.estimates import range_text
from mura_tune.release_format.entries import DataEntry, RunEntry, RunsEntry
from mura_tune.release_format.manifest import Manifest
from mura_tune.release_format.metrics_entries import EvaluationEntry
from mura_tune.report.page import TableRow
from mura_tune.strict import flatten
from mura_tune.text import file_name_of, shell_command

_TRIALS = "budget.trials"


@dataclass(frozen=True)
class Provenance:
    """What pages and cards say of how a release came about, beside what its manifest says itself.

    Attributes:
        trial_counts: how many trials of the search ended how.
        judged_on: studies that the score of the released trial was measured on; None where an
            earlier version did not store the number.
        verdict: whether the trial beats the default recipe, as a sentence; empty in an older
            release.
        refit: what dev is where the release was trained on train and dev, in sentences; empty
            where it was trained on train alone.
        seeds: what differed between final runs, as a sentence; empty where there was one run.
        seed_rows: each final run with its score on dev and on test.
        counted: what is counted in each split.
        count_rows: the splits with these counts.
        flow_rows: from what the dataset has, over what was left out, to what is used: images,
            studies and patients; empty in an older release.
        searched_rows: each field that was searched: its value, its range, and its default.
        other_rows: every other field of the recipe, and its value.
        commands: lines for a shell that make the release again.
        versions: of the programs that made it.
    """

    trial_counts: str
    judged_on: int | None
    verdict: str
    refit: str
    seeds: str
    seed_rows: list[TableRow]
    counted: list[str]
    count_rows: list[TableRow]
    flow_rows: list[TableRow]
    searched_rows: list[TableRow]
    other_rows: list[TableRow]
    commands: str
    versions: str


def describe_provenance(manifest: Manifest) -> Provenance:
    """How the release with this manifest came about."""
    search, data = manifest.search, manifest.data
    settings = search.read_config(manifest.area)
    values = flatten(asdict(manifest.read_recipe(manifest.area)))
    defaults = flatten(asdict(settings.recipe))
    counted = list(data.counts["train"])
    return Provenance(
        trial_counts=", ".join(
            f"{number} {state}" for state, number in search.trial_counts.items() if number
        ),
        judged_on=_count_judges(manifest, settings),
        verdict=_as_sentence(search.verdict or ""),
        refit=_describe_refit(manifest),
        seeds=describe_runs(manifest.runs),
        seed_rows=[
            (
                f"seed {run.seed}",
                run.dev_score,
                run.test_score,
                run.best_epoch,
                "released" if run.released else "",
            )
            for run in _final_runs(manifest)
        ],
        counted=counted,
        count_rows=[
            (split, *(counts[name] for name in counted)) for split, counts in data.counts.items()
        ],
        flow_rows=list(_flow_rows(data)),
        searched_rows=[
            (path, values[path], _describe_axis(axis), defaults[path])
            for path, axis in settings.search.items()
        ],
        other_rows=[(path, value) for path, value in values.items() if path not in settings.search],
        commands=_write_commands(manifest, settings),
        versions=", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
    )


def _flow_rows(data: DataEntry) -> Iterator[TableRow]:
    """The rows of a flow of patients, as TRIPOD+AI asks for it."""
    if not data.found:
        return
    columns = ("images", "studies", "patients")
    yield "in the dataset", *(data.found.get(name, "") for name in columns)
    for kind, images in Counter(finding.kind for finding in data.left_out).items():
        yield f"left out: {kind}", images, "", ""
    used = {name: sum(split[name] for split in data.counts.values()) for name in columns}
    yield "used", *used.values()


def name_dataset(manifest: Manifest) -> str:
    """What the dataset of a release is called."""
    return manifest.data.name or "the dataset"


def name_test(test: EvaluationEntry, dataset: str) -> str:
    """What the test split of a dataset is, for people."""
    if test.is_held_out:
        return (
            f"a fifth of the patients of {dataset}, which publishes no test split, drawn by their "
            "names whatever the seed"
        )
    return f"the published valid split of {dataset}"


def _count_judges(manifest: Manifest, settings: SearchConfig) -> int | None:
    """The studies that the score of the released trial was measured on: of all folds, or of dev.

    A release of an earlier version does not say it, and None stands for folds there.
    """
    if manifest.search.dev_studies is not None:
        return manifest.search.dev_studies
    return None if settings.split.fold_count else manifest.metrics.dev.studies


def _describe_refit(manifest: Manifest) -> str:
    """What dev is, and who gave the number of epochs, where no patient was held out to the end."""
    if (folds := manifest.refit_folds) is None:
        return ""
    return (
        f"Dev is every patient of train and dev: each was answered for by that one of {folds} "
        "networks, trained by the released recipe, that had not seen the patient. They gave "
        f"calibration, thresholds and the number of epochs, {manifest.training.best_epoch}; then "
        "the released network was trained on all of these patients."
    )


def _as_sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}." if clause else ""


def describe_runs(runs: RunsEntry | None) -> str:
    """The runs behind a release in a sentence; nothing where there was one."""
    if runs is None:
        return ""
    seeds = [run.seed for run in runs.runs if run.released]
    which = f"the mean of all {len(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}, best on dev"
    spreads = ", ".join(
        f"{split} {runs.measure} {range_text(spread.low, spread.high)} "
        f"(mean {spread.mean:.3f}, SD {spread.sd:.3f})"
        for split, spread in (("dev", runs.dev_score), ("test", runs.test_score))
    )
    return f"Trained with {len(runs.runs)} seeds: {spreads}. Released: {which}."


def _final_runs(manifest: Manifest) -> Sequence[RunEntry]:
    """The final runs that differ in their seed; empty where there was one run."""
    return manifest.runs.runs if manifest.runs else ()


def _describe_axis(axis: Axis) -> str:
    """The values that a field was searched over, in words."""
    if axis.choices is not None:
        return ", ".join(map(str, axis.choices))
    scale = ", log scale" if axis.log else ""
    steps = f", in steps of {_short(axis.step)}" if axis.step is not None else ""
    high = "all stages" if axis.high == ALL else _short(axis.high)
    return f"{_short(axis.low)} to {high}{scale}{steps}"


def _short(value: object) -> str:
    """A fraction to four significant digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _write_commands(manifest: Manifest, settings: SearchConfig) -> str:
    """The commands that make the release again, a line each."""
    area, name = manifest.area, manifest.search.name
    search_option = ["--search", name] if name != area else []
    trials = settings.budget.trials
    overrides = "".join(
        f" \\\n  {shell_command('--set', override)}" for override in list_overrides(area, settings)
    )
    runs = _final_runs(manifest)
    seed_options = ["--seeds", len(runs)] if runs else []
    ensemble = ["--ensemble"] if sum(run.released for run in runs) > 1 else []
    folder = f"releases/{file_name_of(name)}"
    return "\n".join(
        [
            shell_command(
                "mura", "tune", area, *search_option, "--trials", trials, "--data", "DATA"
            )
            + overrides,
            shell_command("mura", "finalize", name, "--data", "DATA", *seed_options, *ensemble),
            shell_command("mura", "evaluate", "--release", folder, "--data", "DATA"),
            shell_command("mura", "verify", folder),
        ]
    )


def list_overrides(area: str, settings: SearchConfig) -> list[str]:
    """The `path=value` pairs with which `--set` turns the settings of an area's files into these.

    The number of trials is no part of them: it has an option of its own.
    """
    default, searched = (
        {path: value for path, value in flatten(config_to_dict(config)).items() if path != _TRIALS}
        for config in (load_config(area), settings)
    )
    dropped_axes = _axis_paths(default) - _axis_paths(searched)
    return [f"{axis}=null" for axis in sorted(dropped_axes)] + [
        f"{path.removeprefix('recipe.')}={value_to_yaml(value)}"
        for path, value in searched.items()
        if path not in default or default[path] != value
    ]


def _axis_paths(values: Mapping[str, Any]) -> set[str]:
    """The paths of the axes that are searched, of which `values` has each field by its path."""
    return {path.rpartition(".")[0] for path in values if path.startswith("search.")}
