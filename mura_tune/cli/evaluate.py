"""Verbs that hold a release against data: measure it, compare, report, verify it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mura_tune import console
from mura_tune.cli.options import (
    base_url_option,
    data_option,
    device_of,
    device_option,
    json_option,
    prepared_of,
    release_at,
    release_option,
    releases_option,
    runs_option,
    strict_option,
    tell_changes,
)

if TYPE_CHECKING:
    from mura_tune.data.prepare import Prepared
    from mura_tune.release.release import Release
    from mura_tune.release.two_stage import TwoStageEvaluation


@click.command(short_help="Measure a release on studies that no search has read.")
@click.option("--release", help="Its folder, its URL, or its name under BASE_URL.")
@click.option("--routed", is_flag=True, help="Measure the router and every area's release as one.")
@base_url_option
@data_option
@runs_option
@releases_option
@device_option
@strict_option
@click.option(
    "--layout",
    type=click.Choice(["mura", "folders"]),
    default="mura",
    show_default=True,
    help="folders: an external set, {train,val,test}/{fractured,not fractured}.",
)
@json_option
def evaluate(
    release: str | None,
    routed: bool,
    base_url: str | None,
    data: Path,
    runs: Path,
    releases: Path,
    device: str,
    strict: bool,
    layout: str,
    as_json: bool,
) -> None:
    """Measure a release on the published `valid` studies, which no search has read.

    --routed measures what `infer --area auto` does: the AUC over all areas where each study is
    answered by the release of its area, and of the area that the router names, and the difference.

    An external set (--layout folders) is measured whole, by picture with its copies, turned and
    mirrored ones too, and by image; pictures that the release was trained on are told.
    """
    from mura_tune.reading.locate import release_finder
    from mura_tune.release.release_tasks import release_task

    if routed == bool(release):
        raise click.UsageError("name one --release, or write --routed")
    if release is None:
        find = release_finder(releases, base_url, console.print_note)
        found = _routes(find, data, runs, device, strict)
        console.print_report(as_json, found.to_json, found.describe)
        return
    folder = release_at(release, base_url)
    if layout == "folders":
        from mura_tune.release.external import evaluate_external
        from mura_tune.release.release import load_release

        outside = evaluate_external(
            load_release(folder, device_of(device)), data, runs / "cache", strict=strict
        )
        console.print_report(as_json, outside.to_json, outside.describe)
        return
    loaded, prepared = _with_data(folder, data, runs, device, strict)
    area, own_task = loaded.manifest.area, release_task(loaded.manifest.task)
    measured = own_task.evaluate_release(loaded, prepared)
    console.print_report(as_json, lambda: {"area": area, **measured.to_json()}, measured.describe)


@click.command(short_help="Say by how much one release beats another, and how surely.")
@click.argument("first")
@click.argument("second")
@base_url_option
@data_option
@runs_option
@device_option
@strict_option
@json_option
def compare(
    first: str,
    second: str,
    base_url: str | None,
    data: Path,
    runs: Path,
    device: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Say by how much the release FIRST beats SECOND on the same test studies, and how surely.

    Each is a folder, a URL, or a name under BASE_URL.
    """
    from mura_tune.errors import InputError
    from mura_tune.release.release_tasks import release_task

    tasks, areas, evaluations = [], [], []
    for name in (first, second):
        loaded, prepared = _with_data(release_at(name, base_url), data, runs, device, strict)
        own_task = release_task(loaded.manifest.task)
        tasks.append(own_task)
        areas.append(loaded.manifest.area)
        if not own_task.is_comparable(tasks[0]):
            raise InputError(
                f"{first} is for {areas[0]} and {second} for {areas[1]}: one tells "
                "areas apart and one what is abnormal; name two of one kind"
            )
        evaluations.append(own_task.evaluate_release(loaded, prepared))
    area = " and ".join(dict.fromkeys(areas))
    comparison = tasks[0].compare(area, (first, second), *evaluations)
    console.print_report(as_json, comparison.to_json, comparison.describe)


@click.command(short_help="Write a release's report.html again.")
@release_option
@base_url_option
@data_option
@runs_option
@device_option
@strict_option
@click.option(
    "--cases",
    type=click.IntRange(0, 24),
    default=6,
    show_default=True,
    help="Studies shown of each kind of error; 0: no radiographs.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the page there, and leave the release as it is.",
)
@json_option
def report(
    release: str,
    base_url: str | None,
    data: Path,
    runs: Path,
    device: str,
    strict: bool,
    cases: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write a release's report.html again, and index.html and RESULTS.md beside the releases.

    `finalize` writes them too. A release that was fetched stays as it is: name the page by --out.
    The page shows radiographs of the test split: whether it may be passed on is for the dataset's
    licence to say.
    """
    from mura_tune import files
    from mura_tune.errors import InputError
    from mura_tune.reading.fetch import is_fetched
    from mura_tune.release.release import add_files
    from mura_tune.release.release_tasks import release_task
    from mura_tune.release_format.folder import check_place
    from mura_tune.release_format.manifest import REPORT
    from mura_tune.report import index

    folder = release_at(release, base_url)
    if not out and is_fetched(folder):
        raise InputError(
            f"{release}: fetched, and stays as it was fetched; name a file for the "
            "page by --out report.html"
        )
    if not out and folder.is_dir():
        check_place(folder)
    files.check_writable(out or folder.parent / f".{folder.name}.new")
    loaded, prepared = _with_data(folder, data, runs, device, strict)
    own_task = release_task(loaded.manifest.task)
    test = own_task.evaluate_release(loaded, prepared)
    html = own_task.render_report(loaded.net, loaded.manifest, prepared, test=test, cases=cases)
    content = html.encode("utf-8", "backslashreplace")
    if out:
        files.replace_file(out, content)
    else:
        add_files(folder, {REPORT: html})
        index.write_index(folder.parent, console.print_note)
    place = str(out or folder / REPORT)
    plain = {"report": place, "bytes": len(content)}
    console.print_report(as_json, lambda: plain, lambda: place)


def _routes(
    find: Callable[[str], Path], data: Path, runs: Path, device: str, strict: bool
) -> TwoStageEvaluation:
    from dataclasses import replace

    from mura_tune.areas import ROUTER
    from mura_tune.reading.locate import release_for
    from mura_tune.release.two_stage import evaluate_two_stages
    from mura_tune.training.batches import Split, load_split

    folder = find(ROUTER)
    router, _ = _with_data(folder, data, runs, device, strict)
    _require_kind(router, router=True)
    study = router.manifest.search.read_config(folder)
    places = {area: release_for(find, area) for area in router.manifest.areas}
    opened = {
        folder: _with_data(folder, data, runs, device, strict)[0]
        for folder in dict.fromkeys(folder for folder, _ in places.values())
    }
    for one in opened.values():
        _require_kind(one, router=False)
    splits: dict[int, Split] = {}

    def split_at(size: int) -> Split:
        if size not in splits:
            own = replace(study, recipe=replace(study.recipe, size=size))
            prepared = prepared_of(ROUTER, own, data, runs, strict)
            splits[size] = load_split(prepared, "test", device_of(device))
        return splits[size]

    told = tuple(line for _, line in places.values() if line)
    return evaluate_two_stages(
        router, {a: opened[f] for a, (f, _) in places.items()}, told, split_at
    )


def _require_kind(release: Release, *, router: bool) -> None:
    """Refuse a release that has a router's name and is none, or is one under an area's name."""
    from mura_tune.errors import InputError
    from mura_tune.release_format.manifest import RouterManifest

    if isinstance(release.manifest, RouterManifest) != router:
        wanted = "a router" if router else "a release that tells what is abnormal"
        raise InputError(
            f"{release.folder}: of task {release.manifest.task}, where {wanted} "
            "is needed; put the right release there"
        )


def _with_data(
    release: Path, data: Path, runs: Path, device: str, strict: bool
) -> tuple[Release, Prepared]:
    """A release and the data it was made with, prepared at its size and divided its way."""
    from mura_tune.evaluation.evaluate import check_same_data
    from mura_tune.release.release import load_release
    from mura_tune.release_format.manifest import MANIFEST

    loaded = load_release(release, device_of(device))
    manifest = loaded.manifest
    manifest.require(release / MANIFEST, "study.config", "data.fingerprint")
    tell_changes(loaded)
    study = manifest.search.read_config(release / MANIFEST)
    prepared = prepared_of(manifest.area, study, data, runs, strict)
    check_same_data(release, manifest.data, prepared)
    return loaded, prepared


@click.command(short_help="Check a release: every byte, and what it answers.")
@click.argument("release")
@base_url_option
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Also check that it was made with this dataset and its split.",
)
@runs_option
@json_option
def verify(
    release: str, base_url: str | None, data: Path | None, runs: Path, as_json: bool
) -> None:
    """Check a release: every byte, its schema, its weights, and its answer to a stored question.

    RELEASE is a folder, a URL, or a name under BASE_URL.
    """
    from dataclasses import replace

    from mura_tune.release.verify import inspect_release

    folder = release_at(release, base_url)
    found = inspect_release(folder)
    if data:
        _with_data(folder, data, runs, "cpu", strict=False)
        found = replace(found, data=True)
    console.print_report(as_json, found.to_json, found.describe)
