"""`mura-infer`: one study in; `area=`, `prob_fracture=` and `pred=` out, as old scripts read it."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import Number, base_url_option, releases_option
from mura_tune.cli.reading import images_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@images_option
@click.option("--area", required=True, help="What the study shows, such as XR_WRIST.")
@click.option(
    "--release",
    "--ckpt",
    "release",
    help="A release's folder or its URL, or a checkpoint AREA_FINAL_best.pt.  "
    "[default: RELEASES/AREA, else BASE_URL/AREA]",
)
@releases_option
@base_url_option
@click.option("--threshold", type=Number(0, 1), help="In place of the release's own.")
def infer(
    images: tuple[Path, ...],
    area: str,
    release: str | None,
    releases: Path,
    base_url: str | None,
    threshold: float | None,
) -> None:
    """Print one study's answer, a line each: area, prob_fracture, pred (1 = abnormal).

    The second name is kept for old scripts; it is the probability of *abnormal*, MURA's label.
    """
    import torch

    from mura_tune.reading.locate import locate_release
    from mura_tune.reading.readers import Predictor

    folder = locate_release(release, area, releases, base_url, console.print_note)
    answer = Predictor(folder, torch.device("cpu"), area, threshold).predict(images)
    click.echo(f"area={answer.area}")
    click.echo(f"prob_fracture={answer.probability:.6f}")
    click.echo(f"pred={int(answer.abnormal)}")


def main() -> None:
    """The `mura-infer` command."""
    console.run_command(infer, "mura-infer")
