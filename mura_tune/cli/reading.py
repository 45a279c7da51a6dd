"""Verbs that read a study with a release."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    device_of,
    device_option,
    json_option,
    releases_option,
)


@click.command()
@click.option("--image", "images", multiple=True, required=True, type=click.Path(path_type=Path),
              help="A view of the study; repeat for more.")  # fmt: skip
@click.option("--area", help="What the study shows, such as XR_WRIST.")
@click.option("--release", type=click.Path(path_type=Path),
              help="The release's folder.  [default: RELEASES/AREA]")  # fmt: skip
@releases_option
@click.option("--threshold", type=click.FloatRange(0, 1), help="In place of the release's own.")
@device_option
@json_option
def infer(
    images: tuple[Path, ...], area: str | None, release: Path | None, releases: Path,
    threshold: float | None, device: str, as_json: bool,
) -> None:  # fmt: skip
    """Give one study's probability of being abnormal, from all of its views."""
    from mura_tune.reading.predict import Predictor

    if not release and not area:
        raise click.UsageError("name the --area, or the --release")
    predictor = Predictor(release or releases / str(area), device_of(device), area)
    answer = predictor.study(images, threshold)
    console.report(as_json, answer.to_json, answer.describe)
