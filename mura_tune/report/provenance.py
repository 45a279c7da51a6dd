"""How a release came about, as sections of its page: search, data, recipe, how to make it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from mura_tune import config, recipe
from mura_tune.evaluation.runs import describe
from mura_tune.lines import shell_command
from mura_tune.metrics.estimates import interval_text
from mura_tune.names import file_name_of
from mura_tune.report import charts
from mura_tune.report.page import cell, plain, table

Manifest = Mapping[str, Any]


def sections_of(manifest: Manifest) -> list[tuple[str, str]]:
    """Headings and what stands under them, as HTML, but for the search."""
    return [
        ("Data", _data(manifest)),
        ("Recipe", _recipe(manifest)),
        ("How to reproduce it", _reproduce(manifest)),
    ]


def training_section(manifest: Manifest) -> str:
    """What was searched, and how the final training went."""
    study, training = manifest["study"], manifest["training"]
    epochs, monitor = training["epochs"], study["monitor"]
    counts = ", ".join(f"{n} {word}" for word, n in study["trials"].items() if n)
    n = f", n = {studies}" if (studies := _judged_on(manifest)) else ""
    baseline = study["baseline_dev_score"]
    against = f"; the default recipe had {baseline:.3f}" if baseline is not None else ""
    found = f"<div>{charts.search_chart(study)}</div>" if study["history"] else ""
    return (
        f"<p>Study <code class='path'>{plain(study['name'])}</code>: {plain(counts)}. "
        f"Trial {study['trial']} was released, with a dev {plain(monitor)} of "
        f"{study['dev_score']:.3f} {interval_text(*study['dev_interval'])}{n}{against}. "
        f"{plain(_verdict(study))}Then it was trained at length; epoch {training['best_epoch']} of "
        f"{len(epochs)} was kept.</p>{_seeds(manifest)}"
        f'<div class="charts">{found}'
        f"<div>{charts.score_curve(epochs, training['best_epoch'], monitor)}</div>"
        f"<div>{charts.loss_curve(epochs)}</div></div>"
    )


def _judged_on(manifest: Manifest) -> int | None:
    """The studies that the score of the released trial was measured on: of all folds, or of dev.

    A release of an earlier version does not say it, and None stands for folds there.
    """
    study = manifest["study"]
    if "dev_studies" in study:
        return int(study["dev_studies"])
    folds = study["config"].get("split", {}).get("folds")
    return None if folds else int(manifest["metrics"]["dev"]["studies"])


def set_name(manifest: Manifest) -> str:
    """What the data set is called, as HTML."""
    return plain(manifest["data"].get("name") or "the data set")


def _seeds(manifest: Manifest) -> str:
    """What differed between runs that differ by their seed; nothing where there was one."""
    if "seeds" not in manifest:
        return ""
    measure = plain(manifest["seeds"]["measure"])
    head = ("", f"dev {measure}, by study", f"test {measure}, by study", "epoch kept", "")
    rows = [
        [
            f"seed {one['seed']}",
            cell(one["dev_score"]),
            cell(one["test_score"]),
            str(one["best_epoch"]),
            "released" if one["released"] else "",
        ]
        for one in manifest["seeds"]["runs"]
    ]
    curves = "The curves below are the first released one's."
    return f"<p>{plain(describe(manifest))} {curves}</p>{table(head, rows, wide=True)}"


def _verdict(study: Mapping[str, Any]) -> str:
    """Whether it beats the default recipe, as a sentence; nothing in an older release."""
    told = study.get("verdict", "")
    return f"{told[0].upper()}{told[1:]}. " if told else ""


def _data(manifest: Manifest) -> str:
    """What it was made with, and what was left out."""
    counts, left_out = manifest["data"]["counts"], manifest["data"]["left_out"]
    names = list(counts["train"])
    told = table(
        ("part", *map(plain, names)),
        [[plain(part), *(str(counts[part][n]) for n in names)] for part in counts],
    )
    rows = [
        [
            f"<span class='path'>{plain(f['path'])}</span><br>"
            f"<small class='path'>{plain(f['kind'])}: {plain(f['detail'])}</small>"
        ]
        for f in left_out
    ]
    images = "1 image was" if len(rows) == 1 else f"{len(rows)} images were"
    gone = (
        f"<details><summary>{images} left out: by name, and why</summary>"
        f"{table(('image, and why',), rows)}</details>"
        if rows
        else "<p>No image was left out.</p>"
    )
    return (
        f"{told}<p>Data set: {set_name(manifest)}. A patient is in one part only, over all "
        f"areas; test was published as <code>valid</code>.</p>{gone}"
    )


def _recipe(manifest: Manifest) -> str:
    """What was searched, from which range and default to which value, and every other field."""
    study, source = _study(manifest), str(manifest["area"])
    released = dataclasses.asdict(recipe.recipe_from_dict(manifest["recipe"], source))
    value, start = dict(_leaves(released)), dict(_leaves(study["recipe"]))
    searched = [
        [f"<code>{plain(path)}</code>", plain(value[path]), _range(axis), plain(start[path])]
        for path, axis in study["search"].items()
    ]
    rest = [
        [f"<code>{plain(path)}</code>", plain(value[path])]
        for path in value
        if path not in study["search"]
    ]
    return (
        table(("searched", "released", "range", "default (trial 0)"), searched)
        + f"<details><summary>The other {len(rest)} fields</summary>"
        + table(("field", "value"), rest)
        + "</details>"
    )


def _study(manifest: Manifest) -> dict[str, Any]:
    """The study as this version stores it: with the fields that came after the release."""
    stored = manifest["study"]["config"]
    return config.config_to_dict(config.config_from_dict(stored, str(manifest["area"])))


def _range(axis: Mapping[str, Any]) -> str:
    if "choices" in axis:
        return plain(", ".join(map(str, axis["choices"])))
    how = ", log scale" if axis.get("log") else ""
    how += f", in steps of {plain(axis['step'])}" if "step" in axis else ""
    high = "all stages" if axis["high"] == "all" else axis["high"]
    return f"{plain(axis['low'])} to {plain(high)}{how}"


def _reproduce(manifest: Manifest) -> str:
    """The commands that make it again."""
    study, area, data = _study(manifest), manifest["area"], manifest["data"]
    name, trials = manifest["study"]["name"], study["budget"]["trials"]
    named = ["--study", name] if name != area else []
    sets = "".join(f" \\\n  {shell_command('--set', one)}" for one in overrides(area, study))
    pairs = ", ".join(f"{key} {value}" for key, value in manifest["versions"].items())
    folder = f"releases/{file_name_of(name)}"
    commands = "\n".join(
        [
            shell_command("mura", "tune", area, *named, "--trials", trials, "--data", "DATA")
            + sets,
            shell_command("mura", "finalize", name, "--data", "DATA") + _runs(manifest),
            shell_command("mura", "evaluate", "--release", folder, "--data", "DATA"),
            shell_command("mura", "verify", folder),
        ]
    )
    return (
        f"<pre>{plain(commands)}</pre><p>With the same data: fingerprint <code>"
        f"{plain(data['fingerprint'][:16])}</code>, split <code>{plain(data['split_hash'][:16])}"
        "</code>. One worker, on a CPU with the same number of threads, makes the same weights, "
        f"bit for bit. Made with {plain(pairs)}. <code>bundle.json</code> holds the whole study."
        "</p>"
    )


def _runs(manifest: Manifest) -> str:
    if "seeds" not in manifest:
        return ""
    runs = manifest["seeds"]["runs"]
    mean = " --ensemble" if sum(one["released"] for one in runs) > 1 else ""
    return f" --seeds {len(runs)}{mean}"


def overrides(area: str, study: Mapping[str, Any]) -> list[str]:
    """What `--set` has to say so that the files of an area give `study`, as `path=value`; its
    number of trials apart."""
    usual, wanted = (
        {path: value for path, value in _leaves(one) if path != "budget.trials"}
        for one in (config.config_to_dict(config.load_config(area)), study)
    )
    gone = {".".join(path.split(".")[:-1]) for path in usual if path.startswith("search.")}
    gone -= {".".join(path.split(".")[:-1]) for path in wanted if path.startswith("search.")}
    found = [f"{axis}=null" for axis in sorted(gone)]
    for path, value in wanted.items():
        if path not in usual or usual[path] != value:
            found.append(f"{path.removeprefix('recipe.')}={_yaml(value)}")
    return found


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping by its dotted path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _yaml(value: object) -> str:
    """A value as a study file writes it, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").rstrip()
