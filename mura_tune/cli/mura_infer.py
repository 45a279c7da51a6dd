"""`mura-infer`: one study in; `area=`, `prob_fracture=` and `pred=` out, as old scripts read it."""

from __future__ import annotations

from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import Number


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--image",
    "images",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A view of the study; repeat for more.",
)
@click.option("--area", required=True, help="What the study shows, such as XR_WRIST.")
@click.option(
    "--release",
    "--ckpt",
    "release",
    help="A release's folder or its URL, or a checkpoint AREA_FINAL_best.pt.  "
    "[default: RELEASES/AREA, else BASE_URL/AREA]",
)
@click.option(
    "--releases",
    envvar="MURA_RELEASES",
    show_envvar=True,
    default="releases",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where releases lie.",
)
@click.option(
    "--base-url",
    envvar="MURA_BASE_URL",
    show_envvar=True,
    help="Where releases that are not here are fetched from, by name.",
)
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
