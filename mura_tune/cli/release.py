"""Verbs about a release: make it, measure it, verify it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mura_tune import console
from mura_tune.cli.options import (
    best_of,
    data_option,
    device_of,
    device_option,
    json_option,
    prepared_of,
    releases_option,
    runs_option,
    storage_option,
    strict_option,
    url_of,
)

if TYPE_CHECKING:
    from mura_tune.data.prepare import Prepared
    from mura_tune.release.bundle import Bundle
    from mura_tune.release.chain import Routes


@click.command(short_help="Train the best recipe at length and write its release.")
@click.argument("area", required=False)
@data_option
@runs_option
@releases_option
@storage_option
@device_option
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="Train so many; release the best on dev, and tell their spread.")  # fmt: skip
@click.option("--ensemble", is_flag=True, help="Release the mean of all seeds instead.")
@strict_option
@json_option
def finalize(
    area: str | None, data: Path, runs: Path, releases: Path, storage: str | None, device: str,
    seeds: int, ensemble: bool, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Train the best recipe of a study at length and write its release.

    Killed, the same line goes on from the last whole epoch (RUNS/finals holds it until then).
    Another finalize of the same release is refused meanwhile. AREA is a study's name; left out,
    every study with a finished trial gets its release, and one that cannot does not keep the others
    from theirs.
    """
    from mura_tune.errors import InputError, MuraError
    from mura_tune.release import index
    from mura_tune.release.checkpoint import Checkpoints, alone
    from mura_tune.release.finalize import final_recipe, summary
    from mura_tune.release.finalize import finalize as release
    from mura_tune.release.seeds import everyone, strongest
    from mura_tune.tuning.results import finished_studies
    from mura_tune.tuning.watch import Epochs

    if ensemble and seeds == 1:
        raise click.UsageError("--ensemble averages several networks: add --seeds 3")
    url, made, held, failed = url_of(storage, runs), [], [], []
    with contextlib.ExitStack() as locks:
        for name in [area] if area else finished_studies(url):
            try:
                found = best_of(name, url)
                locks.enter_context(alone(releases / name, runs / "finals" / name))
                prepared = prepared_of(found.area, found.config, data, runs, strict)
                kept = Checkpoints(runs / "finals" / name, prepared, console.note)
                total = final_recipe(found).epochs * seeds
                with Epochs(f"finalize {name}", total, found.monitor) as epochs:
                    made.append(release(
                        found, prepared, releases / name, device_of(device), seeds=seeds,
                        released=everyone if ensemble else strongest, on_epoch=epochs.epoch,
                        memory=kept.of, dataset=data.resolve().stem,
                    ))  # fmt: skip
                held.append(kept)
            except MuraError as error:
                if area:
                    raise
                console.note(f"{name}: {error}")
                failed.append(name)
        for kept in held:  # not before: after a kill, what is done needs no training again
            kept.clear()
    index.write(releases)
    console.report(
        as_json,
        lambda: [one.manifest | {"folder": str(one.folder)} for one in made],
        lambda: "\n\n".join(one.describe() for one in made) + summary(made),
    )
    if failed:
        raise InputError(f"no release for {', '.join(failed)}; the reasons stand above")


@click.command(short_help="Measure a release on studies that no search has read.")
@click.option("--release", type=click.Path(path_type=Path), help="Its folder.")
@click.option("--routed", is_flag=True,
              help="Measure the router and every area's release as one.")  # fmt: skip
@data_option
@runs_option
@releases_option
@device_option
@strict_option
@click.option(
    "--layout", type=click.Choice(["mura", "folders"]), default="mura", show_default=True,
    help="folders: an external set, {train,val,test}/{fractured,not fractured}.",
)  # fmt: skip
@json_option
def evaluate(
    release: Path | None, routed: bool, data: Path, runs: Path, releases: Path, device: str,
    strict: bool, layout: str, as_json: bool,
) -> None:  # fmt: skip
    """Measure a release on the published `valid` studies, which no search has read.

    --routed measures what `infer --area auto` does: the AUC over all areas where each study is
    answered by the release of its area, and of the area that the router names, and the difference.

    An external set (--layout folders) is measured whole, by picture with its copies, turned and
    mirrored ones too, and by image; pictures that the release was trained on are told.
    """
    from mura_tune.release.kinds import kind_of

    if routed == bool(release):
        raise click.UsageError("name one --release, or write --routed")
    if release is not None and layout == "folders":
        from mura_tune.release import bundle, external

        outside = external.measure(
            bundle.load(release, device_of(device)), data, runs / "cache", strict=strict
        )
        console.report(as_json, outside.to_json, outside.describe)
        return
    if release is None:
        found = _routes(data, runs, releases, device, strict)
        console.report(as_json, found.to_json, found.describe)
        return
    loaded, prepared = _with_data(release, data, runs, device, strict)
    area, kind = loaded.manifest["area"], kind_of(loaded.manifest)
    measured = kind.measure(loaded.net, prepared, "test", kind.stored(loaded.manifest))
    console.report(as_json, lambda: {"area": area, **measured.to_json()}, measured.describe)


@click.command(short_help="Say by how much one release beats another, and how surely.")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@data_option
@runs_option
@device_option
@strict_option
@json_option
def compare(
    first: Path, second: Path, data: Path, runs: Path, device: str, strict: bool, as_json: bool
) -> None:
    """Say by how much the release FIRST beats SECOND on the same test studies, and how surely."""
    from mura_tune.errors import InputError
    from mura_tune.learning.tasks import PART
    from mura_tune.release.calibrate import Chosen
    from mura_tune.release.compare import compare as difference
    from mura_tune.release.evaluate import measure

    areas, measured = [], []
    for folder in (first, second):
        loaded, prepared = _with_data(folder, data, runs, device, strict)
        areas.append(loaded.manifest["area"])
        if areas[0] != areas[-1]:
            raise InputError(f"{first} is for {areas[0]} and {second} for {areas[1]}; "
                             "name two releases of one area")  # fmt: skip
        if loaded.manifest.get("task") == PART.name:
            raise InputError(f"{folder}: a router; compare is for what tells normal from abnormal")
        measured.append(measure(loaded.net, prepared, "test", Chosen.from_json(loaded.manifest)))
    found = difference(areas[0], (first, second), measured[0], measured[1])
    console.report(as_json, found.to_json, found.describe)


@click.command(short_help="Write a release's report.html again.")
@click.option("--release", required=True, type=click.Path(path_type=Path), help="Its folder.")
@data_option
@runs_option
@device_option
@strict_option
@click.option("--cases", type=click.IntRange(0, 24), default=6, show_default=True,
              help="Studies shown of each kind of error; 0: no radiographs.")  # fmt: skip
@json_option
def report(
    release: Path, data: Path, runs: Path, device: str, strict: bool, cases: int, as_json: bool
) -> None:
    """Write a release's report.html again, and index.html and RESULTS.md beside the releases.

    `finalize` writes them too. The page shows radiographs of the test part: whether it may be
    passed on is for the dataset's licence to say.
    """
    from mura_tune.release import bundle, index
    from mura_tune.release.kinds import kind_of

    loaded, prepared = _with_data(release, data, runs, device, strict)
    page = kind_of(loaded.manifest).report
    html = page(loaded.net, loaded.manifest, prepared, cases=cases)
    bundle.add(release, {bundle.REPORT: html})
    index.write(release.parent)
    plain = {"report": str(release / bundle.REPORT), "bytes": len(html.encode())}
    console.report(as_json, lambda: plain, lambda: str(release / bundle.REPORT))


def _routes(data: Path, runs: Path, releases: Path, device: str, strict: bool) -> Routes:
    from dataclasses import replace

    from mura_tune import config
    from mura_tune.areas import ROUTER
    from mura_tune.learning.batches import Split, split_of
    from mura_tune.release.chain import release_for, routes

    router, _ = _with_data(releases / ROUTER, data, runs, device, strict)
    study = config.from_dict(router.manifest["study"]["config"], str(releases / ROUTER))
    places = {area: release_for(releases, area) for area in router.manifest["areas"]}
    opened = {
        folder: _with_data(folder, data, runs, device, strict)[0]
        for folder in dict.fromkeys(folder for folder, _ in places.values())
    }
    splits: dict[int, Split] = {}

    def split_at(size: int) -> Split:
        if size not in splits:
            own = replace(study, recipe=replace(study.recipe, size=size))
            prepared = prepared_of(ROUTER, own, data, runs, strict)
            splits[size] = split_of(prepared, "test", device_of(device))
        return splits[size]

    told = tuple(line for _, line in places.values() if line)
    return routes(router, {a: opened[f] for a, (f, _) in places.items()}, told, split_at)


def _with_data(
    release: Path, data: Path, runs: Path, device: str, strict: bool
) -> tuple[Bundle, Prepared]:
    """A release and the data it was made with, prepared at its size and divided its way."""
    from mura_tune import config
    from mura_tune.release import bundle
    from mura_tune.release.evaluate import same_data

    loaded = bundle.load(release, device_of(device))
    manifest = loaded.manifest
    study = config.from_dict(manifest["study"]["config"], str(release / bundle.MANIFEST))
    prepared = prepared_of(manifest["area"], study, data, runs, strict)
    same_data(manifest, prepared)
    return loaded, prepared


@click.command(short_help="Check a release: every byte, and what it answers.")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path),
              help="Also check that it was made with this dataset and its split.")  # fmt: skip
@runs_option
@json_option
def verify(release: Path, data: Path | None, runs: Path, as_json: bool) -> None:
    """Check a release: every byte, its schema, its weights, and its answer to a stored question."""
    from dataclasses import replace

    from mura_tune.release.inspection import inspect

    found = inspect(release)
    if data:
        _with_data(release, data, runs, "cpu", strict=False)
        found = replace(found, data=True)
    console.report(as_json, found.to_json, found.describe)
