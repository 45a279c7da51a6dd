"""Verbs that read a study with a release."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mura_tune import console
from mura_tune.cli.options import (
    base_url_option,
    device_of,
    device_option,
    json_option,
    releases_option,
)
from mura_tune.reading.places import place

if TYPE_CHECKING:
    from mura_tune.reading.predict import Predictor


images_option = click.option(
    "--image", "images", multiple=True, required=True, type=click.Path(path_type=Path),
    help="A view of the study; repeat for more.",
)  # fmt: skip
area_option = click.option("--area", help="What the study shows, such as XR_WRIST.")
release_option = click.option(
    "--release",
    help="The release's folder or its URL, or a checkpoint AREA_FINAL_best.pt.  "
    "[default: RELEASES/AREA, else BASE_URL/AREA]",
)  # fmt: skip


@click.command(short_help="Give a study's probability of being abnormal.")
@click.argument("studies", required=False, type=click.Path(path_type=Path))
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path),
              help="A view of one study; repeat for more.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default="answers.csv", show_default=True,
              help="For STUDIES: the .csv or .json to write, or to go on with.")  # fmt: skip
@area_option
@release_option
@releases_option
@base_url_option
@click.option("--threshold", type=click.FloatRange(0, 1), help="In place of the release's own.")
@device_option
@json_option
def infer(
    studies: Path | None, images: tuple[Path, ...], out: Path, area: str | None,
    release: str | None, releases: Path, base_url: str | None, threshold: float | None,
    device: str, as_json: bool,
) -> None:  # fmt: skip
    """Give a study's probability of being abnormal, from all of its views.

    One study by its --image files; or STUDIES, a folder whose folders with images are studies, or a
    .csv with the columns path and study. They get a row each in --out, and are marked there if a
    view is unreadable; the same line goes on with what is missing.

    AREA `auto` asks the router in RELEASES which area a study's --image files show, then that
    area's release (or, where that is missing, the one for ALL or multitask); where the router is
    not sure it abstains. AREA `router` gives the area alone.
    """
    from mura_tune.areas import ROUTER

    if bool(studies) == bool(images):
        raise click.UsageError("name the study's views by --image, or a folder or table of STUDIES")
    if studies and area in ("auto", ROUTER):
        raise click.UsageError(f"--area {area} takes one study, by its --image files")
    if area == "auto":
        if release:
            raise click.UsageError("--area auto chooses the release: leave --release out")
        from mura_tune.reading.route import chained

        routed = chained(releases, images, device_of(device), threshold)
        console.report(as_json, routed.to_json, routed.describe)
        return
    folder = place(release, area, releases, base_url, console.note)
    if area == ROUTER:
        if threshold is not None:
            raise click.UsageError("--threshold is of a probability of abnormal: a router has none")
        from mura_tune.reading.route import Router

        route = Router(folder, device_of(device)).study(images)
        console.report(as_json, route.to_json, route.describe)
        return
    if studies:
        from mura_tune.reading.batch import answer_all
        from mura_tune.reading.studies import studies_in

        asked = studies_in(studies)
        done = answer_all(_predictor(folder, area, device), asked, out, console.note, threshold)
        console.report(as_json, lambda: asdict(done), done.describe)
        return
    answer = _predictor(folder, area, device).study(images, threshold)
    console.report(as_json, answer.to_json, answer.describe)


@click.command(short_help="Draw where each view of a study speaks for abnormal.")
@images_option
@area_option
@release_option
@releases_option
@base_url_option
@click.option("--out", default="explanation.png", show_default=True,
              type=click.Path(path_type=Path), help="The picture to write.")  # fmt: skip
@click.option("--deletion", is_flag=True,
              help="Also measure how the probability falls without the map's pixels.")  # fmt: skip
@device_option
@json_option
def explain(
    images: tuple[Path, ...], area: str | None, release: str | None, releases: Path,
    base_url: str | None, out: Path, deletion: bool, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Draw where each view of a study speaks for abnormal: Grad-CAM beside the radiograph.

    With --deletion each view has two areas under its probability while pixels go (deletion, low if
    the map is right) or come (insertion, high if it is right), each beside that of a random order.
    """
    from mura_tune.reading.explain import explain as look

    folder = place(release, area, releases, base_url, console.note)
    found = look(_predictor(folder, area, device), images, deletion=deletion)
    found.save(out)
    console.report(as_json, lambda: found.to_json() | {"out": str(out)},
                   lambda: f"{found.describe()}\n{out}: each view beside its map")  # fmt: skip


def _predictor(folder: Path, area: str | None, device: str) -> Predictor:
    from mura_tune.reading.predict import Predictor

    return Predictor(folder, device_of(device), area)
