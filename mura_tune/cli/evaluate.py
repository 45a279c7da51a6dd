"""Verbs that hold a release against data: measure it, compare, report, verify it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mura_tune import console
from mura_tune.cli.options import (
    base_url_option,
    by_option,
    corrections_option,
    data_option,
    device_option,
    groups_option,
    json_option,
    release_option,
    releases_option,
    runs_option,
    strict_option,
)


@click.command()
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
@by_option
@groups_option
@corrections_option
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
    by: tuple[str, ...],
    groups: Path | None,
    corrections: Path | None,
    as_json: bool,
) -> None:
    """Measure a release on the test studies of its dataset, which no search has read.

    They are the published `valid` studies, or, where none are published, those of a fifth of the
    patients.

    --routed measures what `infer --area auto` does: the AUC over all areas where each study is
    answered by the release of its area, and of the area that the router names, and the difference.

    An external set (--layout folders) is measured whole, by picture with its copies, turned and
    mirrored ones too, and by image; pictures that the release was trained on are told.

    --by measures groups of the test studies, such as those of one sex or manufacturer, each against
    the rest: ages by decades, other numbers by quartiles. A group with too few patients of a class
    says nothing of it.
    """
    from mura_tune.api import evaluate as api

    if routed == bool(release):
        raise click.UsageError("name one --release, or write --routed")
    if (by or groups or corrections) and (routed or layout == "folders"):
        raise click.UsageError("--by, --groups and --corrections go with a --release on test alone")
    places: dict[str, Any] = {"data": data, "runs": runs, "base_url": base_url}
    places |= {"device": device, "strict": strict}
    if release is None:
        two_stage = api.evaluate_routed(releases=releases, **places)
        console.print_report(as_json, two_stage.to_json, two_stage.describe)
    elif layout == "folders":
        external = api.evaluate_folders(release, **places)
        console.print_report(as_json, external.to_json, external.describe)
    else:
        evaluation = api.evaluate(release, by=by, groups=groups, corrections=corrections, **places)
        console.print_report(as_json, evaluation.to_json, lambda: str(evaluation))


@click.command()
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
    from mura_tune.api import evaluate as api

    comparison = api.compare(
        first, second, data=data, runs=runs, base_url=base_url, device=device, strict=strict
    )
    console.print_report(as_json, comparison.to_json, comparison.describe)


@click.command()
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
@by_option
@groups_option
@corrections_option
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
    by: tuple[str, ...],
    groups: Path | None,
    corrections: Path | None,
    as_json: bool,
) -> None:
    """Write a release's report.html again, and index.html and RESULTS.md beside the releases.

    `finalize` writes them too. A release that was fetched stays as it is: name the page by --out.
    The page shows radiographs of the test split: whether it may be passed on is for the dataset's
    licence to say.
    """
    from mura_tune.api.evaluate import write_report

    written = write_report(
        release,
        out,
        cases=cases,
        data=data,
        runs=runs,
        base_url=base_url,
        device=device,
        strict=strict,
        by=by,
        groups=groups,
        corrections=corrections,
    )
    console.print_report(as_json, written.to_json, lambda: str(written))


@click.command()
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
    from mura_tune.api import evaluate as api

    inspection = api.verify(release, data=data, runs=runs, base_url=base_url)
    console.print_report(as_json, inspection.to_json, inspection.describe)
