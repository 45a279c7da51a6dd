"""Verbs that read a study with a release."""

from __future__ import annotations

from collections.abc import Callable
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

    from mura_tune.reading.predictor import Prediction, Predictor
    from mura_tune.reading.readers import Reader
    from mura_tune.reading.router import Chained, Route


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
    from mura_tune.reading.locate import place, shelf

    if bool(studies) == bool(images):
        raise click.UsageError("name the study's views by --image, or a folder or table of STUDIES")
    if area == "auto":
        _only_auto(release)
    if area == ROUTER and threshold is not None:
        raise InputError("--threshold is of a probability of abnormal: a router has none")
    if studies:
        files.check_writable(out)
    find = shelf(releases, base_url, console.print_note)
    folder = (
        None if area == "auto" else place(release, area, releases, base_url, console.print_note)
    )
    if studies:
        from mura_tune.reading.batch import answer_all
        from mura_tune.reading.studies import studies_in

        asked = studies_in(studies, console.print_note)
        reader = _reader(folder, area, find, device_of(device), threshold)
        done = answer_all(reader, asked, studies, out, console.print_note)
        console.print_report(as_json, lambda: asdict(done), done.describe)
        return
    found: Chained | Route | Prediction
    if folder is None:
        from mura_tune.reading.router import chained

        found = chained(find, images, device_of(device), threshold)
    elif area == ROUTER:
        from mura_tune.reading.router import Router

        router = Router(folder, device_of(device))
        tell_changes(router.bundle)
        found = router.study(images)
    else:
        found = _predictor(folder, area, device_of(device)).study(images, threshold)
    console.print_report(as_json, found.to_json, found.describe)


def _reader(
    folder: Path | None,
    area: str | None,
    find: Callable[[str], Path],
    device: torch.device,
    threshold: float | None,
) -> Reader:
    """What answers many studies: a release, a router, or (no folder) the one after the other."""
    from mura_tune.areas import ROUTER
    from mura_tune.reading.readers import Chain, Parts, Single
    from mura_tune.reading.router import Router

    if folder is None:
        chain = Chain(find, device, threshold)
        for line in chain.told:
            console.print_note(line)
        tell_changes(chain.router.bundle)
        return chain
    if area == ROUTER:
        router = Router(folder, device)
        tell_changes(router.bundle)
        return Parts(router)
    return Single(_predictor(folder, area, device), threshold)


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
    from mura_tune.areas import ROUTER
    from mura_tune.errors import InputError
    from mura_tune.reading.explain import drawable
    from mura_tune.reading.explain import explain as look
    from mura_tune.reading.locate import place, shelf
    from mura_tune.reading.router import Router, routed

    drawable(out)
    if out.resolve() in [image.resolve() for image in images]:
        raise InputError(f"{out}: is one of the images; name another place")
    if area == "auto":
        _only_auto(release)
        find = shelf(releases, base_url, console.print_note)
        route, routed_to, fallback = routed(find, images, device_of(device))
        if routed_to is None:
            console.print_report(as_json, route.to_json, route.describe)
            return
        console.print_note(route.brief())
        area, folder = route.area, routed_to
        if fallback:
            console.print_note(fallback)
    else:
        folder = place(release, area, releases, base_url, console.print_note)
    reader = (
        Router(folder, device_of(device))
        if area == ROUTER
        else _predictor(folder, area, device_of(device))
    )
    found = look(reader, images, deletion=deletion)
    found.save(out)
    console.print_report(
        as_json,
        lambda: found.to_json() | {"out": str(out)},
        lambda: f"{found.describe()}\n{out}: each view beside its map",
    )


def _only_auto(release: str | None) -> None:
    from mura_tune.errors import InputError

    if release:
        raise InputError("--area auto chooses the release: leave --release out")


def _predictor(folder: Path, area: str | None, device: torch.device) -> Predictor:
    from mura_tune.reading.predictor import Predictor

    predictor = Predictor(folder, device, area)
    tell_changes(predictor.bundle)
    return predictor
