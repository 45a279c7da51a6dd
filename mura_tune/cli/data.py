"""Verbs about radiographs: draw, check, decode them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from mura_tune import console
from mura_tune.cli.options import (
    data_option,
    json_option,
    runs_option,
    set_option,
    strict_option,
)
from mura_tune.text import shell_command


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--area", "areas", multiple=True, help="Only this area; repeat for more.")
@click.option("--patients", default=60, show_default=True, help="Training patients an area.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other radiographs.")
@click.option("--size", default=512, show_default=True, help="Longer side in pixels.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Also draw a contact sheet here.")
def phantom(
    out: Path, areas: tuple[str, ...], patients: int, seed: int, size: int, sheet: Path | None
) -> None:
    """Draw synthetic radiographs in MURA's layout into the folder OUT."""
    from mura_tune.api.data import draw_phantoms
    from mura_tune.areas import AREAS

    chosen = areas or AREAS
    draw_phantoms(out, areas=chosen, patients=patients, seed=seed, size=size, sheet=sheet)
    areas_drawn = "1 area" if len(chosen) == 1 else f"{len(chosen)} areas"
    click.echo(f"{out}: radiographs of {areas_drawn} in MURA's layout")
    if sheet:
        click.echo(f"{sheet}: a contact sheet of them")
    click.echo(f"next: {shell_command('mura', 'tune', chosen[0], '--data', out)}")


@click.command()
@data_option
@click.option("--index-only", is_flag=True, help="Read the CSVs alone, no image.")
@strict_option
@json_option
def check(data: Path, index_only: bool, strict: bool, as_json: bool) -> None:
    """Count what a dataset holds and name what is wrong with it."""
    from mura_tune.api.data import check_data, refuse_useless_images

    audit = check_data(data, index_only=index_only)
    console.print_report(as_json, audit.to_json, audit.summary)
    if strict:
        refuse_useless_images(audit, data)


@click.command()
@click.argument("area")
@data_option
@runs_option
@click.option(
    "--push",
    metavar="URL",
    help="Also write the cache there, for `mura tune --cache URL` on machines without the "
    "dataset: a folder, s3://… or gs://….",
)
@set_option
@strict_option
@json_option
def cache(
    area: str,
    data: Path,
    runs: Path,
    push: str | None,
    overrides: tuple[str, ...],
    strict: bool,
    as_json: bool,
) -> None:
    """Decode an area's images once, at the size its search trains on. `tune` does it by itself.

    A cache that is pushed holds the decoded images of AREA, and its index: the paths, patients,
    studies, labels and splits, as the dataset has them. Guard it as you guard the dataset.
    """
    from mura_tune.api.data import cache_area
    from mura_tune.config import load_config

    config = load_config(area, overrides)
    cached = cache_area(config, data=data, runs=runs, strict=strict, push=push)
    console.print_report(as_json, lambda: asdict(cached), lambda: str(cached))
    if cached.pushed and not as_json:
        click.echo(f"{cached.pushed.url}: {cached.pushed.bytes / 1e6:,.1f} MB")
        pinned = f"{push}#sha256={cached.pushed.sha256}"
        values = (f"--set={override}" for override in overrides)  # another size is another cache
        click.echo(f"next: {shell_command('mura', 'tune', area, '--cache', pinned, *values)}")
