"""Verbs that read a study with a release."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mura_tune import console
from mura_tune.cli.options import (
    Number,
    base_url_option,
    device_of,
    device_option,
    json_option,
    releases_option,
    tell_changes,
)

if TYPE_CHECKING:
    import torch

    from mura_tune.reading.answers import StudyAnswer
    from mura_tune.reading.locate import FindRelease
    from mura_tune.reading.readers import Predictor, Reader, Router


images_option = click.option(
    "--image",
    "images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A view of the study; repeat for more.",
)
area_option = click.option("--area", help="What the study shows, such as XR_WRIST.")
release_option = click.option(
    "--release",
    help="The release's folder or its URL, or a checkpoint AREA_FINAL_best.pt.  "
    "[default: RELEASES/AREA, else BASE_URL/AREA]",
)


@click.command(short_help="Give a study's probability of being abnormal.")
@click.argument("studies", required=False, type=click.Path(path_type=Path))
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A view of one study; repeat for more.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="answers.csv",
    show_default=True,
    help="For STUDIES: the .csv or .json to write, or to go on with.",
)
@area_option
@release_option
@releases_option
@base_url_option
@click.option("--threshold", type=Number(0, 1), help="In place of the release's own.")
@device_option
@json_option
def infer(
    studies: Path | None,
    images: tuple[Path, ...],
    out: Path,
    area: str | None,
    release: str | None,
    releases: Path,
    base_url: str | None,
    threshold: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Give a study's probability of being abnormal, from all of its views.

    One study by its --image files; or STUDIES, a folder whose folders with images are studies, or a
    .csv with a column path (and perhaps area, patient, study). They get a row each in --out, and
    are marked there if a view is unreadable. The same line goes on with what is missing or has
    changed, by the bytes of the files; rows of studies that are gone go, those of other folders
    stay. The last columns, files and source, say which files and which STUDIES a row is of.

    AREA `auto` asks the router in RELEASES which area a study shows, then that area's release (or,
    where that is missing, the one for ALL or multitask); where the router is not sure it abstains.
    AREA `router` gives the area alone.
    """
    from mura_tune import files
    from mura_tune.areas import ROUTER
    from mura_tune.errors import InputError
    from mura_tune.reading.locate import locate_release, release_finder

    if bool(studies) == bool(images):
        raise click.UsageError("name the study's views by --image, or a folder or table of STUDIES")
    if area == "auto":
        _only_auto(release)
    if area == ROUTER and threshold is not None:
        raise InputError("--threshold is of a probability of abnormal: a router has none")
    if studies:
        files.check_writable(out)
    find = release_finder(releases, base_url, console.print_note)
    folder = (
        None
        if area == "auto"
        else locate_release(release, area, releases, base_url, console.print_note)
    )
    if studies:
        from mura_tune.reading.batch import answer_all
        from mura_tune.reading.studies import find_studies

        study_files = find_studies(studies, console.print_note)
        reader = _reader(folder, area, find, device_of(device), threshold)
        summary = answer_all(reader, study_files, studies, out, console.print_note)
        console.print_report(as_json, lambda: asdict(summary), summary.describe)
        return
    answer = _reader(folder, area, find, device_of(device), threshold).predict(images)
    console.print_report(as_json, answer.to_json, lambda: str(answer))


def _reader(
    folder: Path | None,
    area: str | None,
    find: FindRelease,
    device: torch.device,
    threshold: float | None = None,
) -> Reader[StudyAnswer]:
    """The reader of a release's folder; without a folder, the router with every area's release."""
    from mura_tune.reading.readers import RoutedReader

    if folder is None:
        routed = RoutedReader(find, device, threshold)
        tell_changes(routed.router.release)
        return routed
    return _release_reader(folder, area, device, threshold)


def _release_reader(
    folder: Path, area: str | None, device: torch.device, threshold: float | None = None
) -> Predictor | Router:
    from mura_tune.areas import ROUTER
    from mura_tune.reading.readers import Predictor, Router

    if area == ROUTER:
        reader: Predictor | Router = Router(folder, device)
    else:
        reader = Predictor(folder, device, area, threshold)
    tell_changes(reader.release)
    return reader


@click.command(short_help="Draw where each view of a study speaks for abnormal.")
@images_option
@area_option
@release_option
@releases_option
@base_url_option
@click.option(
    "--out",
    default="explanation.png",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The picture to write.",
)
@click.option(
    "--deletion",
    is_flag=True,
    help="Also measure how the probability falls without the map's pixels.",
)
@device_option
@json_option
def explain(
    images: tuple[Path, ...],
    area: str | None,
    release: str | None,
    releases: Path,
    base_url: str | None,
    out: Path,
    deletion: bool,
    device: str,
    as_json: bool,
) -> None:
    """Draw where each view of a study speaks for abnormal: Grad-CAM beside the radiograph.

    AREA `auto` asks the router which area it is, as `infer` does, and explains with that area's
    release; AREA `router` draws where each view speaks for the area that it is taken for.

    With --deletion each view has two areas under its probability while pixels go (deletion, low if
    the map is right) or come (insertion, high if it is right), each beside that of a random order.
    """
    from mura_tune.errors import InputError
    from mura_tune.reading.explain import check_drawable, explain_study
    from mura_tune.reading.locate import locate_release, release_finder
    from mura_tune.reading.readers import RoutedReader

    check_drawable(out)
    if out.resolve() in [image.resolve() for image in images]:
        raise InputError(f"{out}: is one of the images; name another place")
    reader: Predictor | Router
    if area == "auto":
        _only_auto(release)
        routed = RoutedReader(
            release_finder(releases, base_url, console.print_note), device_of(device)
        )
        route = routed.router.predict(images)
        if route.abstain:
            console.print_report(as_json, route.to_json, lambda: str(route))
            return
        reader, fallback = routed.release_of(route.area)
        console.print_note(route.brief())
        if fallback:
            console.print_note(fallback)
        tell_changes(reader.release)
    else:
        folder = locate_release(release, area, releases, base_url, console.print_note)
        reader = _release_reader(folder, area, device_of(device))
    explanation = explain_study(reader, images, deletion=deletion)
    explanation.save(out)
    console.print_report(
        as_json,
        lambda: explanation.to_json() | {"out": str(out)},
        lambda: f"{explanation}\n{out}: each view beside its map",
    )


def _only_auto(release: str | None) -> None:
    from mura_tune.errors import InputError

    if release:
        raise InputError("--area auto chooses the release: leave --release out")
