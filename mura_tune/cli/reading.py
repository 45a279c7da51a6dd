"""Verbs that read a study with a release."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    Number,
    base_url_option,
    device_option,
    json_option,
    releases_option,
)

images_option = click.option(
    "--image",
    "images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A view of the study; repeat for more.",
)
area_option = click.option(
    "--area",
    help="What the study shows, such as XR_WRIST.  [default, without --release: what the headers "
    "of DICOM files name]",
)
answering_release_option = click.option(
    "--release",
    help="The release's folder or its URL, or a checkpoint AREA_FINAL_best.pt.  "
    "[default: RELEASES/AREA, else BASE_URL/AREA]",
)


@click.command()
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
@click.option(
    "--dicom-out",
    type=click.Path(path_type=Path),
    help="For studies of DICOM files: the folder for DICOM objects that an archive takes.",
)
@area_option
@answering_release_option
@releases_option
@base_url_option
@click.option("--threshold", type=Number(0, 1), help="In place of the release's own.")
@device_option
@json_option
def infer(
    studies: Path | None,
    images: tuple[Path, ...],
    out: Path,
    dicom_out: Path | None,
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
    where that is missing, pooled or multitask); where the router is not sure it abstains. AREA
    `router` gives the area alone.

    With --dicom-out each answered study gets, in DIR/StudyInstanceUID, a structured report (SR)
    and of each view the heatmap as a Secondary Capture (SC) and as outlines (GSPS), in new series
    of the same study. The same line writes what is missing.
    """
    from mura_tune.api.reading import ReaderChoice, answer_studies, answer_study

    if bool(studies) == bool(images):
        raise click.UsageError("name the study's views by --image, or a folder or table of STUDIES")
    choice = ReaderChoice(area, release, releases, base_url, device, threshold)
    if studies:
        summary = answer_studies(choice, studies, out, dicom_out)
        console.print_report(as_json, lambda: asdict(summary), summary.describe)
        return
    answer = answer_study(choice, images, dicom_out)
    console.print_report(as_json, answer.to_json, lambda: str(answer))


@click.command()
@images_option
@area_option
@answering_release_option
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
    from mura_tune.api.reading import ReaderChoice, draw_explanation

    choice = ReaderChoice(area, release, releases, base_url, device)
    drawn = draw_explanation(choice, images, out, deletion=deletion)
    console.print_report(as_json, drawn.to_json, lambda: str(drawn))


@click.command()
@click.option(
    "--release",
    help="The release that answers: its folder, its URL, or its name under BASE_URL.  "
    "[default: all in RELEASES, with the router]",
)
@releases_option
@base_url_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen: a name or address of this machine; 127.0.0.1 is for this machine alone.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="0 = a free one."
)
@click.option(
    "--public-url",
    default="",
    metavar="URL",
    help="What browsers open where a proxy passes requests on, such as https://HOST/room.",
)
@click.option("--open", "in_browser", is_flag=True, help="Open the page in this machine's browser.")
@device_option
def read(
    release: str | None,
    releases: Path,
    base_url: str | None,
    host: str,
    port: int,
    public_url: str,
    in_browser: bool,
    device: str,
) -> None:
    """Serve the reading room: a page that reads the studies you drop there.

    Drop image files, DICOM files or folders. Each study gets its calibrated probability and a call
    in words; its views are shown with window, level, zoom and a map of the evidence. Files stay in
    this process's memory, and go with it. Whoever has the printed address, with its token, can
    read there; each browser has a list of its own.
    """
    from mura_tune.api.room import serve_room

    def tell(url: str) -> None:
        click.echo(f"reading room at {url}")
        if in_browser:
            click.launch(url)

    serve_room(
        release,
        releases=releases,
        base_url=base_url,
        device=device,
        host=host,
        port=port,
        public_url=public_url,
        ready=tell,
    )
